"""What is measured of one passage: numbers before its seam, after it, and how far they differ."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audiolm.evaluation import chroma, loudness, onsets, pitch, seams
from audiolm.evaluation.passages import Passage
from audiolm.evaluation.speaking_rate import syllables

Wave = NDArray[np.float32]

RATE_HZ = 16000  # all audio is measured at this rate

SPEECH = {
    "f0_before_hz": "F0 before (Hz)",
    "f0_after_hz": "F0 after (Hz)",
    "f0_step_semitones": "F0 step (semitones)",
    "f0_spread_before_semitones": "F0 spread before (semitones)",
    "f0_spread_after_semitones": "F0 spread after (semitones)",
    "voiced_share_before": "voiced before",
    "voiced_share_after": "voiced after",
    "syllables_per_s_before": "syllables/s before",
    "syllables_per_s_after": "syllables/s after",
    "syllables_per_s_step": "syllables/s step",
}
BOTH = {
    "level_before_db": "level before (dB)",
    "level_after_db": "level after (dB)",
    "level_step_db": "level step (dB)",
    "silence_share_before": "silence before",
    "silence_share_after": "silence after",
    "seam_loudness_step_db": "loudness step at the seam (dB)",
    "seam_spectral_step_db": "spectral step at the seam (dB)",
}
MUSIC = {
    "chroma_similarity": "chroma similarity",
    "same_key": "same key",
    "key_similarity": "key similarity",
    "key_clarity_before": "key clarity before",
    "key_clarity_after": "key clarity after",
    "onsets_per_s_before": "onsets/s before",
    "onsets_per_s_after": "onsets/s after",
    "onsets_per_s_step": "onsets/s step",
    "tempo_before_bpm": "tempo before (bpm)",
    "tempo_after_bpm": "tempo after (bpm)",
    "tempo_step_octaves": "tempo step (octaves)",
}


@dataclass(frozen=True)
class Measured:
    """One number, or the reason why there is none: a line of `files.csv`."""

    file: str
    kind: str
    measure: str
    value: float | None
    why_empty: str = ""


def titles(*, music: bool) -> dict[str, str]:
    """The measures of every passage with their headings, in the order of the table."""
    return (MUSIC if music else SPEECH) | BOTH


def measure_passage(passage: Passage, *, music: bool) -> list[Measured]:
    """Every measure of one passage, at 16 kHz.

    A step is the absolute difference between after and before the seam: of medians of F0 in semitones, of mean levels of what is
    not silent in dB. Silence is 40 dB below the loud frames of the whole passage.
    """
    before, after = passage.read(sample_rate_hz=RATE_HZ)
    values = _loudness(before, after) | (_music(before, after) if music else _speech(before, after))
    return [
        Measured(passage.id, passage.kind, name, *_value_or_why(values[name], name)) for name in titles(music=music)
    ]


def _value_or_why(value: float, name: str) -> tuple[float | None, str]:
    if np.isfinite(value):
        return float(value), ""
    causes = {"f0": "no voice", "chroma": "silence", "key": "no key", "same": "no key", "tempo": "no regular beat"}
    return None, next((why for start, why in causes.items() if name.startswith(start)), "silence")


def _loudness(before: Wave, after: Wave) -> dict[str, float]:
    levels, threshold = _levels(before, after)
    active = [loudness.active_level_db(side, threshold_db=threshold) for side in levels]
    shares = [loudness.silence_share(side, threshold_db=threshold) for side in levels]
    steps = {
        "level_step_db": abs(active[1] - active[0]),
        "seam_loudness_step_db": abs(seams.loudness_step_db(before, after, sample_rate_hz=RATE_HZ)),
        "seam_spectral_step_db": seams.spectral_step_db(before, after, sample_rate_hz=RATE_HZ),
    }
    return _sides("level_{}_db", active) | _sides("silence_share_{}", shares) | steps


def _speech(before: Wave, after: Wave) -> dict[str, float]:
    levels, threshold = _levels(before, after)
    tracks = [pitch.pitch_track(side, sample_rate_hz=RATE_HZ) for side in (before, after)]
    medians = [_median(track) for track in tracks]
    rates = [
        syllables(level, track, threshold_db=threshold) / (len(side) / RATE_HZ)
        for level, track, side in zip(levels, tracks, (before, after), strict=True)
    ]
    spreads = [_spread_semitones(track) for track in tracks]
    return {
        **_sides("f0_{}_hz", medians),
        **_sides("f0_spread_{}_semitones", spreads),
        **_sides("voiced_share_{}", [pitch.voiced_share(track) for track in tracks]),
        **_sides("syllables_per_s_{}", rates),
        "f0_step_semitones": abs(pitch.semitones(medians[0], medians[1])),
        "syllables_per_s_step": abs(rates[1] - rates[0]),
    }


def _music(before: Wave, after: Wave) -> dict[str, float]:
    classes = [chroma.chroma(side, sample_rate_hz=RATE_HZ) for side in (before, after)]
    keys = [chroma.find_key(side) for side in classes]
    strengths = [onsets.onset_strength(side, sample_rate_hz=RATE_HZ) for side in (before, after)]
    rates = [
        len(onsets.onset_seconds(strength)) / (len(side) / RATE_HZ)
        for strength, side in zip(strengths, (before, after), strict=True)
    ]
    tempi = [onsets.tempo_bpm(strength) for strength in strengths]
    same, similar = float("nan"), float("nan")
    if keys[0] and keys[1]:
        same = float((keys[0].tonic, keys[0].mode) == (keys[1].tonic, keys[1].mode))
        similar = float(np.corrcoef([chroma.key_strengths(side) for side in classes])[0, 1])
    return {
        **_sides("key_clarity_{}", [key.correlation if key else float("nan") for key in keys]),
        **_sides("onsets_per_s_{}", rates),
        **_sides("tempo_{}_bpm", tempi),
        "chroma_similarity": chroma.chroma_similarity(*classes),
        "same_key": same,
        "key_similarity": similar,
        "onsets_per_s_step": abs(rates[1] - rates[0]),
        "tempo_step_octaves": onsets.tempo_change_octaves(tempi[0], tempi[1]),
    }


def _levels(before: Wave, after: Wave) -> tuple[list[NDArray[np.float64]], float]:
    levels = [loudness.frame_levels_db(side, sample_rate_hz=RATE_HZ) for side in (before, after)]
    return levels, loudness.silence_threshold_db(np.concatenate(levels))


def _sides(name: str, values: list[float]) -> dict[str, float]:
    return {name.format(side): value for side, value in zip(("before", "after"), values, strict=True)}


def _median(track: NDArray[np.float64]) -> float:
    voiced = track[np.isfinite(track)]
    return float(np.median(voiced)) if len(voiced) else float("nan")


def _spread_semitones(track: NDArray[np.float64]) -> float:
    """Distance of the quartiles of F0: how lively the melody is, without being moved by single octave errors."""
    voiced = track[np.isfinite(track)]
    if not len(voiced):
        return float("nan")
    low, high = np.percentile(voiced, [25, 75])
    return pitch.semitones(float(low), float(high))
