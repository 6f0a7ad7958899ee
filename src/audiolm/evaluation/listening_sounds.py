"""What raters hear: stretches of one length, rate and loudness, so that nothing but their content tells them apart."""

import base64
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from audiolm.audio import AudioError, is_silent
from audiolm.codec.codec import Codec
from audiolm.evaluation.clips import Clip, folder_clips

LOUDEST_DB = -20.0  # of full scale; speech peaks some 17 dB above its mean level
PEAK = 0.98
BLOCK_SECONDS = 0.1  # loudness is that of blocks no more than 20 dB below the loudest: pauses do not count
GATE_DB = 20.0
FADE_SECONDS = 0.02  # at both ends, else a cut in the middle of a sound clicks
BEEP_HZ, BEEP_SECONDS, BEEPS = 1000, 0.15, 3


def named_clips(folder: Path, *, seconds: float) -> dict[str, Clip]:
    """The recordings below a folder by their path without suffix.

    Raises:
        ValueError: if the folder is missing or empty, two have one name, or some are shorter than `seconds`.
    """
    clips: dict[str, Clip] = {}
    for clip in folder_clips(folder):
        name = Path(clip.id).with_suffix("").as_posix()
        if name in clips:
            raise ValueError(f"{folder} holds {clips[name].id} and {clip.id}, which have one name: remove one of them")
        clips[name] = clip
    short = [clip for clip in clips.values() if clip.samples < seconds * clip.sample_rate_hz]
    if short:
        worst = min(short, key=lambda clip: clip.samples / clip.sample_rate_hz)
        raise ValueError(
            f"{len(short)} of {len(clips)} recordings in {folder} end before {seconds:g} s, {worst.id} first, at "
            f"{worst.samples / worst.sample_rate_hz:.2f} s. All must be of one length: lower --seconds, or remove them."
        )
    return clips


def read_sound(clip: Clip, *, sample_rate_hz: int, start_seconds: float, seconds: float, codec: Codec | None) -> Tensor:
    """A stretch of a recording, passed through `codec` if one is given: (round(seconds * sample_rate_hz),) float32.

    The codec hears the recording from its beginning, as it does that of a continuation.

    Raises:
        AudioError: if the file cannot be read or the stretch is silent.
    """
    samples = min(clip.samples, math.ceil((start_seconds + seconds) * clip.sample_rate_hz) + 1)
    audio = dataclasses.replace(clip, samples=samples).read(sample_rate_hz=sample_rate_hz)
    if codec is not None:
        with torch.no_grad():
            audio = codec.decode(codec.encode(audio[None]))[0, : audio.numel()]
    start, length = round(start_seconds * sample_rate_hz), round(seconds * sample_rate_hz)
    audio = audio[start : start + length]
    assert audio.numel() == length, f"{clip.path}: {audio.numel()} samples instead of {length}"
    if is_silent(audio):
        raise AudioError(f"{clip.path} is silent from {start_seconds:g} s on: remove it from the test", reason="silent")
    return audio - audio.mean()


def level_db(audio: Tensor, *, sample_rate_hz: int) -> float:
    """Mean level in dB of full scale of (samples,), pauses left out."""
    block = min(audio.numel(), round(BLOCK_SECONDS * sample_rate_hz))
    power = audio[: audio.numel() // block * block].double().view(-1, block).square().mean(1)
    return 10 * math.log10(float(power[power >= power.max() * 10 ** (-GATE_DB / 10)].mean()))


def equalised(sounds: Sequence[Tensor], *, sample_rate_hz: int) -> tuple[list[Tensor], float]:
    """The sounds at one level, the highest that none of them clips at, and that level in dB of full scale."""
    levels = [level_db(sound, sample_rate_hz=sample_rate_hz) for sound in sounds]
    rooms = (20 * math.log10(PEAK / float(sound.abs().max())) for sound in sounds)
    common = min(LOUDEST_DB, *(level + room for level, room in zip(levels, rooms, strict=True)))
    gains = (10 ** ((common - level) / 20) for level in levels)
    return [_faded(sound * gain, sample_rate_hz) for sound, gain in zip(sounds, gains, strict=True)], common


def _faded(audio: Tensor, sample_rate_hz: int) -> Tensor:
    length = min(round(FADE_SECONDS * sample_rate_hz), audio.numel() // 2)
    ramp = torch.linspace(0, 1, length)
    return torch.cat([audio[:length] * ramp, audio[length : audio.numel() - length], audio[-length:] * ramp.flip(0)])


def with_beeps(audio: Tensor, *, sample_rate_hz: int) -> Tensor:
    """Three beeps, spread over the second half of (samples,), in the place of what was there."""
    marked, length = audio.clone(), min(round(BEEP_SECONDS * sample_rate_hz), audio.numel() // (4 * BEEPS))
    level = float(audio.abs().max()) / 2
    beep = level * torch.sin(2 * torch.pi * BEEP_HZ / sample_rate_hz * torch.arange(length))
    for number in range(BEEPS):
        start = audio.numel() // 2 + number * audio.numel() // (2 * BEEPS)
        marked[start : start + length] = _faded(beep, sample_rate_hz)
    return marked


def encoded_flac(audio: Tensor, *, sample_rate_hz: int) -> str:
    """(samples,) as base64 of a FLAC file of 16 bits that names nothing."""
    buffer = io.BytesIO()
    pcm = (audio.double() * 2**15).round().clamp(-(2**15), 2**15 - 1).short().numpy()
    soundfile.write(buffer, pcm, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return base64.b64encode(buffer.getvalue()).decode()
