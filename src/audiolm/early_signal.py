"""SIGUSR1 while a run still starts: noted, so that it neither ends the run at once nor is lost."""

import os
import signal
import threading
from types import FrameType

_came: list[int] = []


def note_sigusr1() -> None:
    """From now on only note SIGUSR1 (SLURM's time limit, preemption), until the run listens itself.

    Until a program says otherwise this signal ends it. Imports and the building of a large model take a minute, and a job
    that dies then is failed instead of queued again.
    """
    if threading.current_thread() is threading.main_thread():
        _came.clear()
        signal.signal(signal.SIGUSR1, _note)


def noted_signal() -> int:
    """The signal that came meanwhile, once; 0: none."""
    return _came.pop() if _came else 0


def _note(number: int, _: FrameType | None) -> None:
    _came[:] = [number]
    os.write(2, b"SIGUSR1 while starting: stopping after one of the first steps.\n")
