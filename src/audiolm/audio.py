"""Audio files in and out: the only room that knows formats, channels and sample rates.

Inside the package audio is always (samples,) float32 in [-1, 1], mono, at one rate. soundfile reads and writes files
(torchaudio's own need torchcodec); torchaudio only resamples.
"""

import errno
import functools
import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from audiolm.files import atomic_path

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})
SHORTEST_SECONDS = 0.1  # less than this is no utterance and no prompt
SILENCE_PEAK = 1e-4  # -80 dB of full scale, three steps of 16-bit audio: nothing recorded on purpose is that quiet

MIN_RATE_HZ, MOST_RATE_HZ = 1000, 768_000
MOST_CHANNELS = 256
MOST_SAMPLES_AT_ONCE = 2**28  # of one stretch: 4.7 h at 16 kHz, 1 GiB; `prepare` cuts recordings into utterances
VALUES_AT_ONCE = 2**22  # decoded, or multiplied while resampling: bounds memory

_MP3_LEAD_SAMPLES = 10 * 1152  # an mp3 frame borrows bits from those before: decoded right after a seek, it is silence

_WRITTEN_FORMATS = {  # suffix -> container, encoding
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


class AudioError(ValueError):
    """An audio file that cannot be read, written or used. The message names the file, the cause and the remedy.

    `reason` says the same in a few words without names or numbers, so that a list of many such files can be counted.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class AudioInfo:
    """What the header says; nothing is decoded to know it."""

    sample_rate_hz: int
    samples: int  # per channel, at `sample_rate_hz`
    channels: int

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate_hz


@contextmanager
def open_audio(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Open an audio file for reading; whatever soundfile raises meanwhile becomes an AudioError that names the file."""
    try:
        _require_ordinary(path)
        with soundfile.SoundFile(str(path)) as file:
            yield file
    except UnicodeEncodeError:
        message = f"{str(path)!a}: this name is not UTF-8 (the escaped bytes are shown): rename the file or its folder"
        raise AudioError(message, reason="name is not UTF-8") from None
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError) as error:  # TypeError: a headerless .raw
        if not os.path.exists(path):
            raise AudioError(f"{path} does not exist", reason="missing") from None
        if os.path.isdir(path):
            raise AudioError(f"{path} is a folder, not an audio file", reason="a folder") from None
        if os.path.getsize(path) == 0:
            message = f"{path} is empty (0 bytes): copying or downloading it again may help"
            raise AudioError(message, reason="empty file") from None
        _require_openable(path)
        cause = getattr(error, "error_string", str(error))
        raise AudioError(
            f"{path} cannot be read as audio ({cause}). It may be damaged, cut off, or in a format that libsndfile "
            f"does not know; known are {', '.join(sorted(s[1:] for s in AUDIO_SUFFIXES))}.",
            reason=f"unreadable: {cause}",
        ) from error


def _require_openable(path: str | Path) -> None:
    """libsndfile says "System error" of whatever keeps a file from being opened; here is what.

    Raises:
        AudioError: if this very file may not be opened.
        OSError: if no file can be: this process has too many open.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        message = f"{path} cannot be opened ({error.strerror})"
        raise AudioError(message, reason=f"cannot be opened: {error.strerror}") from error


def _require_ordinary(path: str | Path) -> None:
    """A pipe would keep us waiting for a writer, a device may never end; a folder is named as one."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:
        raise AudioError(f"{str(path)!a} cannot be the name of a file", reason="not a name") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise AudioError(f"{path} is a pipe, socket or device, not an audio file", reason="not a file")


def header(file: soundfile.SoundFile, path: str | Path) -> AudioInfo:
    """The header of an open file.

    Raises:
        AudioError: if it gives no length, as a file streamed to a pipe may, or channels or a rate that no recording has.
    """
    if not 0 <= file.frames < 2**48:
        message = f"the header of {path} does not say how long it is: convert it once, for example with ffmpeg"
        raise AudioError(message, reason="no length in the header")
    if not 1 <= file.channels <= MOST_CHANNELS or not MIN_RATE_HZ <= file.samplerate <= MOST_RATE_HZ:
        raise AudioError(
            f"the header of {path} says {file.channels} channels at {file.samplerate} Hz; 1 to {MOST_CHANNELS} at {MIN_RATE_HZ} "
            f"to {MOST_RATE_HZ} Hz are read. It is damaged, or holds something else than sound.",
            reason="channels or rate out of range",
        )
    return AudioInfo(sample_rate_hz=file.samplerate, samples=file.frames, channels=file.channels)


