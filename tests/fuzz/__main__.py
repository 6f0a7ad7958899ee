"""The command: how many mutated files each reader refused, read anyway, or failed on.

    python -m tests.fuzz --files 20000 --seed 0 [--readers audio manifest …] [--keep FOLDER]

Exits with 1 if any file made a reader crash, hang, run out of memory, write outside, or raise what is not an error of ours.
"""

import argparse
import sys
from pathlib import Path

import torch

from tests.fuzz.campaign import Report, run_reader
from tests.fuzz.readers import READERS


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign and print the table; returns the number of failures."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="mutated files in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="*", choices=sorted(READERS), default=list(READERS))
    parser.add_argument("--keep", type=Path, help="folder for the files that made a reader fail")
    parser.add_argument("--first", type=int, default=0, help="number of the first file, to repeat one that failed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # threads of the parent are not there in a forked child, which would wait for them
    shares = {name: READERS[name].share for name in options.readers}
    reports = []
    for name in options.readers:
        files = max(1, round(options.files * shares[name] / sum(shares.values())))
        reports.append(run_reader(name, files=files, seed=options.seed, keep=options.keep, first=options.first))
        print(f"{name}: {files} files, {len(reports[-1].failures)} failures", file=sys.stderr, flush=True)
    print(table(reports))
    for report in reports:
        for failure in report.failures[:10]:
            print(f"FAILED {report.reader}: {failure}")
    return sum(len(report.failures) for report in reports)


def table(reports: list[Report]) -> str:
    """A Markdown table, one line per reader and one for all."""
    lines = ["| reader | files | refused | read anyway | failed | our errors, by class | seconds | peak MiB |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for report in reports:
        errors = ", ".join(f"{name} {count}" for name, count in report.errors.most_common())
        lines.append(
            f"| {report.reader} | {report.files} | {report.refused} | {report.read} | {len(report.failures)} | {errors} | "
            f"{report.seconds:.0f} | {report.grown_mib:.0f} |"
        )
    files, refused, read, failed, seconds = (
        sum(values)
        for values in zip(*((r.files, r.refused, r.read, len(r.failures), r.seconds) for r in reports), strict=True)
    )
    lines.append(f"| all | {files} | {refused} | {read} | {failed} | | {seconds:.0f} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
