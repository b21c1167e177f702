"""Sparse autoencoders made runnable: read from other packages' files, trained here, saved."""
