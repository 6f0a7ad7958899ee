"""What a stage logged: the CSV files of all its runs, merged into one curve per metric."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Curve:
    """Values of one metric, by step."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def last(self) -> float:
        """The newest value."""
        return float(self.values[-1])

    @property
    def mean(self) -> float:
        """Mean of what is finite; nan if nothing is."""
        finite = self.values[np.isfinite(self.values)]
        return float(finite.mean()) if len(finite) else float("nan")

    def best(self) -> tuple[int, float] | None:
        """Step and value of the smallest finite value, the first of equals."""
        finite = np.isfinite(self.values)
        if not finite.any():
            return None
        at = int(np.argmin(np.where(finite, self.values, np.inf)))
        return int(self.steps[at]), float(self.values[at])

    def at(self, step: int) -> float | None:
        """The value logged at a step."""
        found = np.flatnonzero(self.steps == step)
        return float(self.values[found[-1]]) if len(found) else None

    def thinned(self, points: int) -> "Curve":
        """At most `points` values, each the mean of a stretch of neighbours: for drawing."""
        if len(self.steps) <= points:
            return self
        parts = np.array_split(np.arange(len(self.steps)), points)
        return Curve(
            steps=np.array([self.steps[part[-1]] for part in parts]),
            values=np.array([self.values[part].mean() for part in parts]),
        )


def read_curves(log: Path) -> dict[str, Curve]:
    """Read the `version_N/metrics.csv` files that Lightning's CSVLogger left in a folder, one per start of the stage.

    A resumed run repeats the steps since its checkpoint: from its first step on, its rows replace those of earlier
    runs. A last line that a killed run left half-written is dropped.

    Args:
        log: `<root>/<stage>/log`; it may be missing or empty.

    Returns:
        Metric name to curve, steps ascending; metrics without a value are left out.
    """
    versions = sorted(log.glob("version_*/metrics.csv"), key=_version)
    rows: list[dict[str, str]] = []
    for path in versions:
        newer = _rows(path)
        if newer:
            first = min(int(row["step"]) for row in newer)
            rows = [row for row in rows if int(row["step"]) < first] + newer
    rows.sort(key=lambda row: int(row["step"]))
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "epoch"))
    curves = {}
    for name in names:
        found = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        if found:
            steps, values = zip(*found, strict=True)
            curves[name] = Curve(np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))
    return curves


def _version(path: Path) -> int:
    number = re.fullmatch(r"version_(\d+)", path.parent.name)
    return int(number[1]) if number else -1


def _rows(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return [row for row in csv.DictReader(whole.splitlines()) if row.get("step")]
