"""The report's pictures: small SVGs drawn with matplotlib, wide enough to be read on a phone without zooming."""

import base64
import contextlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray
from PIL import Image

from audiolm.codec.losses import mel_spectrogram
from audiolm.evaluation.curves import Curve
from audiolm.evaluation.reconstruction import MEL_DISTANCE_BINS, MEL_DISTANCE_WINDOW

# Okabe and Ito's colours, distinct to colour-blind readers; line styles differ as well
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#555555",
)
LINES = ((BLUE, "-"), (ORANGE, "-"), (GREEN, "--"), (VERMILLION, "-."), (PURPLE, ":"), (SKY, "--"))
POINTS = 300  # values drawn per curve
SHADES = 40  # of a spectrogram; fewer compress better and the eye sees no difference
RANGE_DB = 70.0  # from a spectrogram's loudest point to its darkest shade
STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters: small, sharp, and in the reader's own font
    "svg.hashsalt": "audiolm",  # the same numbers give the same bytes
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "axes.edgecolor": "#98a2ad",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}


class _Picture:
    """Axes to draw on; `svg` holds the result after the block."""

    figure: Figure
    axes: Axes
    svg: bytes = b""

    def legend_below(self, *, columns: int) -> None:
        """A legend that covers nothing."""
        self.figure.legend(loc="outside lower center", ncols=columns)


@contextlib.contextmanager
def _picture(*, height: float = 2.5, width: float = 4.2) -> Iterator[_Picture]:
    """A figure of so many inches, a hundred of the page's pixels each. Needs no display: pyplot is not involved."""
    with matplotlib.rc_context(STYLE):
        picture = _Picture()
        picture.figure = Figure(figsize=(width, height), layout="constrained")
        picture.axes = picture.figure.add_subplot()
        yield picture
        buffer = io.BytesIO()
        picture.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        picture.svg = buffer.getvalue()


def curves_picture(
    title: str,
    curves: Mapping[str, Curve],
    *,
    unit: str,
    levels: Mapping[str, float] | None = None,
    logarithmic: bool = False,
) -> bytes:
    """Lines over steps, and horizontal lines to compare them with, as SVG.

    Args:
        curves: label to curve.
        unit: label of the vertical axis.
        levels: label to value of the horizontal lines.
        logarithmic: for quantities that span powers of ten; what is not positive is not drawn.
    """
    with _picture(height=2.8) as picture:
        axes = picture.axes
        for (label, curve), (colour, style) in zip(curves.items(), _repeated(LINES, len(curves)), strict=True):
            drawn = curve.thinned(POINTS)
            marker = "o" if len(drawn.steps) < 30 else ""
            axes.plot(
                drawn.steps, drawn.values, color=colour, linestyle=style, marker=marker, markersize=3, label=label
            )
        for (label, value), (colour, style) in zip(
            (levels or {}).items(), ((GREY, ":"), (VERMILLION, "--")), strict=False
        ):
            axes.axhline(value, color=colour, linestyle=style, linewidth=1.3, label=f"{label} {value:.2f}")
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))  # 60, not 6 x 10^1; few of them
        axes.set(title=title, xlabel="step", ylabel=unit)
        picture.legend_below(columns=3 if len(curves) > 2 else 2)
    return picture.svg


def level_curves_picture(title: str, curves: Mapping[int, Curve], *, unit: str) -> bytes:
    """One line per quantizer level, dark for coarse and light for fine, as SVG."""
    with _picture() as picture:
        axes, colours = picture.axes, matplotlib.colormaps["viridis"]
        for position, (level, curve) in enumerate(curves.items()):
            drawn = curve.thinned(POINTS)
            colour = colours(0.9 * position / max(1, len(curves) - 1))
            axes.plot(drawn.steps, drawn.values, color=colour, label=f"level {level}", linewidth=1.3)
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.set_ylim(bottom=0)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    return picture.svg


def per_level_picture(title: str, series: Mapping[str, Mapping[int, float]], *, unit: str) -> bytes:
    """Points over quantizer levels, one marker per series, as SVG."""
    markers = ((BLUE, "o"), (GREY, "v"), (VERMILLION, "s"))
    with _picture(height=2.8) as picture:
        axes = picture.axes
        for (label, values), (colour, marker) in zip(series.items(), _repeated(markers, len(series)), strict=True):
            axes.plot(list(values), list(values.values()), color=colour, marker=marker, linestyle=":", label=label)
        axes.set_xticks(sorted({level for values in series.values() for level in values}))
        axes.set(title=title, xlabel="quantizer level", ylabel=unit)
        picture.legend_below(columns=3)
    return picture.svg


