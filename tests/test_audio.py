import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional
from hypothesis import given
from hypothesis import strategies as st

from audiolm.audio import (
    AudioError,
    audio_info,
    read_audio,
    read_prompt,
    resample,
    resampled_length,
    sinc_resample,
    write_audio,
)


def tone(seconds: float, rate: int, frequency: float = 440.0) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(int(seconds * rate)) / rate)


def noise_16_bit(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-(2**15), 2**15, (samples,), generator=torch.Generator().manual_seed(seed)) / 2**15


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
def test_16_bit_audio_survives_writing_and_reading_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    audio = noise_16_bit(1000)
    write_audio(tmp_path / f"a{suffix}", audio, sample_rate_hz=16000)
    assert torch.equal(read_audio(tmp_path / f"a{suffix}", sample_rate_hz=16000), audio)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".ogg", ".opus", ".mp3"])
def test_a_partial_read_equals_the_same_part_of_the_whole_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_audio(path, tone(2, 16000), sample_rate_hz=16000)
    info = audio_info(path)
    whole = read_audio(path, sample_rate_hz=info.sample_rate_hz)
    part = read_audio(path, sample_rate_hz=info.sample_rate_hz, start=7000, samples=5000)
    assert len(whole) == info.samples
    assert info.seconds == pytest.approx(2, abs=0.1)  # mp3 fills its last frame
    assert torch.allclose(part, whole[7000:12000], atol=1e-3)  # lossy decoders remember a little of what came before
    assert whole[8000:24000].std() == pytest.approx(0.5 / math.sqrt(2), rel=0.05)


@given(samples=st.integers(1, 3000), from_hz=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]))
def test_resampling_gives_the_announced_length(samples: int, from_hz: int) -> None:
    assert len(resample(torch.zeros(samples), from_hz=from_hz, to_hz=16000)) == resampled_length(
        samples, from_hz, 16000
    )


def test_read_audio_delivers_the_announced_length_for_a_part_at_another_rate(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(1, 22050), sample_rate_hz=22050)
    part = read_audio(tmp_path / "a.wav", sample_rate_hz=16000, start=101, samples=9999)
    assert len(part) == resampled_length(9999, 22050, 16000) == math.ceil(9999 * 16000 / 22050)


@pytest.mark.parametrize("from_hz", [8000, 22050, 44100])
def test_resampling_sample_by_sample_equals_torchaudio(from_hz: int) -> None:
    audio = noise_16_bit(2000).double()
    expected = torchaudio.functional.resample(audio, from_hz, 16000)
    assert torch.allclose(sinc_resample(audio, from_hz=from_hz, to_hz=16000), expected, atol=1e-12)
    kept = resample(audio.float(), from_hz=from_hz, to_hz=16000)
    assert torch.allclose(kept.double(), expected, atol=2e-6)  # sums of dozens of float32


def test_two_rates_without_a_common_divisor_need_little_memory() -> None:
    audio = resample(tone(0.5, 22253), from_hz=22253, to_hz=16000)  # a filter bank would need 22253 * 16000 numbers
    assert len(audio) == resampled_length(11126, 22253, 16000)
    assert torch.allclose(audio[100:-100], tone(0.5, 16000)[100 : len(audio) - 100], atol=5e-3)


def test_resampling_in_inference_mode_leaves_training_possible() -> None:
    with torch.inference_mode():
        resample(torch.zeros(100), from_hz=12000, to_hz=16000)
    audio = torch.zeros(100, requires_grad=True)
    resample(audio, from_hz=12000, to_hz=16000).sum().backward()
    assert audio.grad is not None


def test_channels_are_averaged_and_the_offset_is_subtracted(tmp_path: Path) -> None:
    left, right = np.full(2000, 0.5), np.full(2000, 0.25)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    audio = read_audio(tmp_path / "a.wav", sample_rate_hz=16000, dc_offset=0.125)
    assert torch.equal(audio, torch.full((2000,), 0.25))


