"""Running the steps of the paper's evaluation: each by itself, none twice, and what each took."""

import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audiolm.errors import in_words
from audiolm.evaluation.paper_steps import Step
from audiolm.files import read_json, write_json

FOLDER = "paper"  # below ROOT/evaluation: a record of every step that was run


@dataclass(frozen=True)
class Run:
    """What became of a step.

    Attributes:
        arguments, inputs: what it was run with; `inputs` is a digest of names, sizes and times.
        seconds: in this process, over all attempts with the same arguments and inputs; a killed attempt counts none.
        machine: the last attempt's.
        error: why the last attempt failed; empty where it did not.
        made_of: the digest of the last attempt that did not fail, whose result is there; empty where all did.
    """

    arguments: tuple[str, ...]
    inputs: str
    seconds: float
    machine: str
    error: str = ""
    made_of: str = ""


def run_steps(steps: Sequence[Step], records: Path, run: Callable[[list[str]], None]) -> None:
    """Run what can be run and is not done; a step that fails leaves its message in its record, and the next ones run.

    Args:
        records: folder of the records.
        run: what runs the arguments of `audiolm`.
    """
    for step in {step.name: step for step in steps}.values():  # two tables may read of one result
        if step.by_hand or step.lacking or is_done(step, records):
            continue
        print(f"\n{step.command}", flush=True)
        if error := _attempt(step, records, run):
            print(f"error: {error}", file=sys.stderr, flush=True)


def is_done(step: Step, records: Path) -> bool:
    """Whether it was run to its end with the same arguments and inputs, and its result is still there."""
    last = read_run(step, records)
    return not step.always and last is not None and not last.error and step.result.exists() and _same(last, step)


def is_stale(step: Step, run: Run | None) -> bool:
    """Whether a result is of other inputs than those that are there now. Of one without a record that is not known."""
    return run is not None and run.made_of != digest(step.inputs)


def read_run(step: Step, records: Path) -> Run | None:
    """The record of a step, or None where it has not been run.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    path = records / step.record
    if not path.exists():
        return None
    found = read_json(path, made_by="`audiolm evaluate paper`")
    try:
        found.setdefault("made_of", "" if found["error"] else found["inputs"])  # the first records had none
        return Run(**{**found, "arguments": tuple(found["arguments"]), "seconds": float(found["seconds"])})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no record of a step ({error}): it was edited. Remove it.") from error


def _attempt(step: Step, records: Path, run: Callable[[list[str]], None]) -> str:
    """Run it and write its record; returns what went wrong, or nothing."""
    last, inputs, started = read_run(step, records), digest(step.inputs), time.monotonic()
    made_before = step.always and last is not None and not last.error and step.result.exists()
    same = last is not None and (last.arguments, last.inputs) == (step.arguments, inputs)
    before = last.seconds if last is not None and same else 0.0
    error = "It was interrupted."
    try:
        run(list(step.arguments))
        error = "" if step.result.exists() else f"It ended, but {step.result} is not there."
    except Exception as raised:  # of whatever kind: the other tables do not depend on it
        error = in_words(raised) or f"{type(raised).__name__}: {raised}"
        if os.environ.get("AUDIOLM_DEBUG") == "1":
            raise
    except SystemExit as left:  # argparse has said why
        error = (
            ""
            if left.code in (None, 0)
            else f"The command ended with status {left.code}; what it said stands in the terminal."
        )
    finally:
        seconds = before if made_before else round(before + time.monotonic() - started, 1)
        made_of = inputs if not error else last.made_of if last is not None else ""
        record = Run(step.arguments, inputs, seconds, machine(), error, made_of)
        write_json(records / step.record, _plain(record))
    return error


def _same(last: Run, step: Step) -> bool:
    return last.arguments == step.arguments and last.inputs == digest(step.inputs)


def _plain(record: Run) -> dict[str, Any]:
    return {**asdict(record), "arguments": list(record.arguments)}


def digest(paths: Sequence[Path]) -> str:
    """Of names, sizes and times; of a folder those of all files below it. What is not there has none."""
    found = []
    for path in paths:
        files = (
            [Path(folder, name) for folder, _, names in os.walk(path) for name in names] if path.is_dir() else [path]
        )
        for file in sorted(files):
            with suppress(FileNotFoundError):
                stat = file.stat()
                found.append((str(file), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def machine() -> str:
    """This one, in words."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {os.cpu_count()} processors{gpu}"
