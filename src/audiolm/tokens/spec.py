"""TokenSpec: the numbers every stage shares."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from audiolm.untrusted.values import MOST_SAMPLE_RATE_HZ

MOST_LEVELS = 1024  # public codecs have up to 32
LONGEST_ALIGNED_SECONDS = 1  # crops and prompts are multiples of what is whole in both streams


@dataclass(frozen=True)
class TokenSpec:
    """The numbers every stage shares. Stored with the tokens and in every checkpoint made from them.

    The tokenize stage makes it from the codec and the semantic tokenizer at hand; everything after reads it from the
    token store. Paper values are the defaults, except that K and the semantic rate always come from the tokenizer.

    Raises:
        ValueError: for a rate that does not divide the sample rate, hops that hardly ever meet, or a level or vocabulary
            count that cannot be.

    Source: AudioLM, section IV-B: 16 kHz, 50 Hz acoustic frames, 25 Hz units, K = 1024, Q = 12, Q' = 4, N = 1024.
    """

    sample_rate_hz: int = 16000
    hop_samples: int = 320  # samples in one acoustic frame; 16000 / 320 = 50 frames per second
    levels: int = 12  # Q: residual quantizer levels of the codec
    codebook_size: int = 1024  # N: entries of each level
    coarse_levels: int = 4  # Q': levels of the coarse stage; the rest are fine (piano has none)
    semantic_rate_hz: int = 25  # units per second
    clusters: int = 1024  # K: semantic vocabulary

    def __post_init__(self) -> None:
        for field in fields(self):
            most = MOST_SAMPLE_RATE_HZ if field.name.endswith(("_hz", "_samples")) else 2**16
            value = getattr(self, field.name)
            if type(value) is not int or not 1 <= value <= most:
                shown = repr(value)[:80] if type(value) is not int or abs(value) < 2**64 else "far more"
                raise ValueError(
                    f"TokenSpec.{field.name} must be a whole number of at least 1, at most {most}, got {shown}"
                )
        if self.levels > MOST_LEVELS:
            raise ValueError(f"levels must be at most {MOST_LEVELS}, got {self.levels}: damaged?")
        if self.coarse_levels > self.levels:
            raise ValueError(
                f"coarse_levels must be 1 to levels ({self.levels}), got {self.coarse_levels}. Lower `coarse_levels` of the "
                "tokenize stage, or use a codec with more levels."
            )
        if self.sample_rate_hz % self.semantic_rate_hz:
            raise ValueError(
                f"semantic_rate_hz ({self.semantic_rate_hz}) does not divide sample_rate_hz ({self.sample_rate_hz}): "
                "a unit would not cover a whole number of samples. Choose a rate such as 25 or 50."
            )
        if self.aligned_samples > LONGEST_ALIGNED_SECONDS * self.sample_rate_hz:
            raise ValueError(
                f"Frames of {self.hop_samples} samples and units of {self.semantic_hop_samples} samples meet only every "
                f"{self.aligned_samples / self.sample_rate_hz:.2f} s at {self.sample_rate_hz} Hz, and windows and prompts are "
                f"multiples of that (at most {LONGEST_ALIGNED_SECONDS} s). Take a codec whose hop fits: 320 samples at 16 or "
                "24 kHz, for example (descript/dac_24khz rather than dac_44khz)."
            )
        if max(self.codebook_size, self.clusters) > 2**16:
            raise ValueError("codebook_size and clusters must be at most 65536: tokens are stored as 16-bit numbers")

    @property
    def frame_rate_hz(self) -> float:
        """Acoustic frames per second."""
        return self.sample_rate_hz / self.hop_samples

    @property
    def fine_levels(self) -> int:
        """Levels left to the fine stage; 0 if the coarse stage predicts all of them."""
        return self.levels - self.coarse_levels

    @property
    def semantic_hop_samples(self) -> int:
        """Samples in one semantic frame; 16000 / 25 = 640."""
        return self.sample_rate_hz // self.semantic_rate_hz

    @property
    def aligned_samples(self) -> int:
        """The shortest stretch of audio that is whole in both streams: crops and prompts are multiples of it."""
        return math.lcm(self.hop_samples, self.semantic_hop_samples)

    def frames(self, samples: int) -> int:
        """Acoustic frames of `samples` samples: a last partial frame counts."""
        return -(-samples // self.hop_samples)

    def semantic_frames(self, samples: int) -> int:
        """Semantic frames of `samples` samples, before repeats are removed: a last partial frame counts."""
        return -(-samples // self.semantic_hop_samples)

    def as_dict(self) -> dict[str, int]:
        """Plain numbers for JSON and checkpoints; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, source: str = "a spec") -> "TokenSpec":
        """Read what `as_dict` wrote.

        Raises:
            ValueError: naming `source`, if a number is missing, unknown or out of range.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            found = sorted(map(str, values)) if isinstance(values, dict) else values
            raise ValueError(
                f"{source} does not hold a TokenSpec: expected exactly {sorted(names)}, found {str(found)[:300]}"
            )
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

    def require_equal(self, other: "TokenSpec", *, ours: str, theirs: str) -> None:
        """Stop where two artefacts disagree.

        Raises:
            ValueError: naming both sides and every number that differs.
        """
        differing = [
            f"{field.name}: {getattr(self, field.name)} in {ours}, {getattr(other, field.name)} in {theirs}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]
        if differing:
            raise ValueError(
                f"{ours} and {theirs} were made for different tokens ({'; '.join(differing)}). They come from different "
                "chains: train the later one again from the tokens of the earlier one, or point both at one chain."
            )
