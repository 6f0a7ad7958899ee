"""The detokenizer stage: a decoder from one kind of tokens, trained as the codec's is."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.codec.codecs import rebuild_codec
from audiolm.codec.detokenizer import MADE_BY, Detokenizer, DetokenizerConfig, DetokenizerKind
from audiolm.codec.discriminators import DiscriminatorConfig
from audiolm.codec.losses import MEL_WINDOWS
from audiolm.processes import Processes
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.stages.adversarial import AdversarialStage, CodecLossShares


class DetokenizerStage(AdversarialStage):
    """Trains a `Detokenizer` on tokens that a frozen tokenizer or codec makes of each crop.

    Args:
        stage: "detokenizer_units": from the semantic tokenizer's units; "detokenizer_residual": from all levels of residual
            units; "detokenizer_codes": from the codec's coarse codes; "detokenizer_all_codes": from all its codes.
        source: the checkpoint that makes the tokens; by default the chain's `best.ckpt` of tokenizer, residual_tokenizer or
            codec.
        levels: detokenizer_codes: how many of the codec's levels; Q' = 4 in the paper.
        sample_rate_hz: of units: rate of the audio to make. Codes have their codec's.
        channels, dim, strides: sizes of the decoder, as in `SoundStreamConfig`.

    The other arguments are `AdversarialStage`'s.

    Source: AudioLM, Table I: ViSQOL of audio rebuilt from each token type.
    """

    model: Detokenizer
    live: Detokenizer

    def __init__(
        self,
        *,
        stage: DetokenizerKind,
        source: str | None = None,
        levels: int = 4,
        sample_rate_hz: int = 16000,
        channels: int = 32,
        dim: int = 128,
        strides: tuple[int, ...] = (2, 4, 5, 8),
        discriminators: DiscriminatorConfig = DiscriminatorConfig(),  # noqa: B008  frozen: sharing is harmless
        shares: CodecLossShares = CodecLossShares(),  # noqa: B008
        learning_rate: float = 3e-4,
        discriminator_learning_rate: float = 3e-4,
        warmup_steps: int = 500,
        discriminator_start: int = 5000,
        gradient_clip: float = 1.0,
        average_decay: float = 0.999,
        mel_windows: tuple[int, ...] = MEL_WINDOWS,
        skip_limit: int = 20,
        root: str = "checkpoints",
    ) -> None:
        made_by = MADE_BY[stage]
        checkpoint = load_stage_checkpoint(source or Path(root) / made_by / "best.ckpt", stage=made_by)
        if made_by != "codec":
            tokenizer = SemanticTokenizer.from_checkpoint(checkpoint)
            if sample_rate_hz % tokenizer.rate_hz:
                raise ValueError(
                    f"sample_rate_hz ({sample_rate_hz}) must be a multiple of {tokenizer.rate_hz} units per second"
                )
            levels = 1 if stage == "detokenizer_units" else tokenizer.levels
            vocabulary, hop = tokenizer.clusters, sample_rate_hz // tokenizer.rate_hz
            self_tokens: Any = tokenizer
        else:
            codec = rebuild_codec(checkpoint)
            levels = codec.levels if stage == "detokenizer_all_codes" else levels
            if not 1 <= levels <= codec.levels:
                raise ValueError(f"levels must be 1 to {codec.levels}, the codec's number; got {levels}")
            sample_rate_hz = codec.sample_rate_hz
            vocabulary, hop = codec.codebook_size, codec.hop_samples
            self_tokens = codec
        config = DetokenizerConfig(vocabulary, levels, hop, sample_rate_hz, channels, dim, strides)
        super().__init__(
            Detokenizer(config),
            sample_rate_hz=sample_rate_hz,
            codebooks=0,
            discriminators=discriminators,
            shares=shares,
            learning_rate=learning_rate,
            discriminator_learning_rate=discriminator_learning_rate,
            warmup_steps=warmup_steps,
            discriminator_start=discriminator_start,
            gradient_clip=gradient_clip,
            average_decay=average_decay,
            mel_windows=mel_windows,
            skip_limit=skip_limit,
            root=root,
        )
        self.stage_name, self.made_by = stage, {made_by: checkpoint.digest}
        self._tokenizer = (
            self_tokens.requires_grad_(False).eval(),
        )  # hidden in a tuple: not part of this stage's weights

    @property
    def name(self) -> str:
        """See `StageModule.name`."""
        return self.stage_name

    def config_dict(self) -> dict[str, Any]:
        """See `StageModule.config_dict`."""
        return self.model.config.as_dict()

    def sources(self) -> dict[str, str]:
        """See `StageModule.sources`."""
        return self.made_by

    @torch.no_grad()
    def tokens(self, audio: Tensor) -> Tensor:
        """The tokens (batch, levels, frames) of audio (batch, samples)."""
        tokenizer, levels = self._tokenizer[0].to(audio.device), self.model.config.levels
        with torch.autocast(audio.device.type, enabled=False):
            if isinstance(tokenizer, SemanticTokenizer):
                return tokenizer.encode_levels(audio.float(), sample_rate_hz=self.rate_hz, levels=levels)
            return tokenizer.encode(audio.float())[:, :levels]

    def reconstruct(self, network: Detokenizer, audio: Tensor) -> tuple[Tensor, Tensor]:
        """See `AdversarialStage.reconstruct`; nothing is quantized here. Half of the training examples lose fine levels."""
        tokens, active = self.tokens(audio), None
        if network.training and tokens.size(1) > 1:
            processes = Processes.current()
            rows = len(tokens) * processes.count  # draws are alike on all processes: see `StageModule.draws_alike`
            drawn = torch.randint(1, tokens.size(1) + 1, (rows,))
            active = processes.rows(torch.where(torch.rand(rows) < 0.5, drawn, tokens.size(1)))
        return network(tokens, active_levels=active)[:, : audio.size(1)], audio.new_zeros(())

    def listen(self, audio: Tensor) -> Tensor:
        """See `AdversarialStage.listen`."""
        return self.model(self.tokens(audio))[:, : audio.size(1)]
