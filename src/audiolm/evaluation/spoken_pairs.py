"""Pairs of a right and a wrong recording: how often a model scores the right one higher, and where."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Task = Literal["lexical", "syntactic"]
CHANCE = 0.5

# Left edge included, as in ZeroSpeech 2021; its labels do not quite match its edges, and stay as they are.
FREQUENCY_BANDS = (("oov", 0, 1), ("1-5", 1, 5), ("6-20", 5, 20), ("21-100", 20, 100), (">100", 100, math.inf))


@dataclass(frozen=True)
class SpokenPair:
    """A word and a non-word, or a sentence and a scrambled one, in one voice."""

    id: tuple[str | int, ...]  # the pair; spoken by several voices, it has several entries
    voice: str
    right: str  # the recordings' stems
    wrong: str
    right_text: str = ""
    wrong_text: str = ""
    frequency: int | None = None  # occurrences of the word in the training corpus, where the gold file knows
    length_phones: int | None = None
    type: str = ""  # the syntactic phenomenon, or the sub-folder


@dataclass(frozen=True)
class PairSet:
    """Everything to be scored: the recordings, and which of them are pairs."""

    task: Task
    name: str  # dev, test, or the folder's
    recordings: Mapping[str, Path]  # by stem
    pairs: tuple[SpokenPair, ...]  # none where the gold file is not public
    official: bool  # laid out as ZeroSpeech 2021 does, so that its score files make sense


@dataclass(frozen=True)
class PairScore:
    """One pair: the mean over voices of 1 (right scored higher), 0.5 (equal) or 0."""

    pair: SpokenPair  # as its first voice has it
    score: float


@dataclass(frozen=True)
class Accuracy:
    """The mean over some pairs."""

    by: str  # all, in-vocabulary, frequency, length or type
    group: str
    n: int  # pairs
    score: float | None  # None where there is no pair
    std: float | None  # between pairs (n - 1); None below two

    @property
    def standard_error(self) -> float | None:
        """Of the score, over pairs."""
        return None if self.std is None else self.std / math.sqrt(self.n)


def score_pairs(pairs: Iterable[SpokenPair], scores: Mapping[str, float]) -> list[PairScore]:
    """Compare the recordings of every pair.

    Args:
        scores: by stem; higher is likelier. Their absolute values do not matter.

    Returns:
        One score per pair id, ordered by id; a pair that only some voices speak is a mean over those.

    Raises:
        ValueError: if a recording has no score, or one that is no number.

    Source: ZeroSpeech 2021, sWUGGY and sBLIMP.
    """
    groups: dict[tuple[str | int, ...], list[SpokenPair]] = {}
    for pair in pairs:
        for stem in (pair.right, pair.wrong):
            if math.isnan(scores.get(stem, math.nan)):
                raise ValueError(
                    f"the recording {stem} has no score, or one that is no number: score the whole set with one model"
                )
        groups.setdefault(pair.id, []).append(pair)
    return [
        PairScore(group[0], float(np.mean([_won(scores[pair.right], scores[pair.wrong]) for pair in group])))
        for _, group in sorted(groups.items())
    ]


def _won(right: float, wrong: float) -> float:
    return CHANCE if right == wrong else float(right > wrong)


def accuracies(task: Task, scored: Sequence[PairScore]) -> list[Accuracy]:
    """Means over all pairs and over what the gold file tells apart.

    Words: all, in-vocabulary (frequency at least 1), by frequency band, by length. Sentences: all, by type. A word whose
    frequency is not known counts in `all` only. Columns that a set does not have give no rows.
    """
    means = [_accuracy("all", "all", scored)]
    if any(row.pair.frequency is not None for row in scored):
        means.append(_accuracy("in-vocabulary", "in-vocabulary", [row for row in scored if _frequency(row) >= 1]))
        for label, low, high in FREQUENCY_BANDS:
            means.append(_accuracy("frequency", label, [row for row in scored if low <= _frequency(row) < high]))
    if task == "lexical":
        means += _by("length", scored, key=lambda row: row.pair.length_phones)
    return means + _by("type", scored, key=lambda row: row.pair.type or None)


def _frequency(row: PairScore) -> int:
    return -1 if row.pair.frequency is None else row.pair.frequency


def _by(by: str, scored: Sequence[PairScore], *, key: Callable[[PairScore], int | str | None]) -> list[Accuracy]:
    groups: dict[int | str, list[PairScore]] = {}
    for row in scored:
        if (value := key(row)) is not None:
            groups.setdefault(value, []).append(row)
    return [
        _accuracy(by, str(value), groups[value])
        for value in sorted(groups, key=lambda value: (str(type(value)), value))
    ]


def _accuracy(by: str, group: str, scored: Sequence[PairScore]) -> Accuracy:
    values = np.array([row.score for row in scored])
    return Accuracy(
        by,
        group,
        len(values),
        float(values.mean()) if len(values) else None,
        float(values.std(ddof=1)) if len(values) > 1 else None,
    )
