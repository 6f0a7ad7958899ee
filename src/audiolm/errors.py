"""Errors that a command shows in words, without a traceback, besides ValueError and OSError."""

import contextlib
import errno
import os
import re
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


_REMEDIES = {
    errno.ENOSPC: "Everything finished before is kept: free some space and run the same command again.",
    errno.EDQUOT: "Everything finished before is kept: free some space and run the same command again.",
    errno.EROFS: "Nothing can be written there: mount it for writing, or choose another folder (--root, RUN=).",
    errno.EACCES: "May you read and write there? Change its permissions, or choose another folder (--root, RUN=).",
    errno.EPERM: "May you read and write there? Change its permissions, or choose another folder (--root, RUN=).",
    errno.EMFILE: "One process may open no more files: raise the limit (`ulimit -n 65536`) and run the same command again.",
    errno.ENFILE: "The machine has no more open files to give: end other programs and run the same command again.",
    errno.EIO: "The disk or the network behind it fails: look at the system's log. The same command goes on afterwards.",
    errno.ESTALE: "The network disk was exchanged meanwhile: mount it again. The same command goes on afterwards.",
    errno.ENOTCONN: "The network disk is away: mount it again. The same command goes on afterwards.",
}
_WORKER_DIED = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (is killed by signal|exited unexpectedly)")


def in_words(error: BaseException) -> str | None:
    """What a user should read of an error that comes from data, files or the machine; None for one of the program's own."""
    if dead := _WORKER_DIED.search(str(error)):
        return (
            f"A process that reads data (process id {dead[1]}) was ended from outside. Most often the machine ran out of "
            "memory and the system chose this one (`dmesg` says so): lower data.init_args.workers, or ask for more memory. "
            "Run the same command again: it continues."
        )
    if _in_worker(error):  # torch hands on a traceback as the message, here what a reading process raised itself
        last = re.split(r"\n(?=[\w.]+(?:Error|Exception|Interrupt): )", str(error))[-1].strip()
        name, _, said = last.partition(": ")
        known = isinstance(error, (ValueError, OSError, TrainingFailedError))
        return (_of_number(said) if name.endswith("OSError") else said) if known else None
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        remedy = _REMEDIES.get(error.errno, "") if error.strerror == os.strerror(error.errno) else ""
        return f"{where}{error.strerror}" + (f". {remedy}" if remedy else "")
    if isinstance(error, (ValueError, OSError, TrainingFailedError)):
        return str(error)
    if type(error).__name__ == "PathError":  # jsonargparse, of the configuration it saves in a stage's folder
        return f"{error}. Choose another folder (--root, RUN=), or make this one writable (a read-only file system?)."
    return _cause_in_words(error)


def _cause_in_words(error: BaseException) -> str | None:
    """Some libraries wrap what the system says: look for it, in what was being handled and in the words."""
    if "received 0 items of ancdata" in str(error):  # how torch's reading processes run out of open files
        return f"{os.strerror(errno.EMFILE)}. {_REMEDIES[errno.EMFILE]}"
    cause: BaseException | None = error
    while cause is not None:
        for number, remedy in _REMEDIES.items():
            if getattr(cause, "errno", None) == number or os.strerror(number) in str(cause):
                return f"{str(cause).splitlines()[0]}. {remedy}"
        cause = cause.__cause__ or cause.__context__
    return None


def _in_worker(error: BaseException) -> bool:
    return str(error).startswith("Caught ") and "DataLoader worker process" in str(error).partition("\n")[0]


def _of_number(said: str) -> str:
    """`[Errno 24] Too many open files: 'x'` with its remedy."""
    number = re.match(r"\[Errno (\d+)\]", said)
    return said + (f". {_REMEDIES[int(number[1])]}" if number and int(number[1]) in _REMEDIES else "")
