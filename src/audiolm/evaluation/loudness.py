"""How loud audio is, frame by frame, and how much of it is silence."""

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]

WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.01
FLOOR_DB = -80.0  # of full scale: as `audio.SILENCE_PEAK`; digital silence is as loud
SILENT_BELOW_DB = -40.0  # under the loud frames (95th percentile), a frame is a pause


def rms_db(audio: Wave) -> float:
    """Root mean square of (samples,) in dB of full scale, not below -80.

    Raises:
        ValueError: if there is no sample.
    """
    if not len(audio):
        raise ValueError("the loudness of no samples was asked for: the stretch is empty")
    power = float(np.square(audio, dtype=np.float64).mean())
    return max(FLOOR_DB, 10 * float(np.log10(max(power, 1e-12))))


def frame_levels_db(audio: Wave, *, sample_rate_hz: int) -> NDArray[np.float64]:
    """Root mean square of every 25 ms, (frames,) in dB of full scale, one every 10 ms; audio shorter than one has none."""
    window, hop = round(WINDOW_SECONDS * sample_rate_hz), round(HOP_SECONDS * sample_rate_hz)
    if len(audio) < window:
        return np.zeros(0)
    sums = np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64))])
    starts = np.arange(0, len(audio) - window + 1, hop)
    power = (sums[starts + window] - sums[starts]) / window
    return np.maximum(FLOOR_DB, 10 * np.log10(np.maximum(power, 1e-12)))


def silence_threshold_db(levels_db: NDArray[np.float64]) -> float:
    """Under it a frame is silent: 40 dB below the loud frames of these levels, and never below -80 dB."""
    return max(FLOOR_DB, float(np.percentile(levels_db, 95)) + SILENT_BELOW_DB)


def silence_share(levels_db: NDArray[np.float64], *, threshold_db: float) -> float:
    """Frames at or under a threshold, of all; nan without frames."""
    return float((levels_db <= threshold_db).mean()) if len(levels_db) else float("nan")


def active_level_db(levels_db: NDArray[np.float64], *, threshold_db: float) -> float:
    """Mean power of the frames above a threshold, in dB; nan if there are none."""
    active = levels_db[levels_db > threshold_db]
    return 10 * float(np.log10(np.power(10, active / 10).mean())) if len(active) else float("nan")