def lengths_picture(seconds: Mapping[str, NDArray[np.float64]]) -> bytes:
    """Histogram of utterance lengths, splits stacked, as SVG."""
    longest = max((float(values.max()) for values in seconds.values() if len(values)), default=1.0)
    with _picture(height=2.2) as picture:
        axes = picture.axes
        axes.hist(
            list(seconds.values()),
            bins=list(np.linspace(0, longest, 31)),
            stacked=True,
            color=[BLUE, ORANGE, GREEN][: len(seconds)],
            label=list(seconds),
        )
        axes.set(title="How long utterances are", xlabel="seconds", ylabel="utterances")
        axes.legend(loc="best")
    return picture.svg


def unit_use_picture(shares: NDArray[np.float64]) -> bytes:
    """How often each semantic unit occurs, most frequent first, as SVG.

    Args:
        shares: (clusters,) summing to 1.
    """
    relative = np.sort(shares)[::-1] * len(shares)
    with _picture() as picture:
        axes = picture.axes
        axes.fill_between(np.arange(1, len(relative) + 1), relative, color=SKY, alpha=0.6, step="mid", linewidth=0)
        axes.axhline(1, color=VERMILLION, linestyle="--", linewidth=1.3, label="all equally often")
        axes.set(title="Use of the units", xlabel="unit, most frequent first", ylabel="times the average")
        axes.set_xlim(1, len(relative))
        axes.set_ylim(bottom=0)
        axes.legend(loc="best")
    return picture.svg


def log_mel(audio: NDArray[np.float32], *, sample_rate_hz: int) -> NDArray[np.float32]:
    """Mel spectrogram in dB, (bins, frames), with the settings that mel distance is measured with."""
    padded = np.pad(audio, (0, max(0, MEL_DISTANCE_WINDOW - len(audio))))
    mel = mel_spectrogram(
        torch.from_numpy(padded)[None],
        sample_rate_hz=sample_rate_hz,
        window=MEL_DISTANCE_WINDOW,
        bins=MEL_DISTANCE_BINS,
    )
    return (20 * torch.log10(mel[0] + 1e-5)).numpy()


def spectrogram_picture(
    mel_db: NDArray[np.float32], *, seconds: float, sample_rate_hz: int, top_db: float, boundary_seconds: float | None
) -> bytes:
    """A spectrogram as SVG; where a prompt ends, a vertical line (id `prompt-boundary`) with a label on either side.

    Args:
        mel_db: from `log_mel`.
        seconds: the audio's length.
        top_db: value of the brightest shade; give related pictures the same one.
        boundary_seconds: where the prompt ends, or None.
    """
    shade = np.clip((mel_db - top_db) / RANGE_DB + 1, 0, 1)
    shade = np.round(shade * (SHADES - 1)) / (SHADES - 1)
    bins = len(mel_db)
    with _picture(height=1.55) as picture:
        axes = picture.axes
        axes.imshow(
            shade,
            origin="lower",
            aspect="auto",
            interpolation="none",
            cmap="magma",
            vmin=0,
            vmax=1,
            extent=(0, seconds, 0, bins),
        )
        heights = [hz for hz in (500, 1000, 2000, 4000, 8000) if hz < sample_rate_hz / 2]
        axes.set_yticks([_bin(hz, bins, sample_rate_hz) for hz in heights], [f"{hz / 1000:g}" for hz in heights])
        axes.set(xlabel="seconds", ylabel="kHz")
        axes.grid(visible=False)
        if boundary_seconds is not None:
            axes.axvline(boundary_seconds, color="white", linewidth=2.6)
            line = axes.axvline(boundary_seconds, color=BLUE, linewidth=1.4, linestyle=(0, (4, 2)))
            line.set_gid("prompt-boundary")
            top = axes.get_xaxis_transform()  # seconds across, shares of the height upward
            axes.text(boundary_seconds, 1.03, "prompt ◂ ", ha="right", transform=top, fontsize=8, color=BLUE)
            axes.text(boundary_seconds, 1.03, " ▸ continuation", ha="left", transform=top, fontsize=8, color=BLUE)
    return _with_palette(picture.svg)


def _with_palette(svg: bytes) -> bytes:
    """The same picture, its embedded PNG in as many colours as it has shades: a third of the bytes."""

    def smaller(found: re.Match[bytes]) -> bytes:
        buffer = io.BytesIO()
        image = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")
        image.quantize(SHADES, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
        return b"data:image/png;base64," + base64.b64encode(buffer.getvalue())

    return re.sub(rb"data:image/png;base64,([\sA-Za-z0-9+/=]+)", smaller, svg)


def _bin(hz: float, bins: int, sample_rate_hz: int) -> float:
    """Where a frequency lies on the mel axis: bins are evenly spaced in mel, from 0 Hz to half the sample rate."""
    return math.log1p(hz / 700) / math.log1p(sample_rate_hz / 2 / 700) * (bins + 1) - 0.5


def _repeated(styles: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    return [styles[position % len(styles)] for position in range(count)]
