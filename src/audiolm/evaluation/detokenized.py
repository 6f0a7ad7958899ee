"""A tokenizer and the detokenizer trained on its tokens, as one codec: what Table I measures."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from audiolm.checkpoint import StageCheckpoint, load_stage_checkpoint
from audiolm.codec.codec import Codec
from audiolm.codec.codecs import rebuild_codec
from audiolm.codec.detokenizer import MADE_BY, Detokenizer, DetokenizerKind
from audiolm.semantic.tokenizer import SemanticTokenizer


class DetokenizedCodec(Codec):
    """Audio to units or codes by the stage that made them, and back by a `Detokenizer`.

    Args:
        tokenizer: a `SemanticTokenizer` or a `Codec`; its first levels are the tokens.
        detokenizer: trained on its tokens.
    """

    def __init__(self, tokenizer: SemanticTokenizer | Codec, detokenizer: Detokenizer) -> None:
        super().__init__()
        self.tokenizer, self.detokenizer = tokenizer, detokenizer

    @property
    def sample_rate_hz(self) -> int:
        return self.detokenizer.config.sample_rate_hz

    @property
    def hop_samples(self) -> int:
        return self.detokenizer.config.token_hop_samples

    @property
    def levels(self) -> int:
        return self.detokenizer.config.levels

    @property
    def codebook_size(self) -> int:
        return self.detokenizer.config.vocabulary

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """See `Codec.encode`."""
        self._check_audio(audio)
        if isinstance(self.tokenizer, SemanticTokenizer):
            return self.tokenizer.encode_levels(audio, sample_rate_hz=self.sample_rate_hz, levels=self.levels)
        return self.tokenizer.encode(audio)[:, : self.levels]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """See `Codec.decode`."""
        self._check_codes(codes)
        return self.detokenizer(codes.long()).float()

    def embed(self, codes: Tensor) -> Tensor:
        """See `Codec.embed`: centroids, summed over the levels; or the codec's own vectors."""
        self._check_codes(codes)
        if isinstance(self.tokenizer, SemanticTokenizer):
            return torch.stack([self.tokenizer.embed(row).t() for row in codes])
        return self.tokenizer.embed(codes)

    def config_dict(self) -> dict[str, Any]:
        """What it is made of; loaded by `load_detokenized`, not by `rebuild_codec`."""
        return {
            "kind": "detokenized",
            "tokenizer": self.tokenizer.config_dict(),
            "detokenizer": self.detokenizer.config.as_dict(),
        }


def load_detokenized(path: Path, checkpoint: StageCheckpoint) -> DetokenizedCodec:
    """Put a detokenizer's checkpoint together with the stage beside it that made its tokens.

    Raises:
        FileNotFoundError: if that stage's checkpoint is not in the same chain.
        ValueError: if it was trained again since.
    """
    made_by = MADE_BY[cast(DetokenizerKind, checkpoint.stage)]
    source = path.parent.parent / made_by / "best.ckpt"
    tokens = load_stage_checkpoint(source, stage=made_by)
    if tokens.digest != checkpoint.sources[made_by]:
        raise ValueError(
            f"{path} was trained on the tokens of another {made_by} than {source} is now: train it again "
            f"(`lightning fit -c stages/{checkpoint.stage}.yaml`), or bring the old {made_by} back."
        )
    tokenizer = SemanticTokenizer.from_checkpoint(tokens) if made_by != "codec" else rebuild_codec(tokens)
    return DetokenizedCodec(tokenizer, Detokenizer.from_checkpoint(checkpoint)).eval()
