"""Originals and their reconstructions, one above the other."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from audiolm.evaluation.report_pictures import RANGE_DB, log_mel

Wave = NDArray[np.float32]


def reconstructions_picture(pairs: Sequence[tuple[Wave, Wave]], *, sample_rate_hz: int) -> bytes:
    """Log-mel spectrograms as PNG: per pair of waveforms (samples,) a column, the original above; one scale per column."""
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(3.2 * len(pairs), 3.4), layout="constrained", dpi=110)
        axes = figure.subplots(2, len(pairs), squeeze=False, sharex="col")
        for column, pair in enumerate(pairs):
            mels = [log_mel(wave, sample_rate_hz=sample_rate_hz) for wave in pair]
            top = float(mels[0].max())
            for row, (mel, name) in enumerate(zip(mels, ("original", "reconstruction"), strict=True)):
                panel = axes[row][column]
                seconds = len(pair[row]) / sample_rate_hz
                panel.imshow(
                    mel,
                    origin="lower",
                    aspect="auto",
                    cmap="magma",
                    vmin=top - RANGE_DB,
                    vmax=top,
                    extent=(0, seconds, 0, len(mel)),
                )
                panel.set(title=f"{name} {column + 1}", yticks=[], ylabel="mel" if not column else None)
            axes[1][column].set_xlabel("seconds")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()
