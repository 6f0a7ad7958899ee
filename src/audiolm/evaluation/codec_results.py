"""The files that measurements of a codec are kept in: rows per clip, means over clips, a picture."""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from audiolm.evaluation.codec_measures import REAL_TIME, Row, Settings
from audiolm.evaluation.report_pictures import BLUE, STYLE
from audiolm.evaluation.row_files import whole_lines
from audiolm.files import atomic_path, write_json

NOTE = (
    "ViSQOL, PESQ and STOI compare at 16 kHz, SI-SDR and mel distance at the codec's rate; means over clips with their "
    "standard error. ViSQOL numbers are comparable only with those of the same mapping. The real-time factor is of coding all "
    "clips one after the other, while other processes measure."
)


@dataclass(frozen=True)
class Pooled:
    """One measure at one number of levels: the mean over the clips that have a value; for the real-time factor, over seconds."""

    levels: int
    bitrate_bps: float
    measure: str
    mean: float | None  # None where no clip has a value
    standard_error: float | None  # of the mean: deviation (n - 1) / sqrt(n); None below two clips
    clips: int  # that have a value
    empty: int  # that have none
    why_empty: str  # reasons with their counts


def pool(rows: Sequence[Row]) -> list[Pooled]:
    """Means over clips, per number of levels and measure, in the order in which they first appear."""
    groups: dict[tuple[int, float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.levels, row.bitrate_bps, row.measure), []).append(row)
    pooled = []
    for (levels, bitrate, name), group in groups.items():
        values = np.array([row.value for row in group if row.value is not None])
        reasons = Counter(row.why_empty for row in group if row.value is None)
        error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
        mean = float(values.mean()) if len(values) else None
        if name == REAL_TIME:  # of all audio together: in a clip of some milliseconds the ratio says nothing
            mean, error = float(np.average(values, weights=[row.seconds for row in group])), None
        why = "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
        pooled.append(Pooled(levels, bitrate, name, mean, error, len(values), reasons.total(), why))
    return pooled


def read_rows(path: Path, *, rows_per_file: int) -> list[Row]:
    """The rows of every clip that was measured completely; those that a killed run left behind in part are dropped.

    Raises:
        ValueError: if a whole line is not one of ours, naming it.
    """
    rows = []
    for number, values in whole_lines(path):
        try:
            value = float(values["value"]) if values["value"] else None
            numbers = float(values["seconds"]), int(values["levels"]), float(values["bitrate_bps"])
            rows.append(Row(values["file"], *numbers, values["measure"], value, values["why_empty"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"line {number} of {path} cannot be read: it was edited or damaged. Remove its folder and measure again."
            ) from error
    complete = Counter(row.file for row in rows)
    return [row for row in rows if complete[row.file] == rows_per_file]


def write_results(out: Path, pooled: Sequence[Pooled], *, settings: Settings, about: dict[str, Any]) -> None:
    """Write `pooled.json`, `pooled.csv` and `measures.svg` from the means."""
    rows = [asdict(row) for row in pooled]
    write_json(out / "pooled.json", {"rows": rows, "titles": settings.titles(), "note": NOTE, "settings": about})
    with (
        atomic_path(out / "pooled.csv") as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Pooled)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with atomic_path(out / "measures.svg") as temporary:
        temporary.write_bytes(_picture(pooled, settings))


def _picture(pooled: Sequence[Pooled], settings: Settings) -> bytes:
    """Every measure against the bitrate; bars are standard errors."""
    titles = settings.titles()
    with matplotlib.rc_context(STYLE):
        rows, columns = -(-len(titles) // 3), min(3, len(titles))
        figure = Figure(figsize=(3.2 * columns, 2.4 * rows), layout="constrained")
        for place, (name, title) in enumerate(titles.items(), start=1):
            axes = figure.add_subplot(rows, columns, place)
            points = [row for row in pooled if row.measure == name and row.mean is not None]
            axes.errorbar(
                [row.bitrate_bps / 1000 for row in points],
                np.array([row.mean for row in points], dtype=float),
                yerr=[row.standard_error or 0.0 for row in points],
                color=BLUE,
                marker="o",
                markersize=3,
            )
            axes.set_title(title)
            axes.set_xlabel("kbit/s")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()