def test_values_beyond_full_scale_are_clamped_not_wrapped(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", torch.tensor([2.0, -2.0, 0.0]), sample_rate_hz=16000)
    assert read_audio(tmp_path / "a.wav", sample_rate_hz=16000).tolist() == [1 - 2**-15, -1.0, 0.0]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "a.wav", tone(0.2, 16000), sample_rate_hz=16000)
    before = (tmp_path / "a.wav").read_bytes()

    def full_disk(path: Path, *_: object) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(AudioError, match="space"):
        write_audio(tmp_path / "a.wav", tone(0.4, 16000), sample_rate_hz=16000)
    assert os.listdir(tmp_path) == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.parametrize(
    ("audio", "name", "message"),
    [
        (torch.zeros(1, 100), "a.wav", r"\(1, 100\)"),
        (torch.zeros(100, dtype=torch.int16), "a.wav", "int16"),
        (torch.tensor([0.0, math.nan]), "a.wav", "NaN"),
        (torch.zeros(100), "a.m4a", "suffix"),
    ],
)
def test_audio_that_cannot_be_written_is_refused(tmp_path: Path, audio: torch.Tensor, name: str, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        write_audio(tmp_path / name, audio, sample_rate_hz=16000)


def test_files_that_are_not_audio_say_so_and_name_themselves(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "headerless.raw").write_bytes(bytes(100))
    (tmp_path / "empty.flac").touch()
    for name, message in [
        ("text.wav", "cannot be read as audio"),
        ("headerless.raw", "cannot be read as audio"),
        ("empty.flac", "empty"),
        ("absent.wav", "does not exist"),
        ("", "folder"),
    ]:
        with pytest.raises(AudioError, match=message) as caught:
            read_audio(tmp_path / name, sample_rate_hz=16000)
        assert str(tmp_path / name) in str(caught.value)


def test_a_flac_that_lost_its_end_is_an_error_not_a_shorter_recording(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", noise_16_bit(32000), sample_rate_hz=16000)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: len(content) // 2])
    assert audio_info(tmp_path / "a.flac").samples == 32000  # the header does not know
    with pytest.raises(AudioError, match=r"a\.flac"):
        read_audio(tmp_path / "a.flac", sample_rate_hz=16000)


def test_nan_and_requests_beyond_the_end_are_errors(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, np.nan] * 1000), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        read_audio(tmp_path / "a.wav", sample_rate_hz=16000)
    with pytest.raises(AudioError, match="2000 samples"):
        read_audio(tmp_path / "a.wav", sample_rate_hz=16000, start=1500, samples=501)


def test_a_prompt_of_any_rate_and_channels_arrives_without_its_mean(tmp_path: Path) -> None:
    stereo = torch.stack([tone(0.5, 44100), tone(0.5, 44100)], dim=1) * 0.5 + 0.25
    soundfile.write(tmp_path / "p.wav", stereo.numpy(), 44100)
    prompt = read_prompt(tmp_path / "p.wav", sample_rate_hz=16000)
    assert prompt.shape == (8000,)
    assert abs(float(prompt.mean())) < 1e-6
    assert float(prompt.std()) == pytest.approx(0.25 / math.sqrt(2), rel=0.02)


def test_a_name_that_is_not_utf8_is_shown_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(b"")
    with pytest.raises(AudioError, match=r"caf\\udce9.wav': this name is not UTF-8 .* rename"):
        audio_info(path)


def test_a_prompt_must_be_long_enough_and_heard(tmp_path: Path) -> None:
    write_audio(tmp_path / "short.wav", tone(0.099, 16000), sample_rate_hz=16000)
    write_audio(tmp_path / "offset.wav", torch.full((16000,), 0.3), sample_rate_hz=16000)  # constant, so still silent
    write_audio(tmp_path / "enough.wav", tone(0.1, 16000), sample_rate_hz=16000)
    with pytest.raises(AudioError, match="99 ms"):
        read_prompt(tmp_path / "short.wav", sample_rate_hz=16000)
    with pytest.raises(AudioError, match="silent"):
        read_prompt(tmp_path / "offset.wav", sample_rate_hz=16000)
    assert len(read_prompt(tmp_path / "enough.wav", sample_rate_hz=16000)) == 1600
