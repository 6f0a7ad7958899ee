"""The files that sWUGGY and sBLIMP figures are kept in: a summary, and what the official scorer reads and writes."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiolm.evaluation.likelihoods import Likelihood
from audiolm.evaluation.score_files import write_score_file
from audiolm.evaluation.spoken_pairs import Accuracy, PairScore, PairSet, accuracies, score_pairs
from audiolm.files import atomic_path, write_json

NORMALISATIONS = {
    "summed": "log likelihood in nats, summed over the units",
    "per_token": "divided by the number of units, as the paper does",
    "given": "scores as a file gives them",
}
NOTE = (
    "A pair counts 1 if the right recording is likelier, 0.5 if both are equally likely, else 0; means over voices, then over "
    "pairs; chance is 0.5. Our log likelihoods are the semantic stage's, of units without repeats and without the end token. "
    "Published figures (AudioLM, figure 3) are length-normalised, on the dev sets."
)


@dataclass(frozen=True)
class Normalised:
    """One way of normalising: what came out of it."""

    normalisation: str  # a key of NORMALISATIONS
    pairs: list[PairScore]
    accuracies: list[Accuracy]


def normalised_scores(rows: Mapping[str, Likelihood]) -> dict[str, dict[str, float]]:
    """The scores by stem, both ways."""
    return {
        "summed": {stem: row.log_likelihood for stem, row in rows.items()},
        "per_token": {stem: row.log_likelihood / row.tokens for stem, row in rows.items()},
    }


def write_zerospeech(
    out: Path, data: PairSet, normalised: Mapping[str, Mapping[str, float]], *, about: Mapping[str, Any]
) -> list[Normalised]:
    """Score the pairs, and write a folder of results.

    `summary.json` and `summary.csv` have every mean. Of a set in the official layout, a folder for each normalisation has what
    the official scorer takes and gives: `<task>/<set>.txt`, and, where there is a gold file,
    `scores/score_<task>_<set>_by_….csv`.

    Args:
        normalised: scores by stem, by normalisation: `normalised_scores`, or {"given": scores of any model}.
        about: what the scores were made of, plain values.

    Returns:
        The results by normalisation; none where the gold file is not public.
    """
    results = []
    for normalisation, scores in normalised.items():
        if data.official:
            write_score_file(out / normalisation / data.task / f"{data.name}.txt", scores)
        if data.pairs:
            pairs = score_pairs(data.pairs, scores)
            results.append(Normalised(normalisation, pairs, accuracies(data.task, pairs)))
            if data.official:
                write_official_tables(out / normalisation / "scores", data, results[-1])
    summary = [
        {"normalisation": result.normalisation, "by": row.by, "group": row.group, "n": row.n, "score": row.score}
        | {"std": row.std, "standard_error": row.standard_error}
        for result in results
        for row in result.accuracies
    ]
    settings = {**about, "task": data.task, "set": data.name, "voices": len({pair.voice for pair in data.pairs})}
    content = {
        "rows": summary,
        "normalisations": {name: NORMALISATIONS[name] for name in normalised},
        "note": NOTE,
        "settings": settings,
    }
    write_json(out / "summary.json", content)
    columns = ("normalisation", "by", "group", "n", "score", "std", "standard_error")
    _write_table(out / "summary.csv", columns, (list(row.values()) for row in summary))
    return results


def write_official_tables(folder: Path, data: PairSet, result: Normalised) -> None:
    """What the reference scorer writes: the same names and columns, four decimals; an empty cell where there is no number."""
    sides = ("word", "non word") if data.task == "lexical" else ("sentence", "non sentence")
    start = f"score_{data.task}_{data.name}_by"
    pairs = ([row.pair.right_text, row.pair.wrong_text, _decimals(row.score)] for row in result.pairs)
    _write_table(folder / f"{start}_pair.csv", (*sides, "score"), pairs)
    for by in ("frequency", "length") if data.task == "lexical" else ("type",):
        groups = [row for row in result.accuracies if row.by == by]
        cells = ([row.group, row.n, _decimals(row.score), _decimals(row.std)] for row in groups)
        _write_table(folder / f"{start}_{by}.csv", (by, "n", "score", "std"), cells)


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
