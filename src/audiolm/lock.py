"""One run at a time in a folder: a second one is refused by name. A lock goes with its process, however that ends."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

SECONDS_FOR_A_DEAD_NODE = 180.0  # network disks keep a lock for a minute or two
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a disk without locks says


class FolderInUseError(ValueError):
    """Another run works in the folder. The message names it."""


@dataclass(frozen=True)
class Holder:
    """Who works in a folder.

    Attributes:
        what: the command, in words.
        host: the machine.
        pid: process id of the first process there.
        since: when it began, ISO 8601, UTC.
        slurm_job: the SLURM job it belongs to, or "".
    """

    what: str
    host: str
    pid: int
    since: str
    slurm_job: str

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job}" if self.slurm_job else ""
        return f"{self.what}: pid {self.pid} on {self.host} since {self.since}{job}"


def lock_path(folder: Path | str) -> Path:
    """The lock of a folder (or file) stands beside it, so that the folder itself may be moved while it is held."""
    path = Path(os.path.abspath(folder))
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def only_one(folder: Path | str, *, what: str) -> Iterator[None]:
    """Hold the lock of `folder` for the block.

    Args:
        folder: what is written; it need not exist yet.
        what: what is being done there, such as "lightning fit, codec stage".

    Raises:
        FolderInUseError: if another process holds it, on this machine or, on a disk that is shared, on another.
    """
    path = lock_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # what a link names is not ours to empty
    held.add(descriptor)
    try:
        _acquire(descriptor, path, Path(folder))
        me = Holder(what, socket.gethostname(), os.getpid(), _now(), os.environ.get("SLURM_JOB_ID", ""))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(asdict(me)) + "\n").encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        held.discard(descriptor)
        os.close(descriptor)  # which releases it


def holder(folder: Path | str) -> Holder | None:
    """Who works in a folder now; None if nobody does."""
    try:
        descriptor = os.open(lock_path(folder), os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read(descriptor)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        raise
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, folder: Path) -> None:
    end = time.monotonic() + SECONDS_FOR_A_DEAD_NODE
    try:
        while not _taken(descriptor):
            there = _read(descriptor)
            if not _is_our_earlier_start(there) or time.monotonic() > end:
                raise FolderInUseError(
                    f"{folder} is in use ({there or 'by a run that just started'}). Wait for it, cancel it, or work beside it "
                    "with RUN=NAME."
                )
            time.sleep(1)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        print(f"{path.parent} is on a disk without locks: take care that no two runs write {folder}.", file=sys.stderr)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_our_earlier_start(there: Holder | None) -> bool:
    """Whether this SLURM job held the lock on another machine: one that died, for whose locks a shared disk waits a while."""
    job = os.environ.get("SLURM_JOB_ID")
    return there is not None and bool(job) and there.slurm_job == job and there.host != socket.gethostname()


def _read(descriptor: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


held: set[int] = set()  # descriptors of this process


def _forget() -> None:
    """A forked child (a worker that reads data) must not keep a lock alive after its parent was killed."""
    for descriptor in held:
        os.close(descriptor)
    held.clear()


os.register_at_fork(after_in_child=_forget)
