"""Errors that a command shows in words, without a traceback, besides ValueError and OSError."""

import contextlib
from collections.abc import Iterator


class TrainingFailedError(RuntimeError):
    """A training run that is going nowhere. The message says how that shows, the likely cause and the remedy."""


class OutOfMemoryError(TrainingFailedError):
    """The device or the machine has no room for what was asked for. The message says what to reduce."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, in torch's allocator for the CPU, or in Python."""
    import torch

    words = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
    )  # how the CPU's allocator says it; it has no class
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


@contextlib.contextmanager
def out_of_memory_says(remedy: str) -> Iterator[None]:
    """Where the block runs out of memory, on any device, raise an OutOfMemoryError that names the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise OutOfMemoryError(f"Out of memory. {remedy} ({first})") from error
