"""Errors that a command shows in words, without a traceback, besides ValueError and OSError."""


class TrainingFailedError(RuntimeError):
    """A training run that is going nowhere. The message says how that shows, the likely cause and the remedy."""