def read_samples(file: soundfile.SoundFile, path: str | Path, *, start: int, samples: int) -> Tensor:
    """Read (samples,) float32 of an open file at its own rate, channels averaged, from sample `start`.

    Raises:
        AudioError: if fewer samples come than asked for (a truncated file), or some are not finite.
    """
    lead = min(start, _MP3_LEAD_SAMPLES) if file.format == "MP3" else 0
    if lead + samples > MOST_SAMPLES_AT_ONCE:
        raise AudioError(
            f"{path}: {samples} samples are to be read in one piece, at most {MOST_SAMPLES_AT_ONCE} can be: cut the recording",
            reason="too long to be read in one piece",
        )
    file.seek(start - lead)
    audio = _mono(file, lead + samples)[lead:]
    if len(audio) != samples:
        raise AudioError(
            f"{path} is truncated: samples {start} to {start + samples} were asked for, "
            f"but its data end after {start + len(audio)}. Copying or downloading it again may help.",
            reason="truncated",
        )
    if not bool(torch.isfinite(audio).all()):
        message = f"{path} holds NaN or infinite samples between {start} and {start + samples}"
        raise AudioError(message, reason="NaN or infinite samples")
    return audio


def _mono(file: soundfile.SoundFile, samples: int) -> Tensor:
    """The next samples, channels averaged, fewer at the end; block by block, whatever a header claims to follow."""
    blocks, left = [torch.zeros(0)], samples
    while left:
        asked = min(left, max(1, VALUES_AT_ONCE // file.channels))
        block = torch.from_numpy(file.read(asked, dtype="float32", always_2d=True)).mean(dim=1)
        blocks.append(block)
        left -= len(block)
        if len(block) < asked:
            break
    return torch.cat(blocks)


def audio_info(path: str | Path) -> AudioInfo:
    """Read the header only.

    Raises:
        AudioError: if there is no such file, it is not audio, or its header gives no length.
    """
    with open_audio(path) as file:
        return header(file, path)


def read_audio(
    path: str | Path, *, sample_rate_hz: int, start: int = 0, samples: int | None = None, dc_offset: float = 0.0
) -> Tensor:
    """Read a stretch of an audio file without decoding the rest.

    Args:
        sample_rate_hz: the rate to deliver.
        start: first sample, counted at the FILE's own rate.
        samples: how many, at the file's own rate; None reads to the end.
        dc_offset: constant to subtract, as `prepare` measured it for the manifest.

    Returns:
        (`resampled_length(samples, ...)`,) float32 mono: channels are averaged, then the offset goes, then the rate
        changes.

    Raises:
        AudioError: if the file cannot be read, is shorter than its header or the request says, or holds NaN.
    """
    with open_audio(path) as file:
        info = header(file, path)
        samples = info.samples - start if samples is None else samples
        if start < 0 or samples < 0 or start + samples > info.samples:
            raise AudioError(
                f"{path} has {info.samples} samples; {start} to {start + samples} were asked for. If the file changed "
                "since the manifest was made, run `audiolm prepare` again.",
                reason="shorter than asked",
            )
        if resampled_length(samples, info.sample_rate_hz, sample_rate_hz) > MOST_SAMPLES_AT_ONCE:
            raise AudioError(
                f"{path} would have more than {MOST_SAMPLES_AT_ONCE} samples at {sample_rate_hz} Hz: cut the recording",
                reason="too long to be read in one piece",
            )
        audio = read_samples(file, path, start=start, samples=samples) - dc_offset
    return resample(audio, from_hz=info.sample_rate_hz, to_hz=sample_rate_hz)


def resampled_length(samples: int, from_hz: int, to_hz: int) -> int:
    """Samples after resampling: ceil(samples * to_hz / from_hz), exactly what `read_audio` returns."""
    return -(-samples * to_hz // from_hz)


def resample(audio: Tensor, *, from_hz: int, to_hz: int) -> Tensor:
    """Change the rate of (..., samples) float32 to (..., `resampled_length(samples, from_hz, to_hz)`), same device.

    torchaudio's windowed sinc, its filters kept from call to call. They are a bank of to_hz / gcd rows of at least
    from_hz / gcd numbers, so two rates without a common divisor (22253 and 16000) would need gigabytes; those take the
    same filters, computed sample by sample.
    """
    if from_hz == to_hz or audio.shape[-1] == 0:
        return audio[..., : resampled_length(audio.shape[-1], from_hz, to_hz)]
    gcd = math.gcd(from_hz, to_hz)
    if (from_hz // gcd) * (to_hz // gcd) > 2_000_000:  # 8 MB of filters; 44100 -> 16000 needs 441 * 160
        return sinc_resample(audio, from_hz=from_hz, to_hz=to_hz)
    return _resampler(from_hz, to_hz).to(audio.device)(audio)


@functools.lru_cache(maxsize=32)
def _resampler(from_hz: int, to_hz: int) -> torch.nn.Module:
    from torchaudio.transforms import Resample  # here: a manifest needs no torchaudio, and importing it takes a while

    with torch.inference_mode(False):  # the first call may come while generating, a later one from training
        return Resample(from_hz, to_hz, dtype=torch.float64).float()  # made in float32, its filters are 2e-5 off


def sinc_resample(audio: Tensor, *, from_hz: int, to_hz: int, zero_crossings: int = 6, rolloff: float = 0.99) -> Tensor:
    """`torchaudio.functional.resample` for any two rates, one filter per output sample instead of a bank of all phases.

    Args, returns: as `resample`; `zero_crossings` and `rolloff` are torchaudio's `lowpass_filter_width` and `rolloff`.
    """
    samples = audio.shape[-1]
    cutoff = rolloff * min(from_hz, to_hz) / from_hz  # in cycles per half input sample
    reach = math.ceil(zero_crossings / cutoff)  # input samples to either side
    padded = F.pad(audio, (reach, reach + 1))
    pieces = []
    rows = max(1, min(2**16, VALUES_AT_ONCE // (2 * reach + 2)))  # bounds memory
    for block in torch.arange(resampled_length(samples, from_hz, to_hz), device=audio.device).split(rows):
        position = block.double() * from_hz / to_hz
        taps = position.long()[:, None] + torch.arange(-reach, reach + 2, device=audio.device)
        distance = ((taps - position[:, None]) * cutoff).clamp(-zero_crossings, zero_crossings)
        window = torch.cos(distance * torch.pi / zero_crossings / 2) ** 2
        filters = (torch.sinc(distance) * window * cutoff).to(audio.dtype)
        inputs = padded[..., (taps + reach).clamp(max=padded.shape[-1] - 1)]
        pieces.append((inputs * filters).sum(dim=-1))
    return torch.cat(pieces, dim=-1)


def write_audio(path: str | Path, audio: Tensor, *, sample_rate_hz: int) -> None:
    """Write (samples,) float audio as 16-bit wav, flac or aiff, or as ogg, opus or mp3, by the suffix of `path`.

    Values beyond [-1, 1] are clamped. The file appears under its name only when it is whole. wav, flac and aiff of what
    `read_audio` read from 16-bit files come back bit for bit.

    Raises:
        AudioError: for an unknown suffix, audio that is not (samples,) or not finite, or a disk that cannot take it.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITTEN_FORMATS:
        message = f"{path}: audio is written as {', '.join(_WRITTEN_FORMATS)}, chosen by the file's suffix"
        raise AudioError(message, reason="unknown suffix")
    if audio.ndim != 1 or not audio.is_floating_point():
        message = f"{path}: expected (samples,) float audio, got {tuple(audio.shape)} {audio.dtype}"
        raise AudioError(message, reason="not mono float audio")
    if not bool(torch.isfinite(audio).all()):
        message = f"{path}: the audio holds NaN or infinite values, so what made it has gone wrong"
        raise AudioError(message, reason="NaN or infinite samples")
    container, encoding = _WRITTEN_FORMATS[path.suffix.lower()]
    pcm = (audio.detach().cpu().double() * 2**15).round().clamp(-(2**15), 2**15 - 1).short().numpy()
    encoded = io.BytesIO()  # libsndfile says nothing of a disk that is full when it writes its last bytes
    try:
        soundfile.write(encoded, pcm, sample_rate_hz, format=container, subtype=encoding)
        with atomic_path(path) as temporary:
            temporary.write_bytes(encoded.getbuffer())
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        cause = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
        message = f"{path} cannot be written ({cause}): check that its folder is writable and has space"
        raise AudioError(message, reason="not writable") from error


def read_prompt(path: str | Path, *, sample_rate_hz: int, start: int = 0, samples: int | None = None) -> Tensor:
    """Read a recording to be continued: any format, rate and number of channels; its own mean is removed.

    Args:
        sample_rate_hz: the rate to deliver.
        start: first sample, counted at the file's own rate.
        samples: how many, at the file's own rate; by default all that follow.

    Returns:
        (samples,) float32 at `sample_rate_hz`.

    Raises:
        AudioError: if it is not audio, shorter than 100 ms, or silent.
    """
    info = audio_info(path)
    seconds = (info.samples - start if samples is None else samples) / info.sample_rate_hz
    if seconds < SHORTEST_SECONDS:
        message = f"{path} lasts {1000 * seconds:.0f} ms; a prompt needs at least 100 ms, better 3 seconds"
        raise AudioError(message, reason="shorter than 0.1 s")
    audio = read_audio(path, sample_rate_hz=sample_rate_hz, start=start, samples=samples)
    audio = audio - audio.mean()
    if is_silent(audio):
        message = f"{path} is silent (below -80 dB of full scale throughout): there is nothing to continue"
        raise AudioError(message, reason="silent")
    return audio


def is_silent(audio: Tensor) -> bool:
    """Whether nothing rises above -80 dB of full scale once the mean is gone."""
    return audio.numel() == 0 or bool((audio - audio.mean()).abs().max() < SILENCE_PEAK)
