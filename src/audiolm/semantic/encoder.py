"""The surface of an encoder: frames of features from audio, at a fixed rate. What units are made from."""

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Encoder(nn.Module, abc.ABC):
    """Turns waveforms into features that k-means can cluster.

    Attributes:
        sample_rate_hz: rate of the audio it expects.
        rate_hz: feature frames per second.
        dim: numbers per frame, the same in every layer.
        layers: the deepest layer: 0 is the input of the first layer, n the output of layer n.
        layer: the one that `forward` gives.
    """

    sample_rate_hz: int
    rate_hz: int
    dim: int
    layers: int = 0
    layer: int = 0

    @property
    def hop_samples(self) -> int:
        """Samples per feature frame."""
        return self.sample_rate_hz // self.rate_hz

    def frames(self, samples: int) -> int:
        """Feature frames of `samples` samples: a last partial frame counts."""
        return -(-samples // self.hop_samples)

    def forward(self, audio: Tensor, samples: Tensor | None = None) -> Tensor:
        """Compute the features of layer `self.layer`.

        Args:
            audio: (batch, samples) float32 mono in [-1, 1], at `sample_rate_hz`.
            samples: (batch,) how many samples of each row are real; by default all. What follows them has no influence.

        Returns:
            (batch, frames, dim) float32, frames = ceil(samples / hop_samples). A row's frames are those that it would have
            alone; frames after its own last one are zero.

        Raises:
            ValueError: if `audio` is not two-dimensional or has no samples, or `samples` does not fit it.
        """
        return self.hidden_states(audio, samples, layers=[self.layer])[0]

    def hidden_states(self, audio: Tensor, samples: Tensor | None = None, *, layers: Sequence[int]) -> list[Tensor]:
        """Compute the features of several layers in one pass; see `forward`.

        Raises:
            ValueError: as `forward`, and for a layer that does not exist.
        """
        if audio.ndim != 2 or not audio.shape[1]:
            raise ValueError(f"audio must be (batch, samples) with at least one sample, got {tuple(audio.shape)}")
        self.check_layers(layers)
        if samples is None:
            samples = torch.full((len(audio),), audio.shape[1], device=audio.device)
        if samples.shape != (len(audio),) or samples.min() < 1 or samples.max() > audio.shape[1]:
            raise ValueError(f"samples must be one count per row, 1 to {audio.shape[1]}, got {samples.tolist()}")
        inside = torch.arange(audio.shape[1], device=audio.device) < samples[:, None]
        states = self._hidden_states(audio.float().masked_fill(~inside, 0.0), samples, layers)
        kept = torch.arange(states[0].shape[1], device=audio.device) < -(-samples // self.hop_samples)[:, None]
        return [state.float() * kept[..., None] for state in states]

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raises:
        ValueError: naming the layers that do not exist here.
        """
        unknown = [layer for layer in layers if not 0 <= layer <= self.layers]
        if unknown or not layers:
            raise ValueError(f"This encoder has layers 0 to {self.layers}; there is no layer {unknown or layers}.")

    @abc.abstractmethod
    def _hidden_states(self, audio: Tensor, samples: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The layers' features; `audio` is zero after each row's `samples`, arguments are checked."""

    @abc.abstractmethod
    def config_dict(self) -> dict[str, Any]:
        """Plain values from which `semantic.encoders.rebuild_encoder` makes the same encoder, weights aside."""
