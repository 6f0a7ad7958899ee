"""`audiolm evaluate detector`: its options, and what it prints."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm.evaluate_conditions import (
    add_condition_options,
    chosen_clips,
    condition_clips_of,
    require_seconds_left,
)

if TYPE_CHECKING:
    from audiolm.checkpoint import StageCheckpoint
    from audiolm.evaluation.clips import Clip
    from audiolm.evaluation.detector_table import DetectorTable


def add_detector(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to those of `audiolm evaluate`."""
    help = (
        "how well a detector tells continuations from recordings that passed the codec, and from those that did not -> "
        "files.csv, roc.csv, summary.json, detector.svg"
    )
    detector = commands.add_parser("detector", help=help, description=help)
    detector.set_defaults(run=_detector)
    add_condition_options(detector)
    detector.add_argument(
        "--detector", type=Path, help="a checkpoint, or a generator folder's; by default ROOT/detector/best.ckpt"
    )
    detector.add_argument("--out", type=Path, help="folder of the results; by default ROOT/evaluation/detector")


def _detector(options: argparse.Namespace) -> None:
    from audiolm.devices import choose_device
    from audiolm.evaluation.clips import clips_digest
    from audiolm.evaluation.detection import load_detector
    from audiolm.evaluation.detector_table import NOTE, PROTOCOL, detector_cases, measure_detector
    from audiolm.evaluation.labelled import CROP_SECONDS
    from audiolm.evaluation.row_files import require_claimable
    from audiolm.generator.folder import generator_digest
    from audiolm.lock import only_one
    from audiolm.progress import progress_bar

    path, device = options.detector or options.root / "detector" / "best.ckpt", choose_device(options.device)
    found = load_detector(path)
    generator = generator_digest(options.generator or options.root / "generator")
    about: dict[str, Any] = {"detector": found.checkpoint.digest, "generator": generator}
    about |= {"trained_on": found.checkpoint.sources.get("generator")}
    about |= {name: getattr(options, name) for name in ("samplings", "seed", "prompt_seconds")}
    clips = chosen_clips(options)
    _require_new(path, found.checkpoint, clips)
    require_seconds_left(options, clips, least=CROP_SECONDS, compared=True)
    about["recordings"] = clips_digest(clips)
    out = options.out or options.root / "evaluation" / "detector"
    require_claimable(out, about, verb="detector")
    with only_one(out, what="audiolm evaluate detector"):
        with progress_bar("audio") as progress:
            conditions = condition_clips_of(options, ("original", "reconstruction", "continuation"), progress, clips)
        cases = detector_cases(
            conditions["original"][0],
            conditions["reconstruction"][0],
            conditions["continuation"],
            prompt_seconds=options.prompt_seconds,
        )
        with progress_bar("evaluate detector") as progress:
            table = measure_detector(found.model, cases, out, about=about, device=device, progress=progress)
    _print_table(table)
    if about["trained_on"] != generator:
        print(
            "The detector was trained on another generator's continuations than it was asked about here, or does not say whose."
        )
    print(f"{PROTOCOL['clips'].capitalize()}. {NOTE}")
    print(f"Wrote {out}")


def _require_new(detector: Path, checkpoint: "StageCheckpoint", clips: "list[Clip]") -> None:
    """Refuse recordings that a detector was trained on, where it says which those are."""
    from audiolm.evaluation.split_file import read_split, require_untrained

    if (detector.parent / "split.json").exists():
        split = read_split(detector, checkpoint)
        require_untrained(clips, split)
        if not split.is_matched:
            print(
                f"{detector.parent / 'split.json'} does not say of which training it is: taken for that of {detector}."
            )
    else:
        print(f"Beside {detector} there is no split.json: what it was trained on is not known.")


def _print_table(table: "DetectorTable") -> None:
    from rich.console import Console
    from rich.table import Table

    names = {"reconstruction": "codec-passed originals", "original": "raw originals (control)"}
    shown = Table(title="Continuations told from recordings, at 0.5 after calibration")
    headings = (
        "against",
        "balanced, %",
        "95 %",
        "found, %",
        "real right, %",
        "ROC area",
        "equal error, %",
        "calibration",
    )
    for heading in (*headings, "clips", "paper, %"):
        shown.add_column(heading, justify="left" if heading == "against" else "right")
    for row in table.comparisons:
        interval = f"{100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f}" if row.interval else "–"
        recalls = (f"{100 * row.machine_recall:.1f}", f"{100 * row.human_recall:.1f}")
        figures = (f"{row.area:.4f}", f"{100 * row.equal_error_rate:.1f}", f"{row.calibration_error:.3f}")
        paper = "–" if row.paper is None else f"{100 * row.paper:.1f}"
        counts = f"{row.machine} + {row.human}"
        accuracy = f"{100 * row.balanced_accuracy:.1f}"
        shown.add_row(names[row.against], accuracy, interval, *recalls, *figures, counts, paper)
    Console(width=None if sys.stdout.isatty() else 140).print(shown)
