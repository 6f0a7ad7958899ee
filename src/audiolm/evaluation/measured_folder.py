"""The folder of measurements of continuations beside real recordings: rows per file, means, a picture, never two settings."""

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from audiolm.evaluation.passage_measures import Measured
from audiolm.evaluation.report_pictures import BLUE, ORANGE, STYLE
from audiolm.evaluation.row_files import whole_lines
from audiolm.files import atomic_path, write_json

KINDS = ("continuation", "real")


@dataclass(frozen=True)
class Pooled:
    """One measure of one kind of files: the mean over those that have a value."""

    kind: str
    measure: str
    mean: float | None  # None where no file has a value
    standard_error: float | None  # of the mean: deviation (n - 1) / sqrt(n); None below two files
    files: int  # that have a value
    empty: int  # that have none
    why_empty: str  # reasons with their counts
    exceeds_real: float | None  # how often a value of this kind is greater than a real one; 0.5: no difference


def pool(rows: Sequence[Measured], measures: Sequence[str]) -> list[Pooled]:
    """Means over files, per kind and measure."""
    values: dict[tuple[str, str], list[float]] = {}
    empty: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        key = (row.kind, row.measure)
        found, reasons = values.setdefault(key, []), empty.setdefault(key, Counter())
        if row.value is None:
            reasons[row.why_empty] += 1
        else:
            found.append(row.value)
    return [
        _pooled(kind, name, values[kind, name], empty[kind, name], values.get(("real", name), []))
        for name in measures
        for kind in KINDS
        if (kind, name) in values
    ]


def exceeds(values: Sequence[float], others: Sequence[float]) -> float | None:
    """Probability that one of `values` is greater than one of `others`, ties counted half; None if there are none of either."""
    if not values or not others:
        return None
    ordered = np.sort(np.asarray(others))
    below, not_above = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return float((below + not_above).mean() / 2 / len(ordered))


def _pooled(kind: str, name: str, values: list[float], empty: Counter[str], real: list[float]) -> Pooled:
    mean = float(np.mean(values)) if values else None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    why = "; ".join(f"{count} x {reason}" for reason, count in sorted(empty.items()))
    above = exceeds(values, real) if kind != "real" else None
    return Pooled(kind, name, mean, error, len(values), empty.total(), why, above)


def read_rows(path: Path, *, rows_per_file: int) -> list[Measured]:
    """The rows of every file that was measured completely; those that a killed run left behind in part are dropped.

    Raises:
        ValueError: if a whole line is not one of ours, naming it.
    """
    rows = []
    for number, line in whole_lines(path):
        try:
            value = float(line["value"]) if line["value"] else None
            rows.append(Measured(line["file"], line["kind"], line["measure"], value, line["why_empty"]))
            if None in (line["kind"], line["measure"], line["why_empty"]):
                raise ValueError("cells are missing")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"line {number} of {path} cannot be read: it was edited or damaged. Remove its folder and measure again."
            ) from error
    complete = Counter((row.kind, row.file) for row in rows)
    return [row for row in rows if complete[row.kind, row.file] == rows_per_file]


def write_results(
    out: Path,
    pooled: Sequence[Pooled],
    *,
    titles: Mapping[str, str],
    whole: Mapping[str, float | None],
    about: Mapping[str, Any],
    note: str,
    picture: str,
) -> None:
    """Write `pooled.json` (means, numbers of all files together, settings) and the picture."""
    rows = [asdict(row) for row in pooled]
    result = {"rows": rows, "whole": dict(whole), "titles": dict(titles), "note": note, "settings": dict(about)}
    write_json(out / "pooled.json", result)
    with atomic_path(out / picture) as temporary:
        temporary.write_bytes(_picture(pooled, titles))


def _picture(pooled: Sequence[Pooled], titles: Mapping[str, str]) -> bytes:
    """Every measure's means with their standard errors, continuations beside real recordings."""
    with matplotlib.rc_context(STYLE):
        columns = min(4, len(titles))
        rows = -(-len(titles) // columns)
        figure = Figure(figsize=(2.4 * columns, 1.9 * rows), layout="constrained")
        for place, (name, title) in enumerate(titles.items(), start=1):
            axes = figure.add_subplot(rows, columns, place)
            for kind, colour in zip(KINDS, (BLUE, ORANGE), strict=True):
                for row in pooled:
                    if (row.kind, row.measure) == (kind, name) and row.mean is not None:
                        error = row.standard_error or 0.0
                        axes.errorbar([kind], [row.mean], yerr=[error], color=colour, marker="o", markersize=4)
            axes.set_title(title, fontsize=8)
            axes.margins(x=0.4, y=0.25)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()
