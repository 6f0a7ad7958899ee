"""The files of Table I: its rows beside the paper's, what they say of the paper's orderings, a picture."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from audiolm.evaluation.perceptual import VisqolMapping
from audiolm.evaluation.point_labels import Label, place_labels
from audiolm.evaluation.report_pictures import BLUE, GREY, STYLE
from audiolm.evaluation.table1_rows import ABX, WORDS, Row, orderings
from audiolm.files import atomic_path, write_json

FRAMES = {
    "libri-light": "an item's frames as the Libri-Light scripts count them, without its last one: so are the paper's",
    "corrected": "all frames whose centre lies in the item: not as published figures, among them the paper's, count them",
}
NOTE = (
    "The paper's numbers are of LibriSpeech dev-clean, w2v-BERT XL and SoundStream trained on 60,000 hours, and it does not "
    "name its ViSQOL mapping: beside ours they show an order, not a target, unless data, models and settings are the same."
)


def protocol(settings: Mapping[str, Any], *, mapping: VisqolMapping) -> dict[str, str]:
    """What the columns are, a sentence each, for settings as `settings.json` has them."""
    abx = settings["abx"]
    return {
        "abx": f"ABX error in %, {abx['distance']} distance, {abx['contexts'][0]} context, {FRAMES[abx['frames']]}. Each "
        "frame is its quantised vector, of several levels their sum. Intervals are 95 %, by bootstrap over speakers.",
        "visqol": f"ViSQOL in speech mode at 16 kHz, mapping {mapping}, mean over clips with its standard error, of audio that a "
        "SoundStream decoder trained on these tokens makes of them.",
        "bitrate": "Nominal: frames per second x sum over levels of log2(codebook).",
        "entropy": "Of single tokens on the items' recordings, each level by itself: what an ideal code of single tokens takes.",
    }


def write_table1(
    out: Path, rows: Sequence[Row], *, mapping: VisqolMapping, settings: Mapping[str, Any], chain: str
) -> None:
    """Write `table1.csv`, `summary.json` and `table1.svg`.

    Args:
        rows: at least one, all with the same keys; those that begin with `paper_` are the paper's.
        settings: everything the numbers depend on but the models, which the rows' folders name.
        chain: whose rows they are, for people.
    """
    with atomic_path(out / "table1.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    summary = {
        "rows": list(rows),
        "orderings": orderings(rows),
        "protocol": protocol(settings, mapping=mapping),
        "settings": {**settings, "chain": chain},
        "note": NOTE,
    }
    write_json(out / "summary.json", summary)
    with atomic_path(out / "table1.svg") as temporary:
        temporary.write_bytes(_picture(rows, mapping=mapping))


def _picture(rows: Sequence[Row], *, mapping: VisqolMapping) -> bytes:
    """ABX error against ViSQOL, within and across speakers; the paper's as hollow points. Down and to the right is better."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        all_labels: list[tuple[Axes, list[Label]]] = []
        for axes, measure in zip(figure.subplots(1, 2, sharey=True), ABX, strict=True):
            labels: list[Label] = []
            for prefix, colour, filled, label in (("paper_", GREY, "none", "the paper's"), ("", BLUE, BLUE, "ours")):
                drawn = [row for row in rows if None not in (row[f"{prefix}{measure}"], row[f"{prefix}visqol"])]
                points = [(row[f"{prefix}visqol"], row[f"{prefix}{measure}"]) for row in drawn]
                marker = {"marker": "o", "linestyle": "", "color": colour, "markerfacecolor": filled, "label": label}
                axes.plot(*zip(*points, strict=True) if points else ((), ()), **marker)
                labels += [Label(row["tokens"], place, colour) for row, place in zip(drawn, points, strict=True)]
            axes.set(title=WORDS[measure], xlabel=f"ViSQOL ({mapping})", ylabel="error, %")
            axes.margins(0.25)
            all_labels.append((axes, labels))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        for axes, labels in all_labels:
            place_labels(figure, axes, labels)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
