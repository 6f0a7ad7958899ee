"""A trained codec at a glance: Markdown tables of its training and evaluation, and pictures of its training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from audiolm.evaluation.curves import Curve, read_curves
from audiolm.evaluation.report_pictures import curves_picture, level_curves_picture
from audiolm.files import read_json

PERPLEXITY = "validation/perplexity_level_"
LOSSES = ("reconstruction", "waveform", "commitment", "adversarial", "feature", "discriminator")


class CodecPicture(NamedTuple):
    """One picture of a codec's training."""

    name: str  # of a file
    title: str
    svg: bytes


def codec_pictures(curves: Mapping[str, Curve]) -> list[CodecPicture]:
    """Reconstruction loss, mel distance, all losses, SI-SDR and codebook use over steps, as far as they were logged."""
    lines: tuple[tuple[str, str, dict[str, str], str, bool], ...] = (
        (
            "reconstruction",
            "Reconstruction loss (mel, six resolutions)",
            {"training": "train/reconstruction", "validation": "validation/reconstruction"},
            "loss",
            True,
        ),
        ("mel", "Mel distance of reconstructions", {"validation": "validation/loss"}, "nats", False),
        ("losses", "The losses, each by itself", {n: f"train/{n}" for n in LOSSES}, "loss, in training", True),
        ("si-sdr", "SI-SDR of reconstructions", {"validation": "validation/si_sdr_db"}, "dB", False),
    )
    pictures = []
    for name, title, metrics, unit, logarithmic in lines:
        found = {label: curves[metric] for label, metric in metrics.items() if metric in curves}
        if found:
            svg = curves_picture(title, found, unit=unit, logarithmic=logarithmic)
            pictures.append(CodecPicture(name, title, svg))
    levels = {
        int(name.removeprefix(PERPLEXITY)): curve for name, curve in curves.items() if name.startswith(PERPLEXITY)
    }
    if levels:
        title = "Codebook entries in use"
        svg = level_curves_picture(title, dict(sorted(levels.items())), unit="perplexity")
        pictures.append(CodecPicture("perplexity", title, svg))
    return pictures


def codec_summary(root: Path) -> str:
    """Training, codebook use and measures of a chain's codec, as Markdown.

    Args:
        root: the folder of a chain whose codec was trained (`lightning fit -c stages/codec.yaml …`) and evaluated
            (`audiolm evaluate codec`).

    Raises:
        FileNotFoundError: if one of them is missing, naming the command.
    """
    record = read_json(root / "codec" / "done.json", made_by="make codec")
    pooled = read_json(root / "evaluation" / "codec" / "pooled.json", made_by="`audiolm evaluate codec`")
    lines = [
        f"{record['parameters'] / 1e6:.2f} M parameters, {record['steps']} steps in {record['seconds'] / 60:.0f} minutes on "
        f"{record['device']}, {record['processes']} process(es) of {record['threads']} thread(s), {record['precision']}, "
        f"{record['peak_memory_gb']:.1f} GB.",
        "",
        *_measures_table(pooled),
        "",
        *_use_table(read_curves(root / "codec" / "log")),
    ]
    return "\n".join(lines)


def _measures_table(pooled: Mapping[str, Any]) -> list[str]:
    rows = pooled["rows"]
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    cells: dict[int, dict[str, str]] = {}
    for row in rows:
        mean = (
            "–" if row["mean"] is None else f"{row['mean']:.3g}" if row["measure"] != "stoi" else f"{row['mean']:.3f}"
        )
        cells.setdefault(row["levels"], {"kbit/s": f"{row['bitrate_bps'] / 1000:g}"})[row["measure"]] = mean
    head = ["levels", "kbit/s", *(pooled["titles"][measure] for measure in measures)]
    table = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for levels, values in sorted(cells.items()):
        table.append(f"| {levels} | {values['kbit/s']} | {' | '.join(values[measure] for measure in measures)} |")
    clips = max(row["clips"] for row in rows)
    missing = [
        f"{row['measure']} at {row['levels']} levels: without {row['empty']} of them ({row['why_empty']})"
        for row in rows
        if row["empty"]
    ]
    return [*table, "", "; ".join([f"Means over {clips} clips", *missing]) + "."]


def _use_table(curves: Mapping[str, Curve]) -> list[str]:
    """Perplexity of every level at the last validation."""
    levels = sorted(int(name.removeprefix(PERPLEXITY)) for name in curves if name.startswith(PERPLEXITY))
    if not levels:
        return []
    table = [f"| level | {' | '.join(map(str, levels))} |", "|---" * (len(levels) + 1) + "|"]
    for title, kind in (("perplexity in training", "train"), ("perplexity in validation", "validation")):
        values = [curves[f"{kind}/perplexity_level_{level}"].last for level in levels]
        table.append(f"| {title} | {' | '.join(f'{value:.0f}' for value in values)} |")
    return table
