"""Random language models, tokens and generators of the sizes that benchmarks/lm.py measures."""

from typing import Any

import torch
from common import give_codebooks
from torch import Tensor

from audiolm.codec.soundstream import SoundStream
from audiolm.generator import AudioLM
from audiolm.generator.rows import LanguageModel
from audiolm.lm.transformer import Transformer, TransformerConfig
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.tokens.layout import StageLayout, TokenBatch, collate
from audiolm.tokens.spec import TokenSpec

SPEC = TokenSpec()
SIZES = {
    "peer": {"layers": 6, "heads": 8, "dim": 256, "feed_forward": 1024},
    "paper": {"layers": 12, "heads": 16, "dim": 1024, "feed_forward": 4096},
    "tiny": {"layers": 2, "heads": 2, "dim": 16, "feed_forward": 32},
}
WINDOW_SECONDS = {"semantic": 30.0, "coarse": 10.0, "fine": 3.0}
# units and frames of a training sequence: 751, 2253 and 1800 positions; the peer's 1801st is a token only to be predicted
UNITS = {"semantic": 750, "coarse": 252, "fine": 1}
FRAMES = {"semantic": 1, "coarse": 500, "fine": 150}


def build_model(layout: StageLayout, *, size: str, attention: str, dropout: float = 0.0) -> Transformer:
    """A stage's model with random weights, the same every time."""
    torch.manual_seed(0)
    config = TransformerConfig(**SIZES[size], dropout=dropout)  # type: ignore[arg-type]
    return Transformer(config, layout.vocabulary, attention=attention)


def random_units(count: int) -> Tensor:
    """(count,) no two neighbours equal, so that the layout removes none."""
    return torch.randint(1, SPEC.clusters, (count,)).cumsum(0) % SPEC.clusters


def random_codes(frames: int, *, levels: int = SPEC.levels) -> Tensor:
    """(levels, frames)."""
    return torch.randint(SPEC.codebook_size, (levels, frames))


def training_batch(layout: StageLayout, *, rows: int) -> TokenBatch:
    """Whole windows as the data module lays them out: no padding."""
    units, frames = UNITS[layout.stage], FRAMES[layout.stage]
    return collate([layout.sequence(random_units(units), random_codes(frames), true_end=True) for _ in range(rows)])


class RandomUnits(SemanticTokenizer):
    """A tokenizer that takes no time: units that never repeat, as many as the audio has semantic frames."""

    def encode(self, audio: Tensor, *_: Any, **__: Any) -> Tensor:  # type: ignore[override]
        """(batch, samples) -> (batch, frames)."""
        return torch.stack([random_units(SPEC.semantic_frames(audio.shape[1])) for _ in audio])


def build_generator(*, size: str, attention: str, device: str, dtype: torch.dtype) -> AudioLM:
    """A generator as `AudioLM.from_pretrained` gives it, of random models, the codec at the paper's size."""
    stages: dict[Any, LanguageModel] = {}
    for stage, window_seconds in WINDOW_SECONDS.items():
        layout = StageLayout(SPEC, stage)  # type: ignore[arg-type]
        model = build_model(layout, size=size, attention=attention).to(dtype).requires_grad_(False).eval()
        model.lay_out_for_decoding()  # as `load_generator` does
        stages[stage] = LanguageModel(model, layout, window_seconds)
    codec = SoundStream()
    give_codebooks(codec)
    return AudioLM(
        spec=SPEC,
        codec=codec.fold_weights(),
        tokenizer=RandomUnits(MfccEncoder(), clusters=SPEC.clusters),
        stages=stages,
        units_per_second=SPEC.semantic_rate_hz,
    ).to(device)
