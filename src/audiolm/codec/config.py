"""SoundStreamConfig: the numbers that define one codec."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from audiolm.untrusted.values import MOST_SAMPLE_RATE_HZ, from_values, require_types

MOST_LEVELS = 256
MOST_STRIDES = 16  # channels double at each


@dataclass(frozen=True)
class SoundStreamConfig:
    """The size of a SoundStream and the behaviour of its quantizer. Stored with the weights.

    The defaults are AudioLM's speech codec: 9.85 M parameters without codebooks, 50 frames per second, 12 levels.

    Raises:
        ValueError: naming the number that cannot be.

    Source: AudioLM, section IV-B (strides, levels, entries); SoundStream, sections III-A to III-C (C, D, decay,
    dropout). The embedding size is not stated in either paper. SoundStream replaces entries used less than 2 times;
    how often an entry is used grows with batch and clip length and shrinks with level (dropout), so ours is a
    fraction of the mean.
    """

    sample_rate_hz: int = 16000
    channels: int = 32  # C: doubles at every downsampling, 32 -> 512
    dim: int = 128  # D: width of the latents and of the codebooks
    strides: tuple[int, ...] = (2, 4, 5, 8)
    levels: int = 12  # Q
    codebook_size: int = 1024  # N
    ema_decay: float = 0.99
    dead_fraction: float = 0.1  # an entry used less than this share of its level's mean is replaced
    pool_factor: int = 8  # frames collected per entry before k-means: with fewer, centroids are single samples
    quantizer_dropout: float = 1.0  # share of training examples with a random number of active levels; paper: all

    def __post_init__(self) -> None:
        if isinstance(self.strides, list):
            object.__setattr__(self, "strides", tuple(self.strides))  # JSON and YAML give lists
        require_types(self)
        for name in ("sample_rate_hz", "channels", "dim", "levels", "codebook_size", "pool_factor"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"SoundStreamConfig.{name} must be a whole number of at least 1, got {getattr(self, name)}"
                )
        if self.sample_rate_hz > MOST_SAMPLE_RATE_HZ or self.levels > MOST_LEVELS or len(self.strides) > MOST_STRIDES:
            raise ValueError(
                f"a codec has at most {MOST_SAMPLE_RATE_HZ} Hz, {MOST_LEVELS} levels and {MOST_STRIDES} strides, got "
                f"{self.sample_rate_hz}, {self.levels} and {len(self.strides)}"
            )
        if not self.strides or min(self.strides) < 2:
            raise ValueError(f"strides must be whole numbers of at least 2, such as (2, 4, 5, 8); got {self.strides}")
        if not 2 <= self.codebook_size <= 2**16:
            raise ValueError(f"codebook_size must be 2 to 65536 (16-bit tokens), got {self.codebook_size}")
        for name, low, high in (("ema_decay", 0, 1), ("dead_fraction", 0, 1), ("quantizer_dropout", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be {low} to {high}, got {getattr(self, name)}")
        if self.ema_decay == 1:
            raise ValueError("ema_decay must be below 1: at 1 the codebooks never move")

    @property
    def hop_samples(self) -> int:
        """Samples in one frame."""
        return math.prod(self.strides)  # 2 * 4 * 5 * 8 = 320, i.e. 50 frames per second at 16 kHz

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints; `from_dict` is the inverse."""
        return {**asdict(self), "strides": list(self.strides)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SoundStreamConfig":
        """Read what `as_dict` wrote.

        Raises:
            ValueError: if a name is missing or unknown, or a value out of range.
        """
        return from_values(cls, values, source="the configuration of the codec")
