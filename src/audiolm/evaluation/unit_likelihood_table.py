"""Systems compared prompt by prompt in the likelihood of what they say: means, paired differences, sign tests, a picture."""

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from audiolm.evaluation.binomial import p_two_sided
from audiolm.evaluation.report_pictures import BLUE, GREY, LINES, STYLE
from audiolm.evaluation.unit_likelihoods import UnitLikelihood
from audiolm.files import atomic_path, write_json

NOTE = (
    "The judge is the hierarchy's own semantic language model, and the units are those of its own tokenizer. The hierarchy's "
    "continuations speak units which that very model drew, below temperature 1 likely ones, so the judge favours it: it can "
    "exceed real recordings. The figure tells whether a system says what such a model expects, not whether it sounds better; "
    "for that, ask listeners (`audiolm evaluate listening-test make --a … --b …`) and measure prosody and diversity."
)
PROTOCOL = {
    "units": "found again in the audio by the tokenizer, prompt and continuation heard together; repeats removed",
    "per_unit": "log likelihood in nats of the continuation's units given the prompt's, without end token, over their number; "
    "mean over prompts (over the files of a prompt first) with its standard error",
    "pooled": "the sum over all files over all their units",
    "real": "the recordings that the prompts are of, going on, as long as the continuations, passed through the codec",
    "difference": "first minus second, prompt by prompt; standard error over prompts",
    "sign_test": "exact binomial test, two-sided: how often a fair coin falls as unevenly; equal prompts are left out",
}


@dataclass(frozen=True)
class SystemScore:
    """What one system says, judged."""

    system: str
    per_unit: float | None  # nats; None where no file has units
    standard_error: float | None  # None below two prompts
    pooled_per_unit: float | None
    prompts: int
    files: int  # that have a value
    empty: int  # whose units after the seam only go on with the one before
    units: int


@dataclass(frozen=True)
class Difference:
    """Two systems on the same prompts."""

    first: str
    second: str
    difference: float | None  # nats per unit; above 0: the first is likelier
    standard_error: float | None
    prompts: int
    first_likelier: int
    second_likelier: int
    p_two_sided: float | None  # of the sign test; None if no prompt differs


@dataclass(frozen=True)
class LikelihoodTable:
    """The whole comparison."""

    systems: list[SystemScore]
    differences: list[Difference]


def compare(rows: Sequence[UnitLikelihood]) -> LikelihoodTable:
    """Means of every system, in the order of the rows, and differences of every two."""
    names = list(dict.fromkeys(row.system for row in rows))
    values = {name: _by_prompt([row for row in rows if row.system == name]) for name in names}
    systems = [_system(name, [row for row in rows if row.system == name], values[name]) for name in names]
    pairs = itertools.combinations(names, 2)
    return LikelihoodTable(systems, [_difference(a, b, values[a], values[b]) for a, b in pairs])


def write_table(out: Path, rows: Sequence[UnitLikelihood], *, about: Mapping[str, Any]) -> LikelihoodTable:
    """Compare, and write `summary.json`, `summary.csv`, `differences.csv` and `likelihood.svg`."""
    table = compare(rows)
    systems, differences = ([asdict(row) for row in part] for part in (table.systems, table.differences))
    content = {"rows": systems, "differences": differences, "protocol": PROTOCOL, "settings": dict(about), "note": NOTE}
    write_json(out / "summary.json", content)
    for name, kind, part in (("summary", SystemScore, systems), ("differences", Difference, differences)):
        with atomic_path(out / f"{name}.csv") as path, open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(kind)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(part)
    with atomic_path(out / "likelihood.svg") as path:
        path.write_bytes(_picture(rows, table))
    return table


def _by_prompt(rows: Sequence[UnitLikelihood]) -> dict[str, float]:
    """Nats per unit of every prompt, the mean of its files."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.per_unit is not None:
            values.setdefault(row.prompt, []).append(row.per_unit)
    return {prompt: float(np.mean(found)) for prompt, found in values.items()}


def _system(name: str, rows: Sequence[UnitLikelihood], values: Mapping[str, float]) -> SystemScore:
    mean, error = _mean(list(values.values()))
    units, scored = sum(row.units for row in rows), [row for row in rows if row.log_likelihood is not None]
    nats = sum(row.log_likelihood or 0.0 for row in scored)
    pooled = nats / units if units else None
    return SystemScore(name, mean, error, pooled, len(values), len(scored), len(rows) - len(scored), units)


def _difference(first: str, second: str, ours: Mapping[str, float], theirs: Mapping[str, float]) -> Difference:
    differences = [ours[prompt] - theirs[prompt] for prompt in ours if prompt in theirs]
    mean, error = _mean(differences)
    above, below = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    p = p_two_sided(above, above + below) if above + below else None
    return Difference(first, second, mean, error, len(differences), above, below, p)


def _mean(values: Sequence[float]) -> tuple[float | None, float | None]:
    """And its standard error."""
    if not values:
        return None, None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(np.mean(values)), error


def _picture(rows: Sequence[UnitLikelihood], table: LikelihoodTable) -> bytes:
    """Every prompt as a dot, the means with their standard errors; and the differences, from the lowest to the highest."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        values = {
            score.system: _by_prompt([row for row in rows if row.system == score.system]) for score in table.systems
        }
        for score in table.systems:
            dots = list(values[score.system].values())
            left.plot([score.system] * len(dots), dots, color=GREY, marker=".", linestyle="", alpha=0.4)
            if score.per_unit is not None:
                error = score.standard_error or 0.0
                left.errorbar([score.system], [score.per_unit], yerr=[error], color=BLUE, marker="o", markersize=5)
        left.set(title="Likelihood of what is said", ylabel="nats per unit")
        left.margins(x=0.3)
        for row, (colour, style) in zip(table.differences, itertools.cycle(LINES), strict=False):
            ours, theirs = values[row.first], values[row.second]
            ordered = sorted(ours[prompt] - theirs[prompt] for prompt in ours if prompt in theirs)
            if ordered:
                share = (np.arange(len(ordered)) + 0.5) / len(ordered)
                right.plot(share, ordered, color=colour, linestyle=style, label=f"{row.first} − {row.second}")
        right.axhline(0, color=GREY, linewidth=0.8)
        right.set(title="Prompt by prompt", xlabel="share of the prompts", ylabel="difference, nats per unit")
        if any(row.prompts for row in table.differences):
            right.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()
