"""`audiolm detect`: its options, and what it prints."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiolm.evaluation.detection import Detection, Detector


def add_detect(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to those of `audiolm`."""
    help = "how likely audio files are a generator's own"
    detect = commands.add_parser("detect", help=help, description=help)
    detect.set_defaults(run=_detect)
    detect.add_argument("files", type=Path, nargs="+", metavar="FILE", help="audio of any format, a second or more")
    which = detect.add_mutually_exclusive_group()
    which.add_argument(
        "--generator",
        type=Path,
        default=Path("checkpoints/generator"),
        help="a generator folder that holds a detector (default checkpoints/generator)",
    )
    which.add_argument("--detector", type=Path, help="a checkpoint of the detector stage instead")
    detect.add_argument(
        "--prior", type=float, default=0.5, help="how many of such files you take for the generator's (0.5)"
    )
    detect.add_argument("--json", action="store_true", help="print JSON, with the figure of every 250 ms")
    detect.add_argument("--csv", type=Path, help="write the figure of every 250 ms there: file, seconds, probability")
    detect.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:1, …")


def _detect(options: argparse.Namespace) -> None:
    from audiolm.devices import choose_device
    from audiolm.evaluation.detection import LIMITS, detect, load_detector, require_files
    from audiolm.progress import progress_bar

    if not 0 < options.prior < 1:
        raise ValueError(f"--prior must lie between 0 and 1, got {options.prior}")
    device = choose_device(options.device)
    detector = load_detector(options.detector or options.generator)
    require_files(options.files)
    model, found = detector.model.to(device), []
    with progress_bar("detect") as progress:
        for path in options.files:
            found.append(detect(model, path, prior=options.prior, device=device))
            progress(len(found), len(options.files))
    if options.csv:
        _write_csv(options.csv, found)
    if options.json:
        print(json.dumps(_as_json(found, detector, options.prior, LIMITS), indent=2, allow_nan=False))
    else:
        _print_table(found, detector, options.prior, LIMITS)


def _print_table(found: "Sequence[Detection]", detector: "Detector", prior: float, limits: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"How likely the generator {_generator(detector)} made it, if {prior:.4g} of such files are its own"
    )
    for heading in ("file", "seconds", "windows", "probability", "least window", "greatest window"):
        table.add_column(heading, justify="left" if heading == "file" else "right", overflow="fold")
    for row in found:
        figures = (row.probability, min(row.curve), max(row.curve))
        table.add_row(row.file, f"{row.seconds:.2f}", str(len(row.curve)), *(f"{figure:.4f}" for figure in figures))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for limit in limits:
        print(f"- {limit}")


def _as_json(found: "Sequence[Detection]", detector: "Detector", prior: float, limits: Sequence[str]) -> dict[str, Any]:
    rows = [
        {
            "file": row.file,
            "seconds": row.seconds,
            "probability": row.probability,
            "windows": [{"start_seconds": at, "probability": p} for at, p in zip(row.starts, row.curve, strict=True)],
        }
        for row in found
    ]
    made_by: dict[str, Any] = {
        "digest": detector.checkpoint.digest,
        "generator": detector.checkpoint.sources.get("generator"),
    }
    made_by |= {"step": detector.checkpoint.step, "temperature": float(detector.model.temperature)}
    return {"rows": rows, "prior": prior, "detector": made_by, "limits": list(limits)}


def _write_csv(path: Path, found: "Sequence[Detection]") -> None:
    from audiolm.files import atomic_path

    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "start_seconds", "probability"))
        for row in found:
            writer.writerows((row.file, at, p) for at, p in zip(row.starts, row.curve, strict=True))


def _generator(detector: "Detector") -> str:
    return (detector.checkpoint.sources.get("generator") or "of unknown name")[:12]
