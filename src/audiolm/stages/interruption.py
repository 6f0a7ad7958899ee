"""Signals that ask a run to stop: SIGTERM (preemption, cancelling), SIGUSR1 (SLURM's time limit), Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

from audiolm.early_signal import noted_signal

ASKING = (signal.SIGTERM, signal.SIGUSR1)
LAUNCHER = "AUDIOLM_LAUNCHER_PID"  # who started this process as one of several


class Interrupted(SystemExit):
    """A run that was asked to stop and has. Exit status: 128 + the signal's number, as of a process that the signal ended
    (143 for SIGTERM, 138 for SIGUSR1, 130 for Ctrl-C); of a process that another one launched, 0: the launcher's counts.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(0 if is_launched_child() else 128 + signal_number)


class StopRequest:
    """Remembers that a signal came; the trainer looks at it when a step is done.

    Attributes:
        signal_number: the signal that came first; 0: none yet.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._pid = os.getpid()
        self._before: dict[signal.Signals, Any] = {}
        self.told: list[
            subprocess.Popen[bytes]
        ] = []  # processes launched from here, which only hear of it through this one

    def watch(self, *, ctrl_c: bool) -> None:
        """Take the signals over, one that came before included. `ctrl_c`: a first Ctrl-C too; a second ends the run at once."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (*ASKING, signal.SIGINT) if ctrl_c else ASKING:
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)
        self.signal_number = self.signal_number or noted_signal()

    def release(self) -> None:
        """Give the signals back."""
        if threading.current_thread() is threading.main_thread():
            for number, before in self._before.items():
                signal.signal(number, before)
            self._before.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a worker inherits the handler
            return
        if number == signal.SIGINT and self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.signal_number:
            os.write(
                2, f"{signal.Signals(number).name}: finishing what was begun, then saving and stopping.\n".encode()
            )
        self.signal_number = self.signal_number or number
        for process in self.told:
            if process.poll() is None and number != signal.SIGINT:  # a terminal's Ctrl-C reaches all by itself
                process.send_signal(number)


def is_launched_child() -> bool:
    """Whether another process of this run launched this one, waits for it and speaks for it."""
    return os.environ.get(LAUNCHER) == str(os.getppid())


def requeue_slurm_job(signal_number: int) -> str:
    """Put this SLURM job back into the queue if its time was up (SIGUSR1); what was done, in words, or "".

    SIGTERM does not: whoever cancels a job wants it to stay cancelled, and SLURM requeues a preempted one by itself.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or signal_number != signal.SIGUSR1:
        return ""
    try:
        result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        failed = result.stderr.strip() if result.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        failed = str(error)
    return (
        f"SLURM job {job} could not be requeued ({failed}): submit it again."
        if failed
        else f"Requeued SLURM job {job}."
    )


def say(words: str) -> None:
    """A line on the screen, at once."""
    print(words, flush=True)
    sys.stderr.flush()
