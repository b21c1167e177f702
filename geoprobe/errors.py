"""The errors a user can meet: each is one sentence and carries the exit code of the process."""

from __future__ import annotations


class GeoprobeError(Exception):
    """A mistake in what was given, in a sentence: what it was, what is wrong, what to do."""

    exit_code = 2


class UsageError(GeoprobeError):
    """A bad option, or input that is missing or empty (exit code 2)."""

    exit_code = 2


class NotComparableError(GeoprobeError):
    """Two things cannot be compared, or a reading is missing (exit code 3)."""

    exit_code = 3


class CheckpointError(GeoprobeError):
    """A checkpoint could not be measured; the others go on (exit code 4)."""

    exit_code = 4
