"""Speaker recognition by condition, beside chance and the paper's Table III."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from audiolm.evaluation.report_pictures import BLUE, GREY, STYLE, VERMILLION

if TYPE_CHECKING:
    from audiolm.evaluation.speaker_table import Accuracy


def speaker_picture(rows: "Sequence[Accuracy]") -> bytes:
    """Accuracy in % with its interval, as SVG; one row a condition, samplings together."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.8), layout="constrained")
        axes = figure.add_subplot()
        names = [row.condition for row in rows]
        values = [100 * row.accuracy for row in rows]
        lows = [
            value - 100 * (row.accuracy if row.low is None else row.low)
            for row, value in zip(rows, values, strict=True)
        ]
        highs = [
            100 * (row.accuracy if row.high is None else row.high) - value
            for row, value in zip(rows, values, strict=True)
        ]
        axes.errorbar(
            names, values, yerr=[[max(0.0, low) for low in lows], [max(0.0, high) for high in highs]],
            fmt="o", color=BLUE, markersize=5, capsize=3, label="ours, 95 %",
        )  # fmt: skip
        published = [(row.condition, 100 * row.paper) for row in rows if row.paper is not None]
        if published:
            axes.plot(*zip(*published, strict=True), "x", color=VERMILLION, label="paper")
        axes.axhline(100 * rows[0].chance, color=GREY, linestyle=":", linewidth=1.3, label="chance")
        axes.set(title="Speakers recognised", ylabel="% of clips", ylim=(-3, 103))
        axes.margins(x=0.2)
        figure.legend(loc="outside lower center", ncols=3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
