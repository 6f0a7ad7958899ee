"""A decoder from tokens straight to audio: how much of a recording a kind of token keeps."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from audiolm.checkpoint import StageCheckpoint
from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.layers import Decoder
from audiolm.untrusted.rebuilding import rebuilt
from audiolm.untrusted.values import from_values, require_types

DetokenizerKind = Literal["detokenizer_units", "detokenizer_residual", "detokenizer_codes", "detokenizer_all_codes"]
MADE_BY: dict[DetokenizerKind, str] = {  # which stage makes the tokens; in the order of the paper's Table I
    "detokenizer_units": "tokenizer",
    "detokenizer_residual": "residual_tokenizer",
    "detokenizer_codes": "codec",
    "detokenizer_all_codes": "codec",
}


@dataclass(frozen=True)
class DetokenizerConfig:
    """The size of a detokenizer, and the tokens it takes.

    Raises:
        ValueError: if tokens do not cover whole frames of the decoder.
    """

    vocabulary: int  # ids per level
    levels: int  # streams of tokens; 1 for units
    token_hop_samples: int  # samples that one token stands for
    sample_rate_hz: int = 16000
    channels: int = 32
    dim: int = 128
    strides: tuple[int, ...] = (2, 4, 5, 8)

    def __post_init__(self) -> None:
        if isinstance(self.strides, list):
            object.__setattr__(self, "strides", tuple(self.strides))  # JSON and YAML give lists
        require_types(self)
        if self.vocabulary < 2 or self.levels < 1:
            raise ValueError(
                f"vocabulary must be at least 2 and levels at least 1, got {self.vocabulary}, {self.levels}"
            )
        hop = self.decoder.hop_samples
        if self.token_hop_samples < hop or self.token_hop_samples % hop:
            raise ValueError(
                f"one token stands for {self.token_hop_samples} samples, which are no whole number of the decoder's frames of "
                f"{hop} samples: choose strides whose product divides {self.token_hop_samples}"
            )

    @property
    def decoder(self) -> SoundStreamConfig:
        """The SoundStream whose decoder this has; checks channels, dim and strides."""
        return SoundStreamConfig(self.sample_rate_hz, self.channels, self.dim, self.strides)

    @property
    def frames_per_token(self) -> int:
        """Frames of the decoder that one token lasts."""
        return self.token_hop_samples // self.decoder.hop_samples

    def as_dict(self) -> dict[str, Any]:
        """Plain values for checkpoints; `from_dict` is the inverse."""
        return {**asdict(self), "strides": list(self.strides)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DetokenizerConfig":
        """Read what `as_dict` wrote.

        Raises:
            ValueError: if a name is missing or unknown, or a value out of range.
        """
        return from_values(cls, values, source="the configuration of the detokenizer")


class Detokenizer(nn.Module):
    """Learned embeddings, summed over levels, then SoundStream's decoder. Causal: a token is heard from its own frame on.

    Trained with a random number of levels per example, so that any prefix of the levels can be decoded.

    Source: AudioLM, section IV-D and Table I: "we train a SoundStream decoder to reconstruct audio from" each token type.
    """

    def __init__(self, config: DetokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Parameter(torch.randn(config.levels, config.vocabulary, config.dim) / config.levels**0.5)
        self.decoder = Decoder(channels=config.channels, dim=config.dim, strides=config.strides)

    @classmethod
    def from_checkpoint(cls, checkpoint: StageCheckpoint) -> "Detokenizer":
        """The trained detokenizer of a checkpoint, frozen.

        Raises:
            ValueError: if configuration or weights are not those of a detokenizer.
        """
        config = DetokenizerConfig.from_dict(checkpoint.config)
        return rebuilt(lambda: cls(config), checkpoint.weights, what="the detokenizer").requires_grad_(False).eval()

    def forward(self, tokens: Tensor, *, active_levels: Tensor | None = None) -> Tensor:
        """Turn tokens into audio.

        Args:
            tokens: (batch, 1 to `levels` levels, frames) integers in [0, vocabulary).
            active_levels: (batch,) how many levels each example uses; None: all that are given.

        Returns:
            (batch, frames * token_hop_samples) float.
        """
        levels = torch.arange(tokens.size(1), device=tokens.device)
        vectors = self.embeddings[levels[None, :, None], tokens]  # batch levels frames dim
        if active_levels is not None:
            vectors = vectors * (levels < active_levels.to(tokens.device)[:, None])[:, :, None, None]
        latents = reduce(vectors, "batch levels frames dim -> batch frames dim", "sum")
        latents = rearrange(latents, "batch frames dim -> batch dim frames")
        return self.decoder(F.interpolate(latents, scale_factor=float(self.config.frames_per_token), mode="nearest"))
