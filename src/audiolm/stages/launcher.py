"""Several processes on one machine, none of which outlives the others."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from audiolm.stages.failure import first_failure
from audiolm.stages.interruption import LAUNCHER, StopRequest, is_launched_child

POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0  # for the others to say themselves what they saw


class StageLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher with other manners when a process ends: the rest may say why before they end too.

    Args:
        launcher: Lightning's own, whose place this takes.
        folder: the stage's, where the first failure is written.
        stop: told to the launched processes when it comes to this one.
    """

    def __init__(self, launcher: _SubprocessScriptLauncher, folder: Path, stop: StopRequest) -> None:
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self._folder, self._stop = folder, stop

    def launch(self, function: Callable[..., Any], *args: Any, trainer: L.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other processes, watch them, and call `function` in this one."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[LAUNCHER] = str(os.getpid())
            self._call_children_scripts()
            self._stop.told = list(self.procs)
            _in_background(self._watch_children)
        elif is_launched_child():
            _in_background(_watch_parent)
        return function(*args, **kwargs)

    def _watch_children(self) -> None:
        while not (failed := [p for p in self.procs if p.poll()]):
            if all(process.returncode == 0 for process in self.procs):
                return
            time.sleep(POLL_SECONDS)
        time.sleep(GRACE_SECONDS)  # this process mostly notices by itself and has gone by then
        for process in self.procs:
            if process.poll() is None:
                process.kill()
        cause = first_failure(self._folder)
        print(f"error: {cause or _ending(failed[0], self.procs.index(failed[0]) + 1)}", file=sys.stderr, flush=True)
        os._exit(1)


def _ending(process: subprocess.Popen[bytes], rank: int) -> str:
    code = process.returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    memory = " Most often the machine ran out of memory." if code == -signal.SIGKILL else ""
    return f"rank {rank} {how} without a word.{memory} The same command goes on from the last checkpoint."


def _watch_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    time.sleep(GRACE_SECONDS / 2)
    os._exit(1)


def _in_background(watch: Callable[[], None]) -> None:
    threading.Thread(target=watch, daemon=True, name=watch.__name__).start()
