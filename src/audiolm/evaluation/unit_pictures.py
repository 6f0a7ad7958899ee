"""One utterance and its units: waveform, spectrogram, phones and units on one time axis."""

import io
from collections.abc import Sequence
from itertools import groupby

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from audiolm.evaluation.alignments import Interval
from audiolm.evaluation.report_pictures import BLUE, GREY, RANGE_DB, SHADES, STYLE, _with_palette, log_mel

INCHES_PER_SECOND = 3.0
SMALLEST_LABEL_SECONDS = 0.03  # narrower boxes stay empty: their label would lie over its neighbours'


def units_picture(
    audio: NDArray[np.float32],
    units: NDArray[np.int64],
    intervals: Sequence[Interval],
    *,
    sample_rate_hz: int,
    rate_hz: float,
    title: str,
) -> bytes:
    """Draw an utterance as SVG; a unit's colour depends on its number only, repeats share a box.

    Args:
        audio: (samples,).
        units: (frames,), `rate_hz` of them a second.
        intervals: its phones.
    """
    seconds = len(audio) / sample_rate_hz
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(max(6.0, INCHES_PER_SECOND * seconds), 4.2), layout="constrained")
        wave, spectrogram, phones, tokens = figure.subplots(4, 1, sharex=True, height_ratios=(2, 4, 1, 1))
        wave.plot(*_envelope(audio, sample_rate_hz), color=BLUE, linewidth=0.4)
        wave.set(title=title, ylabel="waveform", yticks=[], xlim=(0, seconds))
        mel = log_mel(audio, sample_rate_hz=sample_rate_hz)
        shade = np.round(np.clip((mel - mel.max()) / RANGE_DB + 1, 0, 1) * (SHADES - 1)) / (SHADES - 1)
        spectrogram.imshow(
            shade, origin="lower", aspect="auto", interpolation="none", cmap="magma", extent=(0, seconds, 0, len(mel))
        )
        spectrogram.set(ylabel="mel", yticks=[])
        boxes = [(i.start_seconds, min(i.end_seconds, seconds), i.phone, "white") for i in intervals]
        _boxes(phones, boxes, label="phones", gid="phone")
        _boxes(tokens, _runs(units, rate_hz, seconds), label="units", gid="unit")
        tokens.set_xlabel("seconds")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _with_palette(buffer.getvalue())


def _envelope(audio: NDArray[np.float32], sample_rate_hz: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Least and greatest sample of every 5 ms, in turn: what a thousand samples to the inch look like."""
    step = max(1, sample_rate_hz // 200)
    whole = np.pad(audio, (0, -len(audio) % step)).reshape(-1, step)
    return np.arange(2 * len(whole)) * step / 2 / sample_rate_hz, np.stack([whole.min(1), whole.max(1)], 1).ravel()


def _runs(units: NDArray[np.int64], rate_hz: float, seconds: float) -> list[tuple[float, float, str, str]]:
    boxes, start = [], 0
    colours = matplotlib.colormaps["Set3"]
    for unit, run in groupby(units.tolist()):
        end = start + len(list(run))
        colour = matplotlib.colors.to_hex(colours(unit * 7 % 12))
        boxes.append((start / rate_hz, min(end / rate_hz, seconds), str(unit), colour))
        start = end
    return boxes


def _boxes(axes: Axes, boxes: Sequence[tuple[float, float, str, str]], *, label: str, gid: str) -> None:
    for number, (start, end, text, colour) in enumerate(boxes):
        (bar,) = axes.barh(0.5, end - start, left=start, height=1, color=colour, edgecolor=GREY, linewidth=0.4)
        bar.set_gid(f"{gid}-{number}")
        if end - start >= SMALLEST_LABEL_SECONDS:
            size = min(7.0, 110 * (end - start) / max(1, len(text)))
            axes.text((start + end) / 2, 0.5, text, ha="center", va="center", fontsize=size)
    axes.set(ylabel=label, yticks=[], ylim=(0, 1))
