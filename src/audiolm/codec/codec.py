"""The surface of a codec: audio to residual codes and back, at a fixed rate. SoundStream and the public codecs have it."""

import abc
from typing import Any

import torch
from torch import Tensor, nn


class Codec(nn.Module, abc.ABC):
    """Turns waveforms into codes, coarsest level first, and any prefix of the levels back into waveforms.

    Attributes:
        sample_rate_hz: rate of the audio it takes and gives.
        hop_samples: samples per frame of codes.
        levels: how many codes a frame has.
        codebook_size: codes of every level are in [0, codebook_size).
    """

    @property
    @abc.abstractmethod
    def sample_rate_hz(self) -> int: ...

    @property
    @abc.abstractmethod
    def hop_samples(self) -> int: ...

    @property
    @abc.abstractmethod
    def levels(self) -> int: ...

    @property
    @abc.abstractmethod
    def codebook_size(self) -> int: ...

    @abc.abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """Turn waveforms into codes.

        Args:
            audio: (batch, samples) float in [-1, 1], mono, at `sample_rate_hz`, at least one sample.

        Returns:
            (batch, levels, frames) int64 in [0, codebook_size), frames = ceil(samples / hop_samples): a last partial
            frame is completed with silence.

        Raises:
            ValueError: if `audio` is not of that shape and type, or holds NaN or infinity.
        """

    @abc.abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Turn codes into waveforms.

        Args:
            codes: (batch, 1 to `levels` levels, frames) integers in [0, codebook_size), coarsest level first.

        Returns:
            (batch, frames * hop_samples) float32.

        Raises:
            ValueError: if `codes` has another shape or type, or holds a code outside the codebook.
        """

    @abc.abstractmethod
    def embed(self, codes: Tensor) -> Tensor:
        """The vectors that codes stand for, summed over the given levels: (batch, dim, frames) float32."""

    @abc.abstractmethod
    def config_dict(self) -> dict[str, Any]:
        """Plain values from which `codec.codecs.rebuild_codec` makes the same codec, weights aside."""

    def frames(self, samples: int) -> int:
        """Frames of `samples` samples: a last partial frame counts."""
        return -(-samples // self.hop_samples)

    def bitrate_bps(self, levels: int) -> float:
        """Bits per second of the first `levels` levels; 50 frames * 12 levels * 10 bits = 6000 in the paper."""
        return levels * (self.codebook_size - 1).bit_length() * self.sample_rate_hz / self.hop_samples

    def _check_audio(self, audio: Tensor) -> None:
        if audio.ndim != 2 or not audio.is_floating_point() or audio.size(0) < 1 or audio.size(1) < 1:
            raise ValueError(
                "audio must be floating point of shape (batch, samples) with at least one sample, got "
                f"{audio.dtype} of shape {tuple(audio.shape)}. For one recording, pass `audio[None]`; mix several "
                "channels down first."
            )
        if not audio.isfinite().all():
            raise ValueError("audio holds NaN or infinity: the recording is damaged, or was divided by a zero level")

    def _check_codes(self, codes: Tensor) -> None:
        if codes.ndim != 3 or codes.is_floating_point() or codes.dtype == torch.bool or codes.size(2) < 1:
            raise ValueError(
                "codes must be integers of shape (batch, levels, frames) with at least one frame, got "
                f"{codes.dtype} of shape {tuple(codes.shape)}"
            )
        if not 1 <= codes.size(1) <= self.levels:
            raise ValueError(f"codes must have 1 to {self.levels} levels (coarsest first), got {codes.size(1)}")
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.codebook_size):
            raise ValueError(
                f"codes must be 0 to {self.codebook_size - 1}, found {int(codes.min())} to {int(codes.max())}. They "
                "were probably made by another codec, or still carry a level's offset."
            )
