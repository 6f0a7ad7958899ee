"""The detector's curve, and the probabilities that it gives to each kind of audio."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from audiolm.evaluation.report_pictures import BLUE, GREEN, GREY, ORANGE, STYLE
from audiolm.evaluation.roc import Roc

COLOURS = {"continuation": ORANGE, "reconstruction": BLUE, "original": GREEN}
HISTOGRAM_BINS = 20


def detector_picture(
    curves: Mapping[Any, Roc], scores: Mapping[str, NDArray[np.float64]], *, titles: Mapping[Any, str]
) -> bytes:
    """Draw both, as SVG.

    Args:
        curves: by the kind of recordings that continuations are compared with.
        scores: probabilities that a machine spoke, by condition.
        titles: of the curves.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 5.6), layout="constrained")
        upper, lower = figure.subplots(2, 1)
        for against, curve in curves.items():
            style = "-" if against == "reconstruction" else "--"
            label = f"{titles[against]} (area {curve.area:.3f})"
            upper.plot(curve.false_positives, curve.true_positives, style, color=COLOURS[against], label=label)
        upper.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.2)
        upper.set(title="Continuations found", xlabel="recordings taken for continuations", ylabel="found")
        upper.legend(loc="lower right", fontsize=6)
        edges = list(np.linspace(0, 1, HISTOGRAM_BINS + 1))
        for condition, values in scores.items():
            weights = np.full(len(values), 100 / len(values))
            colour = COLOURS[condition]
            lower.hist(values, edges, weights=weights, histtype="step", color=colour, linewidth=1.6, label=condition)
        lower.axvline(0.5, color=GREY, linestyle=":", linewidth=1.2)
        lower.set(title="What the detector says", xlabel="probability of a continuation", ylabel="% of clips")
        lower.legend(loc="upper center")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
