"""Scoring a listening test: how often raters were right (or preferred the first folder), and how likely by chance."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from audiolm.evaluation.binomial import clopper_pearson, p_at_least, p_two_sided
from audiolm.evaluation.listening_answers import Answers
from audiolm.evaluation.listening_key import Key
from audiolm.evaluation.listening_plan import SINGLE
from audiolm.files import atomic_path, write_json

CONFIDENCE = 0.95
POOLED = "all raters"
NOTE = (
    "The test takes every rating for an independent toss of a fair coin, as the paper does. Ratings of one rater, or of one "
    "item, resemble each other, so that the true uncertainty is larger than the interval says."
)


@dataclass(frozen=True)
class ScoreRow:
    """Ratings of one rater, of all, or of all on one kind of recording. A success: right, or the first folder preferred."""

    who: str
    ratings: int
    successes: int
    rate: float
    low: float  # Clopper-Pearson, 95 %
    high: float
    p_one_sided: float  # of so many successes or more, by chance
    p_two_sided: float


@dataclass(frozen=True)
class Scores:
    """The whole table."""

    pooled: ScoreRow
    raters: list[ScoreRow]
    sources: list[ScoreRow]  # one recording at a time: human ones and machine ones apart; else empty
    missed: dict[str, int]  # attention items that a rater answered otherwise than asked
    attention: int  # how many there are
    left_out: list[str]  # raters who missed more of them than allowed


def score(everyone: Sequence[Answers], key: Key, *, most_missed: int | None = None) -> Scores:
    """Count successes and test them against chance.

    Args:
        everyone: of `read_answers`.
        most_missed: raters who missed more attention items are left out, and named in `left_out`; None keeps all.

    Raises:
        ValueError: if nobody is left.
    """
    missed = {answers.rater: _missed(answers, key) for answers in everyone}
    left_out = [rater for rater, count in missed.items() if most_missed is not None and count > most_missed]
    kept = [answers for answers in everyone if answers.rater not in left_out]
    if not kept:
        raise ValueError(f"all {len(left_out)} raters missed more than {most_missed} attention items: nobody is left")
    counted = [index for index, item in enumerate(key.items) if item.role == "counted"]
    sources = {name: [i for i in counted if key.items[i].sides[0][0] == name] for name in key.names}
    return Scores(
        pooled=_row(POOLED, kept, counted, key),
        raters=[_row(answers.rater, [answers], counted, key) for answers in kept],
        sources=[_row(name, kept, own, key) for name, own in sources.items()] if key.kind == SINGLE else [],
        missed=missed,
        attention=sum(item.role == "attention" for item in key.items),
        left_out=left_out,
    )


def write_scores(out: Path, scores: Scores, everyone: Sequence[Answers], key: Key) -> None:
    """Write `scores.csv`, `scores.json`, and `ratings.csv`: every rating, with what was heard."""
    rows = [scores.pooled, *scores.sources, *scores.raters]
    _write_csv(out / "scores.csv", [field.name for field in fields(ScoreRow)], (asdict(row).values() for row in rows))
    head = {"page": key.page, "kind": key.kind, "names": key.names, "confidence": CONFIDENCE, "note": NOTE}
    times = {answers.rater: [answers.started, answers.finished] for answers in everyone}
    write_json(out / "scores.json", {**head, **asdict(scores), "times": times})
    columns = ["rater", "counts", "item", "role", "a", "b", "answer", "right", "success", "seconds"]
    _write_csv(out / "ratings.csv", columns, _ratings(everyone, key, scores.left_out))


def _missed(answers: Answers, key: Key) -> int:
    pairs = zip(answers.choices, key.items, strict=True)
    return sum(item.role == "attention" and choice != item.right for choice, item in pairs)


def _row(who: str, everyone: Sequence[Answers], indices: Sequence[int], key: Key) -> ScoreRow:
    ratings = len(everyone) * len(indices)
    successes = sum(answers.choices[index] == key.items[index].right for answers in everyone for index in indices)
    low, high = clopper_pearson(successes, ratings, confidence=CONFIDENCE)
    tests = p_at_least(successes, ratings), p_two_sided(successes, ratings)
    return ScoreRow(who, ratings, successes, successes / ratings, low, high, *tests)


def _ratings(everyone: Sequence[Answers], key: Key, left_out: Sequence[str]) -> Iterable[list[Any]]:
    for answers in everyone:
        for index, item in enumerate(key.items):
            heard = [f"{source}/{recording}" for source, recording in item.sides]
            a, b = heard if len(heard) == 2 else (heard[0], "")
            counts = int(item.role == "counted" and answers.rater not in left_out)
            choice = answers.choices[index]
            success, seconds = int(choice == item.right), answers.seconds[index]
            yield [answers.rater, counts, index + 1, item.role, a, b, choice, item.right, success, seconds]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
