"""What users of the trainer can mend."""

from __future__ import annotations


class TrainError(Exception):
    """A run that cannot go on as asked; the text says what, the value, and what to do."""


class TrainWarning(UserWarning):
    """What users of the trainer should know while it goes on; `lvg-train` shows the text alone."""
