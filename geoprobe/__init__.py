"""geoprobe: the geometry of neural network representations, measured over checkpoint series."""

__version__ = "0.1.0"
