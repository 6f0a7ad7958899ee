"""Pitch classes of music: how much of each of the twelve sounds, and in which key that is."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
WINDOW_SECONDS = 0.256  # a semitone at 100 Hz is 6 Hz wide
LOWEST_HZ, HIGHEST_HZ = 100.0, 2000.0
# Krumhansl and Kessler (1982), probe-tone ratings of the twelve classes above the tonic
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


@dataclass(frozen=True)
class Key:
    """A tonic (0 is C) with its mode, and how well the pitch classes fit it (correlation)."""

    tonic: int
    mode: Literal["major", "minor"]
    correlation: float

    def __str__(self) -> str:
        return f"{NAMES[self.tonic]} {self.mode}"


def chroma(audio: NDArray[np.float32], *, sample_rate_hz: int) -> NDArray[np.float64]:
    """How much of each pitch class sounds, (12,) from C, summing to 1; all 0 in silence.

    Spectral peaks between 100 and 2000 Hz (a semitone at the lower end is as wide as two bins), weighted with their magnitude,
    go to the nearest note of A = 440 Hz.

    Raises:
        ValueError: if `audio` (samples,) is shorter than the window of 256 ms.
    """
    window = round(WINDOW_SECONDS * sample_rate_hz)
    if len(audio) < window:
        raise ValueError(
            f"chroma needs at least {WINDOW_SECONDS:g} s of audio, got {len(audio) / sample_rate_hz:.3f} s"
        )
    frames = np.lib.stride_tricks.sliding_window_view(audio, window)[:: window // 4] * np.hanning(window)
    magnitude = np.abs(np.fft.rfft(frames, 2 * window))
    hz = np.fft.rfftfreq(2 * window, 1 / sample_rate_hz)
    inside = np.flatnonzero((hz >= LOWEST_HZ) & (hz <= HIGHEST_HZ))
    before, here, after = magnitude[:, inside - 1], magnitude[:, inside], magnitude[:, inside + 1]
    peaks = np.where((here > before) & (here >= after) & (here > 0.05 * magnitude.max()), here, 0.0).sum(0)
    classes = np.round(69 + 12 * np.log2(hz[inside] / 440)).astype(int) % 12
    sums: NDArray[np.float64] = np.bincount(classes, peaks, minlength=12).astype(np.float64)
    return sums / sums.sum() if sums.sum() > 0 else sums


def chroma_similarity(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Cosine of two chroma vectors (12,): 1 for the same classes in the same proportions; nan if one is silent."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else float("nan")


def key_strengths(classes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of a chroma vector (12,) with the profile of every key: (24,), the major keys from C, then the minor ones."""
    profiles = np.stack([np.roll(profile, tonic) for profile in (MAJOR, MINOR) for tonic in range(12)])
    if np.ptp(classes) == 0:
        return np.full(24, np.nan)
    return np.corrcoef(classes, profiles)[0, 1:]


def find_key(classes: NDArray[np.float64]) -> Key | None:
    """The key whose profile fits best; None for a chroma vector (12,) without a difference between the classes.

    Source: Krumhansl (1990), "Cognitive Foundations of Musical Pitch", chapter 4.
    """
    strengths = key_strengths(classes)
    if np.isnan(strengths).any():
        return None
    best = int(strengths.argmax())
    return Key(best % 12, "major" if best < 12 else "minor", float(strengths[best]))
