"""The surface of an encoder: frames of features from audio, at a fixed rate. What units are made from."""

import abc
from typing import Any

from torch import Tensor, nn


class Encoder(nn.Module, abc.ABC):
    """Turns waveforms into features that k-means can cluster.

    Attributes:
        sample_rate_hz: rate of the audio it expects.
        rate_hz: feature frames per second.
        dim: numbers per frame.
    """

    sample_rate_hz: int
    rate_hz: int
    dim: int

    @property
    def hop_samples(self) -> int:
        """Samples per feature frame."""
        return self.sample_rate_hz // self.rate_hz

    def frames(self, samples: int) -> int:
        """Feature frames of `samples` samples: a last partial frame counts."""
        return -(-samples // self.hop_samples)

    @abc.abstractmethod
    def forward(self, audio: Tensor) -> Tensor:
        """Compute features.

        Args:
            audio: (batch, samples) float32 mono in [-1, 1], at `sample_rate_hz`, all rows of the same length.

        Returns:
            (batch, frames, dim) float32, frames = ceil(samples / hop_samples).

        Raises:
            ValueError: if `audio` is not two-dimensional or has no samples.
        """

    @abc.abstractmethod
    def config_dict(self) -> dict[str, Any]:
        """Plain values from which `semantic.encoders.rebuild_encoder` makes the same encoder, weights aside."""

    def _check(self, audio: Tensor) -> None:
        if audio.ndim != 2 or not audio.shape[1]:
            raise ValueError(f"audio must be (batch, samples) with at least one sample, got {tuple(audio.shape)}")
