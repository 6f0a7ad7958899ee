"""Fundamental frequency by autocorrelation: waveforms in, F0 per frame out."""

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]

LOWEST_HZ, HIGHEST_HZ = 65.0, 500.0  # of speaking voices, children's included, mains hum of 50 or 60 Hz not
WINDOW_SECONDS, HOP_SECONDS = 0.05, 0.01  # three periods of the lowest voice
VOICED_FROM = 0.5  # normalised autocorrelation at the period
OCTAVE_COST = 0.02  # per octave of period: of equally good multiples, the shortest
SILENT_BELOW_DB = -30.0  # under the loudest frame, a frame has no voice


def pitch_track(audio: Wave, *, sample_rate_hz: int) -> NDArray[np.float64]:
    """F0 of every frame: the strongest peak of the autocorrelation, divided by the window's own.

    Args:
        audio: (samples,) in [-1, 1].

    Returns:
        (frames,) in Hz, one every 10 ms, nan where there is no voice; no frame if `audio` is shorter than 50 ms.

    Source: Boersma (1993), "Accurate short-term analysis of the fundamental frequency", without its search for the best path:
    instead, frames are searched a second time within the speaker's own range (De Looze and Rauzy 2009), and a median over five
    frames removes single jumps. Not comparable with Praat's figures to the last percent.
    """
    frames = _frames(audio, sample_rate_hz)
    if not len(frames):
        return np.zeros(0)
    window = np.hanning(frames.shape[1])
    loudness = np.square(frames).sum(1)
    normalised = _autocorrelation((frames - frames.mean(1, keepdims=True)) * window)
    normalised /= np.maximum(_autocorrelation(window[None]), 1e-9)
    audible = loudness > max(loudness.max() * 10 ** (SILENT_BELOW_DB / 10), 1e-8 * frames.shape[1])
    track = _search(normalised, audible, sample_rate_hz, LOWEST_HZ, HIGHEST_HZ)
    if np.isfinite(track).any():
        low, high = np.nanpercentile(track, [35, 65])
        narrow = max(LOWEST_HZ, 0.72 * low - 10), min(HIGHEST_HZ, 1.9 * high + 10)
        track = _search(normalised, audible, sample_rate_hz, *narrow)
    return _without_jumps(track)


def voiced_share(pitch_hz: NDArray[np.float64]) -> float:
    """Frames that have a voice, of all; nan without frames."""
    return float(np.isfinite(pitch_hz).mean()) if len(pitch_hz) else float("nan")


def semitones(from_hz: float, to_hz: float) -> float:
    """How many twelfths of an octave one frequency lies above another."""
    return 12 * float(np.log2(to_hz / from_hz))


def _search(
    correlation: NDArray[np.float64], audible: NDArray[np.bool_], rate: int, lowest_hz: float, highest_hz: float
) -> NDArray[np.float64]:
    """F0 of every frame between two frequencies, nan where there is none."""
    strength, lag = _best_peak(correlation, np.arange(int(rate / highest_hz), int(np.ceil(rate / lowest_hz)) + 1))
    return np.where(audible & (strength > VOICED_FROM), rate / lag, np.nan)


def _frames(audio: Wave, rate: int) -> NDArray[np.float64]:
    window, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    if len(audio) < window:
        return np.zeros((0, window))
    return np.lib.stride_tricks.sliding_window_view(audio, window)[::hop].astype(np.float64)


def _autocorrelation(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows, lags), divided by its value at lag 0; a silent row is 0."""
    samples = frames.shape[1]
    spectrum = np.fft.rfft(frames, 2 ** int(np.ceil(np.log2(2 * samples))))
    correlation = np.fft.irfft(np.square(np.abs(spectrum)))[:, :samples]
    return correlation / np.maximum(correlation[:, :1], 1e-12)


def _best_peak(
    correlation: NDArray[np.float64], lags: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Height (rows,) and place (rows,) in samples, between the samples by a parabola; height 0 where there is no peak."""
    before, here, after = correlation[:, lags - 1], correlation[:, lags], correlation[:, lags + 1]
    curvature = before - 2 * here + after
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(curvature < 0, (before - after) / (2 * curvature), 0.0)
    peak = (here >= before) & (here > after)
    height = np.where(peak, here - (before - after) * shift / 4, 0.0)
    chosen = np.argmax(np.where(peak, height - OCTAVE_COST * np.log2(lags / lags[0]), -1.0), axis=1)
    rows = np.arange(len(chosen))
    return height[rows, chosen], lags[chosen] + shift[rows, chosen]


def _without_jumps(pitch_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """A voiced frame takes the median of the voiced ones among itself and its two neighbours on either side."""
    padded = np.pad(pitch_hz, 2, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, 5)
    voiced = np.isfinite(pitch_hz)
    result = np.full(len(pitch_hz), np.nan)
    result[voiced] = np.nanmedian(around[voiced], axis=1)
    return result
