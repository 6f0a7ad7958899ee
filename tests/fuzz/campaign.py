"""Runs one reader over mutated files in a child process with little memory and an alarm, and finds out how each ended."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tests.fuzz.readers import READERS, Reader

SECONDS_PER_FILE = 20
SPARE_BYTES = 2**30  # of address space, beyond what the child has when it starts


@dataclass
class Report:
    """How a reader took its files."""

    reader: str
    files: int = 0
    read: int = 0
    seconds: float = 0.0
    grown_mib: float = 0.0  # how far the child's resident memory rose above its size at the start
    errors: Counter[str] = field(default_factory=Counter)  # class -> files
    failures: list[str] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """Files that ended in an error of ours."""
        return sum(self.errors.values())


def run_reader(name: str, *, files: int, seed: int, keep: Path | None, first: int = 0) -> Report:
    """Give a reader so many mutated files. A child that dies is replaced, and the file it died of counts as a failure.

    Args:
        keep: where files go that made the reader fail; None keeps none.
        first: number of the first file; (seed, reader, number) decides how it is spoilt.
    """
    report, reader, started = Report(name), READERS[name], time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        specimen = Path(scratch) / "specimen"
        specimen.mkdir()
        reader.make(specimen)
        reader.read(specimen)  # unspoilt, it must be read; what is imported lazily is imported before memory is limited
        number = first
        while number < first + files:
            number = _one_child(report, reader, specimen, Path(scratch), number, first + files, seed, keep)
    report.seconds = time.monotonic() - started
    return report


def _one_child(
    report: Report, reader: Reader, specimen: Path, scratch: Path, number: int, stop: int, seed: int, keep: Path | None
) -> int:
    """Fork a child for the files from `number` on; returns the number of the file that the next child begins with."""
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(receive)
            with os.fdopen(send, "w") as pipe:
                _child(reader, report.reader, specimen, scratch, number, stop, seed, pipe)
            os._exit(0)
        finally:
            os._exit(1)  # whatever went wrong: the parent's folder is not the child's to tidy up
    os.close(send)
    begun, ended = number - 1, number - 1
    with os.fdopen(receive) as pipe:
        for line in pipe:
            row = json.loads(line)
            report.grown_mib = max(report.grown_mib, row.get("grown_mib", 0.0))
            if "begun" in row:
                begun = row["begun"]
            else:
                ended = row["number"]
                _count(report, row, scratch, keep)
    _, status = os.waitpid(pid, 0)
    if begun > ended:  # it died in between
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.waitstatus_to_exitcode(status)}"
        how = (
            f"hung for {SECONDS_PER_FILE} s"
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            else how
        )
        _count(report, {"number": begun, "failure": how}, scratch, keep)
        ended = begun
    elif ended < stop - 1 and ended < number:
        raise RuntimeError(f"the child of {report.reader} ended with {status} before its first file")
    return ended + 1


def _count(report: Report, row: dict[str, Any], scratch: Path, keep: Path | None) -> None:
    report.files += 1
    if "failure" in row:
        report.failures.append(f"file {row['number']} ({row.get('spoilt', '?')}): {row['failure']}")
        if keep is not None and (scratch / "case").exists():
            shutil.copytree(scratch / "case", keep / f"{report.reader}-{row['number']}", dirs_exist_ok=True)
    elif row["error"]:
        report.errors[row["error"]] += 1
    else:
        report.read += 1


def _child(
    reader: Reader, name: str, specimen: Path, scratch: Path, number: int, stop: int, seed: int, pipe: TextIO
) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default ends a child that hangs in C, too
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (the child's own, until it ends)
    os.dup2(sys.stderr.fileno(), 2)
    limit = _address_space() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for current in range(number, stop):
        print(json.dumps({"begun": current}), file=pipe, flush=True)
        row = _one_file(reader, specimen, scratch, random.Random(f"{seed} {name} {current}"))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(json.dumps({"number": current, "grown_mib": grown, **row}), file=pipe, flush=True)
        if "failure" in row:
            return  # a fresh child, and the case is still there to be kept


def _one_file(reader: Reader, specimen: Path, scratch: Path, rng: random.Random) -> dict[str, Any]:
    case = scratch / "case"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(specimen, case)
    spoilt = reader.spoil(case, rng)
    around = sorted(path.name for path in scratch.iterdir())
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_FILE)
    error = ""
    try:
        reader.read(case)
    except (ValueError, OSError) as raised:
        error = type(raised).__name__
    except BaseException as raised:
        where = traceback.extract_tb(raised.__traceback__)[-1]
        return {
            "spoilt": spoilt,
            "failure": f"{type(raised).__name__}: {str(raised)[:200]} ({where.filename}:{where.lineno})",
        }
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if sorted(path.name for path in scratch.iterdir()) != around:
        return {"spoilt": spoilt, "failure": "wrote outside of its folder"}
    return {"error": error}


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
