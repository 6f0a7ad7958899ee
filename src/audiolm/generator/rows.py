"""What goes through the stages of a generator: one row per utterance, and how it draws."""

from dataclasses import dataclass

from torch import Tensor

from audiolm.generator.streams import RandomStream
from audiolm.lm.sampling import Sampling
from audiolm.lm.transformer import Transformer
from audiolm.tokens.layout import StageLayout


@dataclass(frozen=True)
class StageSampling:
    """How each stage draws. The defaults are the paper's temperatures, without top-k or top-p. Source: AudioLM, section IV-C.

    `coarse` also says how an acoustic-only generator draws its coarse codes.
    """

    semantic: Sampling = Sampling(0.6)
    coarse: Sampling = Sampling(0.8)
    fine: Sampling = Sampling(0.6)


@dataclass(frozen=True)
class LanguageModel:
    """One stage's model, and the stretch of audio it was trained on."""

    model: Transformer
    layout: StageLayout
    window_seconds: float


@dataclass(frozen=True)
class Draws:
    """Where the randomness of one generation comes from, and what it may do."""

    seed: int
    sampling: StageSampling
    stop_at_end: bool = False

    def stream(self, row: "Row", *names: str | int) -> RandomStream:
        """A row's own numbers for one stage (and chunk)."""
        return RandomStream(self.seed, row.id, *names)


@dataclass
class Row:
    """One utterance on its way through the stages."""

    id: str
    plan: Tensor  # units to speak, without repeats; those of the prompt first; none in an acoustic-only generator
    prompt_units: int  # how many of the plan belong to the prompt
    codes: Tensor  # (levels, frames) of the prompt
    coarse: Tensor  # (coarse levels, frames) so far, the prompt's included
    frames: int  # wanted in all
    samples: int  # wanted in all
    ended: bool = False  # whether the plan ends with the end of the utterance

    @property
    def prompt_frames(self) -> int:
        """Frames of the prompt."""
        return self.codes.shape[1]
