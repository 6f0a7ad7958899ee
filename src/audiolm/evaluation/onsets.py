"""Where notes begin, how many there are a second, and the tempo they make."""

import numpy as np
from numpy.typing import NDArray

from audiolm.evaluation.frechet import LOG_FLOOR

HOP_SECONDS, WINDOW_SECONDS = 0.01, 0.032
NEIGHBOURS_FRAMES = 3  # an onset is the highest of 30 ms on either side
FEWEST_SECONDS_APART = 0.05
ABOVE_MEAN = 0.3  # of the way from the mean of the strength to its maximum
SLOWEST_BPM, FASTEST_BPM, USUAL_BPM = 40.0, 240.0, 120.0
SHORTEST_SECONDS = 2.0  # that a tempo is found in: three beats at 90 per minute
LEAST_PERIODIC = 0.1  # autocorrelation of the strength, under which there is no tempo


def onset_strength(audio: NDArray[np.float32], *, sample_rate_hz: int) -> NDArray[np.float64]:
    """How much louder the bins of the spectrum became since the frame before: (frames,), one every 10 ms."""
    window, hop = round(WINDOW_SECONDS * sample_rate_hz), round(HOP_SECONDS * sample_rate_hz)
    padded = np.pad(audio, window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window)
    magnitude = np.abs(np.fft.rfft(frames)) / window
    rise = np.diff(np.log(magnitude + max(LOG_FLOOR, 1e-3 * float(magnitude.max()))), axis=0, prepend=0)
    rise[0] = 0
    return np.maximum(rise, 0).mean(1)


def onset_seconds(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times (onsets,) of the peaks of an onset strength (frames,)."""
    if not len(strength) or strength.max() <= 1e-6:
        return np.zeros(0)
    padded = np.pad(strength, NEIGHBOURS_FRAMES)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURS_FRAMES + 1).max(1)
    threshold = strength.mean() + ABOVE_MEAN * (strength.max() - strength.mean())
    found: list[float] = []
    for frame in np.flatnonzero((strength == highest) & (strength > threshold)):
        if not found or frame * HOP_SECONDS - found[-1] >= FEWEST_SECONDS_APART:
            found.append(frame * HOP_SECONDS)
    return np.array(found)


def tempo_bpm(strength: NDArray[np.float64]) -> float:
    """Beats per minute: the best period of an onset strength's autocorrelation, those near 120 bpm preferred.

    Returns:
        nan where nothing repeats, or for less than 2 s.

    Source: Ellis (2007), "Beat tracking by dynamic programming", section 3.2: a log-Gaussian weight, 0.9 octaves wide.
    """
    if len(strength) * HOP_SECONDS < SHORTEST_SECONDS or np.ptp(strength) <= 1e-9:
        return float("nan")
    centred = strength - strength.mean()
    smooth = np.convolve(centred, np.hanning(7)[1:-1] / np.hanning(7).sum(), mode="same")  # onsets fall between frames
    whole = np.correlate(smooth, smooth, mode="full")[len(smooth) - 1 :]
    correlation = whole / whole[0]
    longest = min(round(60 / SLOWEST_BPM / HOP_SECONDS), len(correlation) - 2)
    lags = np.arange(round(60 / FASTEST_BPM / HOP_SECONDS), longest + 1)
    peak = (correlation[lags] > correlation[lags - 1]) & (correlation[lags] >= correlation[lags + 1])
    octaves = np.log2(60 / (lags * HOP_SECONDS) / USUAL_BPM)
    score = np.where(peak, correlation[lags], 0) * np.exp(-0.5 * np.square(octaves / 0.9))
    best = int(score.argmax())
    if correlation[lags[best]] < LEAST_PERIODIC or not peak[best]:
        return float("nan")
    return 60 / (float(lags[best]) * HOP_SECONDS)


def tempo_change_octaves(before_bpm: float, after_bpm: float) -> float:
    """How far two tempi are apart, 0 to 0.5: halves and doubles count as the same, because an estimate often mistakes them."""
    octaves = abs(float(np.log2(after_bpm / before_bpm))) % 1
    return min(octaves, 1 - octaves)
