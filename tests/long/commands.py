"""Runs `lightning …` and `audiolm …` as a user would, in processes of their own, with faults that test code injects there.

They are forks of the test's process, which has imported everything already: a command then takes a second instead of ten.
"""

import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightning.pytorch.strategies.launchers import subprocess_script

from audiolm import cli

REPOSITORY = Path(__file__).parents[2]
Fault = Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and everything it showed."""

    code: int | None  # exit code, or None
    signal: int | None  # that ended it, or None
    screen: str


def run(
    arguments: Sequence[object], *, fault: Fault = lambda: None, processes: int = 1, timeout_seconds: int = 240
) -> Outcome:
    """Run one command line until its last process has ended; `fault` is called in each of them before it begins.

    Args:
        processes: 1, or 2 that Lightning launches: its second one is a fork, too.
    """
    from audiolm import stage_cli  # noqa: F401  imported once, before the fork

    screen, (ended, alive) = Path(os.environ["PYTEST_SCREEN"]), os.pipe()
    command = list(map(str, arguments)) + (["--trainer.devices", str(processes)] if processes > 1 else [])
    process = os.fork()
    if not process:
        os.close(ended)
        _become(command, screen, fault, timeout_seconds, second=processes > 1)
    os.close(alive)
    status = os.waitpid(process, 0)[1]
    os.read(ended, 1)  # the pipe closes with the last of its processes
    os.close(ended)
    by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return Outcome(None if by else os.WEXITSTATUS(status), by, screen.read_text(errors="replace"))


class Forked:
    """What Lightning's launcher takes for the `subprocess.Popen` of its second process."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _fork_a_second() -> None:
    """Fork a process that waits to be launched with an environment, and then does what this one does."""
    asked, ask = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ask)
        with os.fdopen(asked) as file:
            environment = file.read()
        if not environment:  # the first ended before it launched anybody
            os._exit(0)
        os.environ.update(json.loads(environment))
        return

    def launch(command: list[str], *, env: dict[str, str], cwd: str | None) -> Forked:
        with os.fdopen(ask, "w") as file:
            json.dump(env, file)
        return Forked(pid)

    os.close(asked)
    subprocess_script.subprocess = SimpleNamespace(Popen=launch)  # type: ignore[assignment]


def _become(arguments: list[str], screen: Path, fault: Fault, timeout_seconds: int, *, second: bool) -> None:
    code = 99
    try:
        file = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        warnings.resetwarnings()
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.showwarning = lambda message, category, *_, **__: print(f"warning: {message}", file=sys.stderr)
        for name in ("lightning.pytorch", "lightning.fabric"):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler):
                    handler.setStream(sys.stderr)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if second:
            _fork_a_second()
        signal.alarm(timeout_seconds)
        os.chdir(REPOSITORY)
        sys.argv = arguments
        fault()
        (cli.main if arguments[0] == "lightning" else cli.verbs)()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:  # what a user would see as a traceback
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def stage_command(stage: str, root: Path, *more: object) -> list[object]:
    """`lightning fit|predict` of a tiny stage."""
    verb = "predict" if stage == "tokenize" else "fit"
    configs = [f"stages/{stage}.yaml", f"tests/tiny_stages/{stage}.yaml"]
    command: list[object] = [
        "lightning",
        verb,
        *(part for config in configs for part in ("-c", config)),
        "--root",
        root,
    ]
    command += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", *more]
    return command + ([] if stage in ("tokenize", "tokenizer") else ["--ckpt_path", "last"])


# ------------------------------------------------------------------------------------------------- what can be injected


def before_call(target: str, number: int, fault: Callable[..., Any]) -> Fault:
    """Have `fault(*arguments of the call)` happen before the n-th call of a function, `module:name` or `module:Class.name`."""

    def inject() -> None:
        module, _, path = target.partition(":")
        owner: Any = importlib.import_module(module)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        original, calls = getattr(owner, name), [0]

        def wrapped(*arguments: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == number or number < 0 <= calls[0] + number:
                fault(*arguments, **named)
            return original(*arguments, **named)

        setattr(owner, name, wrapped)

    return inject


def from_call(target: str, number: int, fault: Callable[..., Any]) -> Fault:
    """The same before the n-th call and every later one."""
    return before_call(target, -number, fault)


def kill(*_: object, **__: object) -> None:
    """kill -9, as the system's memory killer or a node's death does."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(*_: object, **__: object) -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def killed_at_replace(name: str) -> Fault:
    """kill -9 when a file or folder is whole and about to get its final name."""

    def fault(source: Any, target: Any, *_: object) -> None:
        if Path(target).name == name:
            kill()

    return from_call("os:replace", 1, fault)


@contextlib.contextmanager
def full_disk(folder: Path, *, free_bytes: int = 0) -> Iterator[None]:
    """A disk with `free_bytes` left; the block ends by freeing the rest again."""
    fill(folder, free_bytes=free_bytes)
    yield
    (folder / "filler").unlink(missing_ok=True)


def fill(folder: Path, *, free_bytes: int = 0) -> None:
    """Fill the disk that `folder` is on up to `free_bytes`."""
    with open(folder / "filler", "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(max(0, file.tell() - free_bytes))
