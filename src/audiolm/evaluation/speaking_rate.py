"""Syllables per second, by peaks of loudness that have a voice."""

import numpy as np
from numpy.typing import NDArray

DIP_DB = 2.0  # between two syllables the level falls by so much
SMOOTHED_FRAMES = 5


def syllables(levels_db: NDArray[np.float64], pitch_hz: NDArray[np.float64], *, threshold_db: float) -> int:
    """Count syllable nuclei: peaks of the level above a threshold and 2 dB above the dip since the last, where there is a voice.

    Args:
        levels_db: (frames,) of `loudness.frame_levels_db`.
        pitch_hz: (frames,) of `pitch.pitch_track`, nan without a voice, at the same rate; it may be some frames shorter.

    Source: de Jong and Wempe (2009), "Praat script to detect syllable nuclei". An estimate, good for comparing.
    """
    if not len(levels_db):
        return 0
    width = min(SMOOTHED_FRAMES, len(levels_db))
    smooth = np.convolve(np.pad(levels_db, width // 2, mode="edge"), np.ones(width) / width, mode="valid")
    voiced = np.isfinite(pitch_hz)
    near = np.zeros(len(smooth), dtype=bool)
    near[: len(voiced)] = voiced[: len(near)]
    near[1:] |= near[:-1].copy()  # windows of pitch and level differ by a frame
    near[:-1] |= near[1:].copy()
    return sum(bool(near[frame]) and smooth[frame] > threshold_db for frame in _peaks(smooth))


def _peaks(levels_db: NDArray[np.float64]) -> list[int]:
    """Frames of the maxima between which, and before and after which, the level lies at least `DIP_DB` lower."""
    found: list[int] = []
    lowest, highest, rising = float(levels_db[0]), 0, True
    for frame, level in enumerate(levels_db):
        if rising:
            if level > levels_db[highest]:
                highest = frame
            elif levels_db[highest] - level >= DIP_DB:
                if levels_db[highest] - lowest >= DIP_DB or not found:
                    found.append(highest)
                rising, lowest = False, float(level)
        elif level < lowest:
            lowest = float(level)
        elif level - lowest >= DIP_DB:
            rising, highest = True, frame
    return found + ([highest] if rising and levels_db[highest] - lowest >= DIP_DB else [])
