"""geoprobe where people work already: in pytest, and in HF Trainer. Nothing is imported here."""
