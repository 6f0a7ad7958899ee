"""The first cause: of several processes that end one after the other, which failed first and why."""

import json
import os
import socket
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L

from audiolm.errors import TrainingFailedError

NAME = "failure.json"  # in the stage's folder, until the next start
WORDS_OF_A_LOST_PEER = ("connection", "peer", "timed out", "timeout", "broken pipe", "socket", "nccl", "gloo")
SECONDS_FOR_ITS_WORDS = 5.0  # a disk that is shared may show another machine's file late
SECONDS_TO_END = 60.0  # past this, a failed process of several is ended; its connections would hold the others


@dataclass(frozen=True)
class Failure:
    """What a process said when it failed.

    Attributes:
        rank: its number among the processes.
        host: its machine.
        step: optimizer steps done.
        message: class and words of the error.
        trace: where it happened.
    """

    rank: int
    host: str
    step: int
    message: str
    trace: str

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} failed first, at step {self.step}: {self.message}"


class FirstCause(L.Callback):
    """Records, in `<stage>/failure.json`, the failure that came first."""

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Record this process's failure, unless another's came before."""
        if pl_module is None or not isinstance(exception, Exception):
            return
        trace = "".join(traceback.format_exception(exception))
        message = f"{type(exception).__name__}: {exception}"
        if trainer.world_size > 1:
            if is_of_a_lost_peer(exception):
                wait_for_failure(pl_module.folder)
            last_resort = threading.Timer(SECONDS_TO_END, os._exit, args=(1,))
            last_resort.daemon = True
            last_resort.start()
        if trainer.world_size > 1 or pl_module.folder.exists():  # one that never began leaves no folder behind
            host = socket.gethostname()
            record(pl_module.folder, Failure(trainer.global_rank, host, trainer.global_step, message, trace))


def record(folder: Path, failure: Failure) -> None:
    """Write a failure if none is written yet: whole, or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{NAME}.{failure.host}.{failure.rank}.part"
    try:
        temporary.write_text(json.dumps(asdict(failure), indent=2) + "\n", encoding="utf-8")
        try:
            os.link(temporary, folder / NAME)  # fails if it is there
        except FileExistsError:
            raise
        except OSError:  # a disk without links: nearly as good
            if not (folder / NAME).exists():
                os.replace(temporary, folder / NAME)
    except OSError:  # another was first; or the disk is full, which is then being said anyway
        return
    finally:
        temporary.unlink(missing_ok=True)


def first_failure(folder: Path) -> Failure | None:
    """The failure that came first in the last start of a stage, if it failed."""
    try:
        return Failure(**json.loads((folder / NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def wait_for_failure(folder: Path) -> Failure | None:
    """What another process said before its connection broke; None if it ended without a word."""
    end = time.monotonic() + SECONDS_FOR_ITS_WORDS
    while (found := first_failure(folder)) is None and time.monotonic() < end:
        time.sleep(0.1)
    return found


def is_of_a_lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another process has gone."""
    import torch.distributed as dist

    said = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError)
        and not isinstance(error, TrainingFailedError)
        and any(word in said for word in WORDS_OF_A_LOST_PEER)
    )


def with_first_cause(error: Exception, folder: Path, *, rank: int) -> Exception:
    """The error to show for `error` in a run of several processes: the first cause on top."""
    first = first_failure(folder)
    words = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if first is not None and first.rank != rank:
        return TrainingFailedError(
            f"{first}. The other processes then lost it: rank {rank} with {words} ({folder / NAME} has the whole story). Remedy "
            "the first cause; the same command goes on from the last checkpoint."
        )
    if is_of_a_lost_peer(error):
        return TrainingFailedError(
            f"Rank {rank} lost another process of this run, which ended without a word: killed, out of memory, or its machine "
            f"is gone ({words}). The same command goes on from the last checkpoint."
        )
    return error
