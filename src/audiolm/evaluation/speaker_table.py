"""How often a speaker is recognised, under each condition: clips to `files.csv`, `speakers.csv`, `summary.json`, a picture."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiolm.evaluation.audio_classifier import AudioClassifier
from audiolm.evaluation.binomial import clopper_pearson
from audiolm.evaluation.bootstrap import bootstrap_interval
from audiolm.evaluation.classified import Case, Classified, classify, require_long_enough
from audiolm.evaluation.clips import Clip, clips_digest
from audiolm.evaluation.conditions import KINDS, Kind
from audiolm.evaluation.row_files import claim, start_rows
from audiolm.evaluation.speaker_picture import speaker_picture
from audiolm.files import atomic_path, write_json

PAPER: dict[str, float] = {"reconstruction": 1.0, "acoustic": 0.032, "continuation": 0.926}
PAPER_SPEAKERS = 291
MOST_CONFUSIONS = 20  # in the summary; confusions.csv has all
PROTOCOL = {
    "original": "recordings that the classifier did not train on",
    "reconstruction": "the same through the generator's codec",
    "acoustic": "the recording's units said again, acoustics drawn freely",
    "continuation": "what is said after the recording's first seconds, those excluded",
    "windows": "1 s every 250 ms, their log-probabilities averaged",
    "binomial": "95 %, Clopper and Pearson: of one sampling, recordings taken as independent",
    "bootstrap": "95 %, over speakers: all clips of a speaker, of all samplings, are drawn together",
    "chance": "one over the number of speakers that the classifier knows",
}
NOTE = (
    f"The paper (Table III): {PAPER_SPEAKERS} speakers of LibriSpeech, recordings of 4 to 10 s, three samplings. It does not "
    "state how windows are aggregated, nor whether the recordings behind the conditions are held out from the classifier; ours "
    "are, unless `settings` says that all recordings were used. Fewer speakers are easier to tell apart: compare with chance. "
    "The held-out recordings calibrate the scores, too (one temperature): it moves probabilities and changes no decision."
)


@dataclass(frozen=True)
class Accuracy:
    """How often the speaker is recognised under one condition."""

    condition: str
    sampling: int | None  # None: all together
    clips: int
    correct: int
    accuracy: float
    low: float | None  # of the 95 % interval
    high: float | None
    interval: str  # a name in PROTOCOL
    chance: float
    paper: float | None


@dataclass(frozen=True)
class SpeakerRow:
    """One speaker under one condition, all samplings."""

    speaker: str
    condition: str
    clips: int
    correct: int
    most_often: str  # the answer given most often


@dataclass(frozen=True)
class Confusion:
    """One wrong answer."""

    condition: str
    speaker: str
    taken_for: str
    times: int


def speaker_cases(
    conditions: Mapping[Kind, Sequence[Sequence[Clip]]], speakers: Mapping[str, str], *, originals: Iterable[str]
) -> list[Case]:
    """What is to be classified.

    Args:
        conditions: of `condition_clips`.
        speakers: the label of every clip, by id.
        originals: ids that the classifier did not train on: only of these the recording itself is asked for.
    """
    honest = set(originals)
    return [
        Case(kind, sampling, speakers[clip.id], clip)
        for kind in KINDS
        for sampling, clips in enumerate(conditions.get(kind, ()))
        for clip in clips
        if kind != "original" or clip.id in honest
    ]


def measure_speakers(
    model: AudioClassifier,
    cases: Sequence[Case],
    out: Path,
    *,
    about: Mapping[str, Any],
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Accuracy]:
    """Classify the clips and write a folder of results; a run that was killed goes on where it was.

    Args:
        cases: of `speaker_cases`.
        out: folder for `settings.json`, `files.csv`, `speakers.csv`, `confusions.csv`, `summary.json`, `speaker.svg`.
        about: what the numbers depend on besides the clips: digests of classifier and generator.

    Raises:
        ValueError: for clips that are too short, or an `out` that holds measurements of other things.
        AudioError: for a file that cannot be read.
    """
    require_long_enough(cases, sample_rate_hz=model.sample_rate_hz)
    settings = {**about, "clips": len(cases), "clips_digest": clips_digest([case.clip for case in cases])}
    claim(out, settings, verb="speaker")
    rows = classify(model, cases, out / "files.csv", device=device, progress=progress)
    found, wrong = accuracies(rows, speakers=len(model.labels)), confusions(rows)
    start_rows(out / "speakers.csv", by_speaker(rows), kind=SpeakerRow)
    start_rows(out / "confusions.csv", wrong, kind=Confusion)
    with atomic_path(out / "speaker.svg") as temporary:
        temporary.write_bytes(speaker_picture([row for row in found if row.sampling is None]))
    summary = {
        "rows": [asdict(row) for row in found],
        "confusions": [asdict(row) for row in wrong[:MOST_CONFUSIONS]],
        "protocol": PROTOCOL,
        "settings": {**settings, "speakers_known": len(model.labels), "speakers": len({row.truth for row in rows})},
        "note": NOTE,
    }
    write_json(out / "summary.json", summary)
    return found


def accuracies(rows: Sequence[Classified], *, speakers: int) -> list[Accuracy]:
    """Per condition: each sampling with its binomial interval, then all together with that over speakers."""
    found = []
    for condition in KINDS:
        of_condition = [row for row in rows if row.condition == condition]
        for sampling in sorted({row.sampling for row in of_condition}):
            found.append(_accuracy([row for row in of_condition if row.sampling == sampling], sampling, speakers))
        if of_condition:
            found.append(_accuracy(of_condition, None, speakers))
    return found


def _accuracy(rows: Sequence[Classified], sampling: int | None, speakers: int) -> Accuracy:
    correct = np.array([row.correct for row in rows])
    interval = (
        bootstrap_interval([row.truth for row in rows], lambda at: float(correct[at].mean()))
        if sampling is None
        else clopper_pearson(int(correct.sum()), len(rows))
    )
    return Accuracy(
        condition=rows[0].condition,
        sampling=sampling,
        clips=len(rows),
        correct=int(correct.sum()),
        accuracy=float(correct.mean()),
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        interval="bootstrap" if sampling is None else "binomial",
        chance=1 / speakers,
        paper=PAPER.get(rows[0].condition),
    )


def by_speaker(rows: Sequence[Classified]) -> list[SpeakerRow]:
    """Per speaker and condition, samplings together."""
    groups: dict[tuple[str, str], list[Classified]] = {}
    for row in rows:
        groups.setdefault((row.truth, row.condition), []).append(row)
    return [
        SpeakerRow(speaker, condition, len(group), sum(row.correct for row in group), _most_often(group))
        for (speaker, condition), group in sorted(groups.items())
    ]


def _most_often(rows: Sequence[Classified]) -> str:
    return Counter(sorted(row.label for row in rows)).most_common(1)[0][0]


def confusions(rows: Sequence[Classified]) -> list[Confusion]:
    """Every wrong answer with how often it was given, the most frequent first."""
    counts = Counter((row.condition, row.truth, row.label) for row in rows if not row.correct)
    return [Confusion(*key, times) for key, times in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
