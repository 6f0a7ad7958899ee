"""Speed and memory of the token store and the manifest at the size of Libri-Light: opening, drawing, reading, sealing.

    .venv/bin/python benchmarks/store.py [--json] [--utterances 4000000] [--parts 300] [--folder FOLDER]

A synthetic corpus: utterances of 48 to 60 s (the mean, 54 s, times 4 million is 60,000 hours), 7,000 speakers, splits 90, 5 and
5 %, the paper's rates (25 units and 50 frames of 12 levels a second). The store's index is whole; its parts are sparse files
of the right sizes, so every token is 0 and 280 GB take no room. The manifest is a real one.

Every case runs in a process of its own on one thread. `rss_gb` is all that is resident, libraries and mapped pages included,
`imports_gb` the same before anything is opened. Times are the best of several, since what interferes only slows down. `cold` is
after the kernel was asked to forget the files; `first` a read of tokens that no process has read yet (of a hole: no disk
is in it), `warm` the same tokens again.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

STAGES = {"semantic": 30.0, "coarse": 10.0, "fine": 3.0}
SPLITS = {"train": 0.9, "validation": 0.05, "test": 0.05}
SPEAKERS = 7000
PASSED_ON = ("utterances", "parts", "seal_utterances", "windows", "batch", "repeats", "folder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--utterances", type=int, default=4_000_000, help="of the sealed store and the manifest")
    add("--parts", type=int, default=300, help="of the store, as many as writers wrote it")
    add("--seal-utterances", type=int, default=400_000, help="of a store that is sealed and continued")
    add("--windows", type=int, default=2000, help="windows drawn and read")
    add("--batch", type=int, default=16, help="windows of a batch")
    add("--repeats", type=int, default=5)
    add("--cases", nargs="+", default=["store", "seal", "manifest"], choices=["store", "seal", "manifest"])
    add("--folder", help="where to make the files (they stay); by default a temporary folder")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or temporary
        result = measure(options)
    print(json.dumps(result, indent=None if options.json else 2))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cases by name, and the settings."""
    result: dict[str, Any] = {}
    if "store" in options.cases:
        child(options, "make-store")
        result["store"] = child(options, "open") | {
            "windows": {split: child(options, f"windows:{split}") for split in SPLITS},
            "read": {stage: child(options, f"read:{stage}") for stage in STAGES},
            "long_run": child(options, "long"),
            "worker": child(options, "worker"),
        }
    if "seal" in options.cases:
        child(options, "make-unsealed")
        result["seal"] = {"continue": child(options, "continue"), "seal": child(options, "seal")}
        result["seal"]["append"] = child(options, "append")
    if "manifest" in options.cases:
        written = child(options, "write-manifest")
        names = ("read", "text", "crops")
        result["manifest"] = {"write": written} | {name: child(options, f"{name}-manifest") for name in names}
    settings = {name: getattr(options, name) for name in PASSED_ON if name != "folder"}
    return {**result, "settings": settings | {"processor": common.processor("cpu")}}


def child(options: argparse.Namespace, case: str) -> dict[str, Any]:
    arguments: list[Any] = ["--case", case]
    for name in PASSED_ON:
        arguments += [f"--{name.replace('_', '-')}", getattr(options, name)]
    return common.child(__file__, arguments)


def run_case(options: argparse.Namespace) -> dict[str, Any]:
    import store_cases
    import torch

    from audiolm.tokens import windows  # noqa: F401 (imports are not what is measured)

    torch.set_num_threads(1)
    case, _, argument = options.case.partition(":")
    imported_gb = common.resident_gb()
    result = store_cases.CASES[case](options, *([argument] if argument else []))
    sizes = {"imports_gb": imported_gb, "rss_gb": common.resident_gb(), "peak_gb": common.peak_gb("cpu")}
    return {**result, **{name: round(size, 3) for name, size in sizes.items()}}


def best_seconds(run: Callable[[], Any], *, repeats: int) -> float:
    """The shortest of several."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def forget(folder: Path) -> None:
    """Ask the kernel to drop every file of a folder from its cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


if __name__ == "__main__":
    main()
