"""ABX against layer, and against the number of clusters: AudioLM's figure 3 on our own measurements."""

import io
from collections.abc import Mapping

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from audiolm.evaluation.abx import AbxResult
from audiolm.evaluation.abx_items import CONTEXTS, Context
from audiolm.evaluation.abx_tasks import SPEAKERS, Speakers
from audiolm.evaluation.layer_sweep import Rule
from audiolm.evaluation.report_pictures import BLUE, GREEN, GREY, ORANGE, STYLE, VERMILLION

COLOURS: dict[Speakers, str] = {"within": ORANGE, "across": BLUE}
STYLES: dict[Context, str] = {"within": ":", "any": "-"}


def layers_picture(
    layers: Mapping[int, AbxResult], clusters: Mapping[int, AbxResult], *, mfcc: AbxResult, best: int, rule: Rule
) -> bytes:
    """Draw the errors in %, as SVG; the figure that decides has its interval, and that of MFCC as a dashed line beside it.

    Args:
        layers: normalised features by layer.
        clusters: units of layer `best` by number of clusters; may be empty.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 5.4 if clusters else 3.2), layout="constrained")
        upper, *others = figure.subplots(2 if clusters else 1, 1, squeeze=False)[:, 0]
        _lines(upper, layers, rule)
        upper.axhline(100 * rule.error(mfcc), color=GREY, linestyle="--", linewidth=1.3, label="MFCC")
        winner = 100 * rule.error(layers[best])
        upper.plot([best], [winner], marker="*", markersize=11, color=VERMILLION, linestyle="", label=f"layer {best}")
        upper.set(title="Normalised features by layer", xlabel="layer", ylabel="ABX error, %")
        upper.set_xticks(list(layers) if len(layers) <= 13 else list(layers)[::2])
        for lower in others:
            _lines(lower, clusters, rule)
            lower.axhline(100 * rule.error(mfcc), color=GREY, linestyle="--", linewidth=1.3)
            lower.axhline(winner, color=GREEN, linestyle="-.", linewidth=1.3, label="not quantised")
            lower.set_xscale("log")
            lower.set_xticks(list(clusters), [str(count) for count in clusters])
            lower.xaxis.set_minor_locator(NullLocator())
            lower.set(title=f"Units of layer {best}", xlabel="clusters", ylabel="ABX error, %")
        entries: dict[str, Artist] = {}
        for axes in (upper, *others):
            handles, labels = axes.get_legend_handles_labels()
            entries = {**dict(zip(labels, handles, strict=True)), **entries}
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=2)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _lines(axes: Axes, results: Mapping[int, AbxResult], rule: Rule) -> None:
    for speakers in SPEAKERS:
        for context in CONTEXTS:
            scores = {place: result.score(context, speakers) for place, result in results.items()}
            drawn = {place: 100 * score.error for place, score in scores.items() if score.error is not None}
            if not drawn:
                continue
            colour, label = COLOURS[speakers], f"{speakers} speakers, {context} context"
            line = {"color": colour, "linestyle": STYLES[context], "marker": "o", "markersize": 3}
            axes.plot(list(drawn), list(drawn.values()), label=label, **line)  # type: ignore[arg-type]
            if rule == Rule(speakers, context):
                ends = {place: score.interval for place, score in scores.items() if score.interval}
                low, high = ([100 * end[side] for end in ends.values()] for side in (0, 1))
                axes.fill_between(list(ends), low, high, color=colour, alpha=0.18, linewidth=0)
