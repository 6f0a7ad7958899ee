"""The place where a continuation begins: does the loudness, or the spectrum, jump there?"""

import numpy as np
from numpy.typing import NDArray

from audiolm.evaluation.loudness import rms_db

Wave = NDArray[np.float32]

SEAM_SECONDS = 0.05  # on either side: a few periods of a voice, shorter than a syllable


def loudness_step_db(before: Wave, after: Wave, *, sample_rate_hz: int, seconds: float = SEAM_SECONDS) -> float:
    """How much louder the first `seconds` after a seam are than the last before it, in dB.

    Levels do not fall below -80 dB of full scale, so that silence beside silence is no step. Speech steps up and down by itself:
    compare with the steps at random places of real recordings.

    Args:
        before, after: (samples,) on either side of the seam.

    Raises:
        ValueError: if a side is shorter than `seconds`.
    """
    last, first = _beside(before, after, sample_rate_hz, seconds)
    return rms_db(first) - rms_db(last)


def spectral_step_db(before: Wave, after: Wave, *, sample_rate_hz: int, seconds: float = SEAM_SECONDS) -> float:
    """Root mean square difference of the two sides' log spectra in third octaves from 100 Hz, each side at its own loudness.

    A change of colour, where `loudness_step_db` is one of level. Bands more than 60 dB below a side's sum are taken as that.

    Args:
        before, after: (samples,) on either side of the seam.

    Raises:
        ValueError: if a side is shorter than `seconds`.
    """
    sides = [_bands_db(side, sample_rate_hz) for side in _beside(before, after, sample_rate_hz, seconds)]
    return float(np.sqrt(np.square(sides[1] - sides[0]).mean()))


def _beside(before: Wave, after: Wave, rate: int, seconds: float) -> tuple[Wave, Wave]:
    samples = round(seconds * rate)
    if min(len(before), len(after)) < samples:
        raise ValueError(
            f"a seam is measured over {seconds:g} s on either side, but there are {len(before) / rate:.3f} s before it and "
            f"{len(after) / rate:.3f} s after it: leave such audio out"
        )
    return before[-samples:], after[:samples]


def _bands_db(audio: Wave, rate: int) -> NDArray[np.float64]:
    power = np.square(np.abs(np.fft.rfft(audio.astype(np.float64) * np.hanning(len(audio)))))
    hz = np.fft.rfftfreq(len(audio), 1 / rate)
    edges = 100 * 2 ** (np.arange(0, int(3 * np.log2(rate / 2 / 100)) + 1) / 3)
    band = np.digitize(hz, edges)
    sums = np.bincount(band, power, minlength=len(edges) + 1)[1:-1]
    filled = np.bincount(band, minlength=len(edges) + 1)[1:-1] > 0  # the lowest are narrower than a bin
    sums = sums[filled]
    return 10 * np.log10(np.maximum(sums / max(sums.sum(), 1e-12), 1e-6))
