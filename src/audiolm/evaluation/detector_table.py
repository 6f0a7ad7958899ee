"""How well continuations are told from recordings: clips to `files.csv`, `summary.json`, the curve and a picture."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from audiolm.evaluation.audio_classifier import AudioClassifier
from audiolm.evaluation.bootstrap import bootstrap_interval
from audiolm.evaluation.classified import Case, Classified, classify, require_long_enough
from audiolm.evaluation.clips import Clip, clips_digest
from audiolm.evaluation.detector_clips import HUMAN, MACHINE
from audiolm.evaluation.detector_picture import detector_picture
from audiolm.evaluation.roc import Roc, calibration_error, roc
from audiolm.evaluation.row_files import claim
from audiolm.files import atomic_path, write_json

PAPER_ACCURACY = 0.986
Real = Literal["reconstruction", "original"]
AGAINST: dict[Real, str] = {
    "reconstruction": "continuations against codec-passed originals",
    "original": "control: continuations against raw originals",
}
PROTOCOL = {
    "clips": "what follows the prompt, of the continuation as of the recording; both cut to the shorter one's length",
    "windows": "1 s every 250 ms, their log-probabilities averaged",
    "balanced_accuracy": "mean of the shares of either kind that are recognised, at a probability of 0.5 after calibration",
    "interval": "95 %, bootstrap over recordings: a recording and its continuations are drawn together",
    "calibration_error": "expected calibration error over ten bins, both kinds weighted alike",
    "original": "the same detector, which never heard a recording that had not passed the codec, on such recordings",
}
NOTE = (
    f"The paper reports {100 * PAPER_ACCURACY:.1f} % on a balanced set against codec-passed originals, and a trivial 100 % "
    "against uncompressed ones. Our control does not train on these: it asks the same detector. Data and training are not the "
    "paper's."
)


@dataclass(frozen=True)
class Comparison:
    """Continuations against one kind of recordings."""

    against: Real
    machine: int  # continuations
    human: int  # recordings
    balanced_accuracy: float
    interval: tuple[float, float] | None  # of it; None for a single recording
    machine_recall: float
    human_recall: float
    area: float  # under the curve
    equal_error_rate: float
    calibration_error: float
    paper: float | None  # balanced accuracy there


@dataclass(frozen=True)
class DetectorTable:
    """What was found: one comparison a kind of recordings, and their curves."""

    comparisons: list[Comparison]
    curves: dict[Real, Roc]


def detector_cases(
    originals: Sequence[Clip],
    reconstructions: Sequence[Clip],
    continuations: Sequence[Sequence[Clip]],
    *,
    prompt_seconds: float,
) -> list[Case]:
    """Clips of equal lengths of both classes, from the same place of the same recordings.

    Args:
        originals, reconstructions: whole recordings.
        continuations: of each sampling, in the same order, without their prompts.
        prompt_seconds: how much of the recordings was the prompt.
    """
    cases = []
    for number, (original, passed) in enumerate(zip(originals, reconstructions, strict=True)):
        spoken = [clips[number] for clips in continuations]
        after = [_after(clip, prompt_seconds) for clip in (passed, original)]
        seconds = min(clip.samples / clip.sample_rate_hz for clip in (*spoken, *after))
        spoken, after = ([_first(clip, seconds) for clip in clips] for clips in (spoken, after))
        cases += [Case("continuation", sampling, MACHINE, clip) for sampling, clip in enumerate(spoken)]
        cases += [Case(kind, 0, HUMAN, clip) for kind, clip in zip(("reconstruction", "original"), after, strict=True)]
    return cases


def _after(clip: Clip, seconds: float) -> Clip:
    skipped = min(clip.samples, round(seconds * clip.sample_rate_hz))
    return replace(clip, start=clip.start + skipped, samples=clip.samples - skipped)


def _first(clip: Clip, seconds: float) -> Clip:
    return replace(clip, samples=min(clip.samples, int(seconds * clip.sample_rate_hz)))


def measure_detector(
    model: AudioClassifier,
    cases: Sequence[Case],
    out: Path,
    *,
    about: Mapping[str, Any],
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DetectorTable:
    """Classify the clips and write a folder of results; a run that was killed goes on where it was.

    Args:
        cases: of `detector_cases`.
        out: folder for `settings.json`, `files.csv`, `roc.csv`, `summary.json`, `detector.svg`.
        about: what the numbers depend on besides the clips: digests of detector and generator.

    Raises:
        ValueError: for clips that are too short, or an `out` that holds measurements of other things.
        AudioError: for a file that cannot be read.
    """
    require_long_enough(cases, sample_rate_hz=model.sample_rate_hz)
    settings = {**about, "clips": len(cases), "clips_digest": clips_digest([case.clip for case in cases])}
    claim(out, settings, verb="detector")
    rows = classify(model, cases, out / "files.csv", device=device, progress=progress)
    curves = {against: _curve(rows, against) for against in AGAINST}
    table = DetectorTable([_compared(rows, against, curves[against]) for against in AGAINST], curves)
    _write_curves(out / "roc.csv", curves)
    scores = {condition: _scores(rows, condition) for condition in ("continuation", *AGAINST)}
    with atomic_path(out / "detector.svg") as temporary:
        temporary.write_bytes(detector_picture(curves, scores, titles=AGAINST))
    comparisons = [asdict(comparison) for comparison in table.comparisons]
    write_json(out / "summary.json", {"rows": comparisons, "protocol": PROTOCOL, "settings": settings, "note": NOTE})
    return table


def _of(rows: Sequence[Classified], condition: str) -> list[Classified]:
    return [row for row in rows if row.condition == condition]


def _scores(rows: Sequence[Classified], condition: str) -> NDArray[np.float64]:
    """Probabilities that a machine spoke."""
    return np.array([_machine(row) for row in _of(rows, condition)])


def _machine(row: Classified) -> float:
    return row.probability if row.truth == MACHINE else 1 - row.probability


def _curve(rows: Sequence[Classified], against: Real) -> Roc:
    return roc(_scores(rows, "continuation"), _scores(rows, against))


def _compared(rows: Sequence[Classified], against: Real, curve: Roc) -> Comparison:
    machine, human = _of(rows, "continuation"), _of(rows, against)
    both = [*machine, *human]
    correct = np.array([row.correct for row in both])
    is_machine = np.array([row.truth == MACHINE for row in both])

    def balanced(positions: NDArray[np.int64]) -> float:
        right, kind = correct[positions], is_machine[positions]
        return float((right[kind].mean() + right[~kind].mean()) / 2)

    repeats = max(1, round(len(machine) / len(human)))  # a recording has one passage but several continuations
    probabilities = [*map(_machine, machine), *(repeats * [_machine(row) for row in human])]
    truths = len(machine) * [1] + repeats * len(human) * [0]
    return Comparison(
        against=against,
        machine=len(machine),
        human=len(human),
        balanced_accuracy=balanced(np.arange(len(both))),
        interval=bootstrap_interval([row.file for row in both], balanced),
        machine_recall=float(correct[is_machine].mean()),
        human_recall=float(correct[~is_machine].mean()),
        area=curve.area,
        equal_error_rate=curve.equal_error_rate,
        calibration_error=calibration_error(probabilities, truths),
        paper=PAPER_ACCURACY if against == "reconstruction" else None,
    )


def _write_curves(path: Path, curves: Mapping[Real, Roc]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("against", "threshold", "false_positives", "true_positives"))
        for against, curve in curves.items():
            points = zip(curve.thresholds[1:], curve.false_positives[1:], curve.true_positives[1:], strict=True)
            writer.writerows((against, *map(float, point)) for point in points)
