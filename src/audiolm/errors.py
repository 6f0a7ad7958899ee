"""Errors that a command shows in words, without a traceback, besides ValueError and OSError."""


class TrainingFailedError(RuntimeError):
    """A training run that is going nowhere. The message says how that shows, the likely cause and the remedy."""


class OutOfMemoryError(TrainingFailedError):
    """A stage needs more memory than there is. The message names the settings that decide how much."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, in torch's allocator for the CPU, or in Python."""
    import torch

    words = ("can't allocate memory", "not enough memory")  # how the CPU's allocator says it; it has no class
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)
