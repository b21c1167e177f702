"""Mergeable accumulators over activations (torch), finished into matrices for the measures."""

GROUPS = 8
"""Number of groups of the delete-one-group jackknife; a sequence's group is its index mod 8."""
