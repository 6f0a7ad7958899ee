"""What a classifier says of clips of several conditions: a row a clip, in a file that a killed run goes on from."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from audiolm.audio import resampled_length
from audiolm.evaluation.audio_classifier import AudioClassifier
from audiolm.evaluation.clips import Clip
from audiolm.evaluation.row_files import append_rows, start_rows, whole_lines
from audiolm.evaluation.windowed import aggregate, window_log_probabilities


@dataclass(frozen=True)
class Case:
    """One clip to classify."""

    condition: str
    sampling: int  # counted from 0
    truth: str  # one of the classifier's labels
    clip: Clip


@dataclass(frozen=True)
class Classified:
    """One clip, classified."""

    file: str
    condition: str
    sampling: int
    truth: str
    label: str  # the likeliest
    probability: float  # of `truth`
    windows: int

    @property
    def correct(self) -> bool:
        return self.label == self.truth


def classify(
    model: AudioClassifier,
    cases: Sequence[Case],
    table: Path,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Classified]:
    """Classify every clip that is not in the table yet; a row is on disk before the next clip is read.

    Args:
        table: `files.csv` of a folder that was claimed for this classifier and these clips.
        progress: called with (clips classified, all).

    Returns:
        One row a case, in their order.

    Raises:
        ValueError: before the first is classified, if clips are shorter than one second; for a damaged table.
        AudioError: for a file that cannot be read; what was classified before is kept.
    """
    require_long_enough(cases, sample_rate_hz=model.sample_rate_hz)
    truths = {(case.condition, case.sampling, case.clip.id): case.truth for case in cases}
    rows = {(row.condition, row.sampling, row.file): row for row in read_classified(table)}
    done = {key: row for key, row in rows.items() if truths.get(key) == row.truth}  # else a label was corrected since
    start_rows(table, done.values(), kind=Classified)
    model = model.to(device).eval()
    for case in cases:
        key = (case.condition, case.sampling, case.clip.id)
        if key not in done:
            done[key] = _classified(model, case, device)
            append_rows(table, [done[key]])
        progress(len(done), len(cases))
    return [done[case.condition, case.sampling, case.clip.id] for case in cases]


def _classified(model: AudioClassifier, case: Case, device: str | torch.device) -> Classified:
    audio = case.clip.read(sample_rate_hz=model.sample_rate_hz).to(device)
    windows = window_log_probabilities(model, audio).double().cpu()  # so that sure scores do not all round to 1
    probabilities = aggregate(windows)
    label = model.labels[int(probabilities.argmax())]
    probability = float(probabilities[model.labels.index(case.truth)])
    return Classified(case.clip.id, case.condition, case.sampling, case.truth, label, probability, len(windows))


def require_long_enough(cases: Sequence[Case], *, sample_rate_hz: int) -> None:
    """Stop before anything is classified.

    Raises:
        ValueError: naming the first clip shorter than one second, and how many there are.
    """
    short = [
        case
        for case in cases
        if resampled_length(case.clip.samples, case.clip.sample_rate_hz, sample_rate_hz) < sample_rate_hz
    ]
    if short:
        clip = short[0].clip
        raise ValueError(
            f"{len(short)} of {len(cases)} clips are shorter than the second that a classifier hears, such as {clip.id} "
            f"({short[0].condition}: {clip.samples / clip.sample_rate_hz:.2f} s). Choose longer recordings with "
            "--least-seconds, a shorter --prompt-seconds, or longer continuations with --seconds."
        )


def read_classified(path: Path) -> list[Classified]:
    """The clips classified so far; a last line that a killed run left behind in part is dropped.

    Raises:
        ValueError: if a whole line is not one of ours, naming it.
    """
    rows = []
    for number, line in whole_lines(path):
        try:
            numbers = {"sampling": int(line["sampling"]), "windows": int(line["windows"])}
            texts = {name: line[name] for name in ("file", "condition", "truth", "label")}
            row = Classified(**texts, **numbers, probability=float(line["probability"]))  # type: ignore[arg-type]
            if not 0 <= row.probability <= 1 or math.isnan(row.probability):
                raise ValueError("no probability")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"line {number} of {path} cannot be read: it was edited or damaged. Remove its folder and measure again."
            ) from error
        rows.append(row)
    return rows
