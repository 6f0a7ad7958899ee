"""Manners of the processes that read ahead."""

import os
import signal
from typing import Any

SECONDS_TO_OUTLAST = 300  # for the step under way, a validation and the checkpoint


def outlast_signals(_: int) -> None:
    """A worker that SIGTERM, SIGUSR1 or Ctrl-C reach together with its trainer reads on: the trainer finishes its step and
    ends its workers. After SIGTERM it ends by itself some minutes later, whatever happens."""

    def later(*_: Any) -> None:
        signal.alarm(SECONDS_TO_OUTLAST)

    signal.signal(signal.SIGTERM, later)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def usable_cores() -> int:
    """Cores that this process may use: a job on a shared machine often has few of many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
