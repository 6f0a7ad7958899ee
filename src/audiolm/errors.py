"""Errors that a command shows in words, without a traceback, besides ValueError and OSError."""

import contextlib
from collections.abc import Iterator


class TrainingFailedError(RuntimeError):
    """A training run that is going nowhere. The message says how that shows, the likely cause and the remedy."""


class OutOfMemoryError(RuntimeError):
    """The device or the machine has no room for what was asked for. The message says what to reduce."""


@contextlib.contextmanager
def out_of_memory_says(remedy: str) -> Iterator[None]:
    """Where the block runs out of memory, on any device, raise an OutOfMemoryError that names the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = (type(error).__name__, str(error))
        if not any(sign in " ".join(words) for sign in ("MemoryError", "can't allocate memory", "out of memory")):
            raise
        raise OutOfMemoryError(
            f"Out of memory. {remedy} ({words[1].splitlines()[0] if words[1] else words[0]})"
        ) from error
