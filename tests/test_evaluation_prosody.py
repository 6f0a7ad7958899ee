"""Measures of prosody and music on tones, clicks, chords and Gaussians whose numbers are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from audiolm.evaluation import chroma, loudness, onsets, pitch, seams
from audiolm.evaluation.frechet import Gaussian, fit, frechet_distance, log_mel_frames
from audiolm.evaluation.speaking_rate import syllables

RATE = 16000
RANDOM = np.random.default_rng(0)


def tone(hz: float, seconds: float = 1.0, *, amplitude: float = 0.3, harmonics: int = 1) -> NDArray[np.float32]:
    time = np.arange(round(seconds * RATE)) / RATE
    waves = sum(np.sin(2 * np.pi * hz * n * time) / n for n in range(1, harmonics + 1))
    return (amplitude * waves / harmonics).astype(np.float32)


def noise(seconds: float = 1.0, *, amplitude: float = 0.1) -> NDArray[np.float32]:
    return (amplitude * RANDOM.standard_normal(round(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize("harmonics", [1, 8])
@pytest.mark.parametrize("hz", [70, 110, 220, 310.7, 450])
def test_f0_of_a_tone_is_its_frequency(hz: float, harmonics: int) -> None:
    track = pitch.pitch_track(tone(hz, harmonics=harmonics), sample_rate_hz=RATE)
    assert np.isfinite(track).all()
    np.testing.assert_allclose(track, hz, rtol=0.01)


def test_f0_of_a_voice_without_its_fundamental_is_still_its_period() -> None:
    audio = tone(150 * 2) + tone(150 * 3) + tone(150 * 4)
    assert np.nanmedian(pitch.pitch_track(audio, sample_rate_hz=RATE)) == pytest.approx(150, rel=0.01)


def test_noise_and_silence_have_no_voice_and_half_a_tone_half_of_one() -> None:
    assert pitch.voiced_share(pitch.pitch_track(noise(), sample_rate_hz=RATE)) < 0.1
    assert pitch.voiced_share(pitch.pitch_track(np.zeros(RATE, np.float32), sample_rate_hz=RATE)) == 0
    half = np.concatenate([tone(200), noise(1.0, amplitude=0.0005)])
    assert pitch.voiced_share(pitch.pitch_track(half, sample_rate_hz=RATE)) == pytest.approx(0.5, abs=0.04)
    assert len(pitch.pitch_track(tone(200, 0.04), sample_rate_hz=RATE)) == 0


def test_mains_hum_in_the_pauses_is_no_voice() -> None:
    """Some LibriSpeech recordings hum at 60 Hz: a quarter of their frames once counted as a voice of 60 Hz."""
    hum = tone(60, 2.0, amplitude=0.005)
    audio = hum + np.concatenate([tone(200, 1.0, harmonics=4), np.zeros(RATE, np.float32)])
    track = pitch.pitch_track(audio, sample_rate_hz=RATE)
    assert np.nanmin(track) > 190
    assert pitch.voiced_share(track) == pytest.approx(0.5, abs=0.04)
    assert not np.isfinite(pitch.pitch_track(hum, sample_rate_hz=RATE)).any()


def test_the_second_search_keeps_to_the_range_of_the_speaker() -> None:
    """Where its fourth harmonic is all there is, a voice of 110 Hz does not rise two octaves; 440 Hz alone are 440 Hz."""
    audio = np.concatenate([tone(110, 2.0, harmonics=6), tone(440, 0.5)])
    assert np.nanmax(pitch.pitch_track(audio, sample_rate_hz=RATE)) < 1.9 * 110 + 15
    assert np.nanmax(pitch.pitch_track(tone(440), sample_rate_hz=RATE)) == pytest.approx(440, rel=0.01)


def test_an_octave_is_twelve_semitones() -> None:
    assert pitch.semitones(110, 220) == pytest.approx(12)
    assert pitch.semitones(220, 110) == pytest.approx(-12)


def test_a_step_of_6_db_at_the_seam_is_6_db() -> None:
    audio = tone(200, 1.0)
    louder = audio * 10 ** (6 / 20)
    assert seams.loudness_step_db(audio, louder, sample_rate_hz=RATE) == pytest.approx(6, abs=1e-4)
    assert seams.loudness_step_db(louder, audio, sample_rate_hz=RATE) == pytest.approx(-6, abs=1e-4)
    assert seams.spectral_step_db(audio, louder, sample_rate_hz=RATE) == pytest.approx(0, abs=1e-4)


def test_silence_beside_silence_is_no_step_and_only_the_seam_counts() -> None:
    silence = np.zeros(RATE, np.float32)
    assert seams.loudness_step_db(silence, silence, sample_rate_hz=RATE) == 0
    late, early = np.concatenate([silence, tone(200)]), np.concatenate([tone(200), silence])
    assert seams.loudness_step_db(silence, late, sample_rate_hz=RATE) == 0
    assert seams.loudness_step_db(early, silence, sample_rate_hz=RATE) == 0
    assert seams.loudness_step_db(silence, tone(200, amplitude=1), sample_rate_hz=RATE) == pytest.approx(77, abs=0.1)


def test_another_colour_at_the_same_loudness_is_a_spectral_step() -> None:
    low, high = tone(200), tone(3000)
    assert seams.loudness_step_db(low, high, sample_rate_hz=RATE) == pytest.approx(0, abs=0.1)
    assert seams.spectral_step_db(low, high, sample_rate_hz=RATE) > 10


def test_a_seam_without_a_side_is_an_error() -> None:
    with pytest.raises(ValueError, match="0.010 s before"):
        seams.loudness_step_db(tone(200, 0.01), tone(200), sample_rate_hz=RATE)
    with pytest.raises(ValueError, match="no samples"):
        loudness.rms_db(np.zeros(0, np.float32))


def test_levels_of_a_tone_and_the_share_of_silence() -> None:
    audio = np.concatenate([tone(200, 3.0, amplitude=0.5), np.zeros(RATE, np.float32)])
    levels = loudness.frame_levels_db(audio, sample_rate_hz=RATE)
    threshold = loudness.silence_threshold_db(levels)
    assert levels[50] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert levels[-1] == loudness.FLOOR_DB
    assert loudness.silence_share(levels, threshold_db=threshold) == pytest.approx(0.25, abs=0.01)
    assert loudness.active_level_db(levels, threshold_db=threshold) == pytest.approx(levels[50], abs=0.05)
    assert np.isnan(loudness.active_level_db(levels[-5:], threshold_db=threshold))


@pytest.mark.parametrize("count", [1, 4, 9])
def test_bursts_of_voice_are_syllables_and_bursts_of_noise_are_not(count: int) -> None:
    shape = np.tile(np.concatenate([np.hanning(2400), np.zeros(800)]), count).astype(np.float32)
    for audio, expected in (
        (tone(150, len(shape) / RATE, harmonics=5) * shape, count),
        (noise(len(shape) / RATE) * shape, 0),
    ):
        levels = loudness.frame_levels_db(audio, sample_rate_hz=RATE)
        track = pitch.pitch_track(audio, sample_rate_hz=RATE)
        threshold = loudness.silence_threshold_db(levels)
        assert syllables(levels, track, threshold_db=threshold) == expected


def test_a_steady_tone_is_no_row_of_syllables() -> None:
    levels = loudness.frame_levels_db(tone(150), sample_rate_hz=RATE)
    assert syllables(levels, pitch.pitch_track(tone(150), sample_rate_hz=RATE), threshold_db=-60) <= 1
    assert syllables(np.zeros(0), np.zeros(0), threshold_db=-60) == 0


def gaussian(mean: list[float], covariance: list[list[float]]) -> Gaussian:
    return Gaussian(np.array(mean), np.array(covariance), 100)


def test_frechet_distance_of_known_gaussians() -> None:
    unit = gaussian([0, 0], [[1, 0], [0, 1]])
    assert frechet_distance(unit, unit) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(unit, gaussian([3, 4], [[1, 0], [0, 1]])) == pytest.approx(25)
    wide = gaussian([0, 0], [[9, 0], [0, 4]])  # (3 - 1)² + (2 - 1)²
    assert frechet_distance(unit, wide) == pytest.approx(5)
    flat = gaussian([0, 0], [[1, 0], [0, 0]])  # a covariance without full rank
    assert frechet_distance(unit, flat) == pytest.approx(1)


def test_frechet_distance_agrees_with_a_general_matrix_root_and_is_symmetric() -> None:
    a, b = (np.cov(RANDOM.standard_normal((6, 40)) * RANDOM.uniform(0.5, 3, (6, 1))) for _ in range(2))
    root_trace = np.sqrt(
        np.linalg.eigvals(a @ b).real
    ).sum()  # eigenvalues of a product of covariances are not negative
    expected = 6 + np.trace(a) + np.trace(b) - 2 * root_trace
    one, other = Gaussian(np.zeros(6), a, 40), Gaussian(np.ones(6), b, 40)
    assert frechet_distance(one, other) == pytest.approx(expected)
    assert frechet_distance(other, one) == pytest.approx(expected)


def test_a_gaussian_fitted_in_parts_is_that_of_all_rows() -> None:
    rows = 1000 + RANDOM.standard_normal((50, 3))  # far from 0: sums of squares alone would lose digits
    fitted = fit([rows[:7], np.zeros((0, 3)), rows[7:30], rows[30:]])
    np.testing.assert_allclose(fitted.mean, rows.mean(0))
    np.testing.assert_allclose(fitted.covariance, np.cov(rows.T), rtol=1e-9)
    assert fitted.vectors == 50


def test_what_cannot_be_fitted_or_compared_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 2 vectors, got 1"):
        fit([np.zeros((1, 3))])
    with pytest.raises(ValueError, match="2 and 3 dimensions"):
        frechet_distance(gaussian([0, 0], [[1, 0], [0, 1]]), Gaussian(np.zeros(3), np.eye(3), 5))


def test_log_mel_frames_lie_inside_the_audio_and_other_noise_is_nearer_than_a_tone() -> None:
    assert log_mel_frames(tone(200, 0.01), sample_rate_hz=RATE).shape == (0, 64)
    same, other, tones = (
        fit([log_mel_frames(audio, sample_rate_hz=RATE)]) for audio in (noise(3), noise(3), tone(300, 3, harmonics=9))
    )
    assert frechet_distance(same, other) < 0.05 * frechet_distance(same, tones)
    steady = log_mel_frames(tone(500, 0.5), sample_rate_hz=RATE)
    assert np.ptp(steady[:, 10:14], axis=0).max() < 0.5  # no edge is heard


def note(number: int, seconds: float = 0.5) -> NDArray[np.float32]:
    """A MIDI note with four harmonics."""
    return tone(440 * 2 ** ((number - 69) / 12), seconds, harmonics=4) * np.hanning(round(seconds * RATE)).astype(
        np.float32
    )


def test_chroma_of_a_c_major_chord_is_c_e_g() -> None:
    chord = sum(tone(hz, 1.0) for hz in (261.63, 329.63, 392.00))
    classes = chroma.chroma(np.asarray(chord), sample_rate_hz=RATE)
    assert set(np.argsort(classes)[-3:]) == {0, 4, 7}
    assert classes[[0, 4, 7]].sum() > 0.98
    assert classes.sum() == pytest.approx(1)


@pytest.mark.parametrize(("tonic", "name"), [(60, "C major"), (67, "G major"), (63, "D# major")])
def test_key_of_a_major_scale(tonic: int, name: str) -> None:
    scale = np.concatenate([note(tonic + step) for step in (0, 2, 4, 5, 7, 9, 11, 12)])
    assert str(chroma.find_key(chroma.chroma(scale, sample_rate_hz=RATE))) == name


def test_key_of_a_minor_triad_with_its_scale() -> None:
    scale = np.concatenate([note(57 + step) for step in (0, 3, 7, 0, 2, 3, 5, 7, 8, 7, 3, 0)])
    assert str(chroma.find_key(chroma.chroma(scale, sample_rate_hz=RATE))) == "A minor"


def test_every_profile_is_found_as_its_own_key_and_silence_has_none() -> None:
    for tonic in range(12):
        found = chroma.find_key(np.roll(chroma.MINOR, tonic))
        assert found is not None
        assert (found.tonic, found.mode, found.correlation) == (tonic, "minor", pytest.approx(1))
    silent = chroma.chroma(np.zeros(RATE, np.float32), sample_rate_hz=RATE)
    assert chroma.find_key(silent) is None
    assert np.isnan(chroma.chroma_similarity(silent, silent))
    assert chroma.chroma_similarity(np.eye(12)[0], np.eye(12)[0]) == 1
    assert chroma.chroma_similarity(np.eye(12)[0], np.eye(12)[1]) == 0
    with pytest.raises(ValueError, match="at least 0.256 s"):
        chroma.chroma(tone(200, 0.1), sample_rate_hz=RATE)


def clicks(bpm: float, seconds: float) -> NDArray[np.float32]:
    audio = np.zeros(round(seconds * RATE), np.float32)
    burst = (np.hanning(400) * 0.5 * np.sin(np.arange(400))).astype(np.float32)
    for second in np.arange(0.1, seconds - 0.1, 60 / bpm):
        audio[round(second * RATE) :][:400] = burst
    return audio


@pytest.mark.parametrize("bpm", [80, 100, 120, 150])
def test_tempo_and_onsets_of_clicks(bpm: float) -> None:
    strength = onsets.onset_strength(clicks(bpm, 6.0), sample_rate_hz=RATE)
    assert onsets.tempo_bpm(strength) == pytest.approx(bpm, rel=0.02)  # one frame of 10 ms is 2 % of half a second
    times = onsets.onset_seconds(strength)
    expected = np.arange(0.1, 5.9, 60 / bpm)
    assert len(times) == len(expected)
    np.testing.assert_allclose(times, expected, atol=0.03)


def test_without_onsets_there_is_no_tempo() -> None:
    silence = onsets.onset_strength(np.zeros(4 * RATE, np.float32), sample_rate_hz=RATE)
    assert len(onsets.onset_seconds(silence)) == 0
    assert np.isnan(onsets.tempo_bpm(silence))
    assert np.isnan(onsets.tempo_bpm(onsets.onset_strength(clicks(120, 1.0), sample_rate_hz=RATE)))


def test_twice_the_tempo_is_no_change_and_half_an_octave_the_most() -> None:
    assert onsets.tempo_change_octaves(120, 60) == pytest.approx(0)
    assert onsets.tempo_change_octaves(120, 130) == pytest.approx(np.log2(130 / 120))
    assert onsets.tempo_change_octaves(100, 100 * 2**0.5) == pytest.approx(0.5)
