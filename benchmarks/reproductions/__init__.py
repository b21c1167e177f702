"""Findings of Bereska et al. 2025 (arXiv 2512.13568), measured anew with geoprobe.

Each module has `reproduce(...)`, which takes sizes and returns what was measured, and prints its
figures beside the published ones as `python -m benchmarks.reproductions.NAME [--quick]`.
"""
