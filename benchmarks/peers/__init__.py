"""Other packages' trainers, run by Pythons that have them; what they pin clashes with ours."""
