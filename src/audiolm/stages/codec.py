"""The codec stage: trains a SoundStream against its discriminators."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.discriminators import DiscriminatorConfig
from audiolm.codec.losses import MEL_WINDOWS
from audiolm.codec.quantizer import perplexity
from audiolm.codec.soundstream import SoundStream
from audiolm.stages.adversarial import AdversarialStage, CodecLossShares
from datamodules.waveforms import WaveformBatch


class CodecStage(AdversarialStage):
    """Trains a SoundStream; see `AdversarialStage` for steps, losses and averaging, `SoundStreamConfig` for sizes.

    Every validation logs each loss, SI-SDR, mel distance, the perplexity of each codebook (in validation, and in training
    since it was last judged) and its dead entries, and writes reconstructions to listen to. A level whose perplexity stays
    under 5 % of its codebook is named, with what helps.
    """

    stage = "codec"
    model: SoundStream
    live: SoundStream
    usage: Tensor

    def __init__(
        self,
        *,
        codec: SoundStreamConfig = SoundStreamConfig(),  # noqa: B008  frozen: sharing is harmless
        discriminators: DiscriminatorConfig = DiscriminatorConfig(),  # noqa: B008
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
        super().__init__(
            SoundStream(codec),
            sample_rate_hz=codec.sample_rate_hz,
            codebooks=codec.levels,
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
        self.register_buffer("usage", torch.zeros_like(self.live.quantizer.usage), persistent=False)

    def config_dict(self) -> dict[str, Any]:
        """What rebuilds the codec: the discriminators are not needed after training."""
        return self.model.config_dict()

    def reconstruct(self, network: SoundStream, audio: Tensor) -> tuple[Tensor, Tensor]:
        """See `AdversarialStage.reconstruct`. In validation: through all levels, as `encode` and `decode` do."""
        output = network(audio)
        if network.training or not network.quantizer.ready:
            # until there are codebooks nothing is coded: score silence, not the unquantised shortcut
            estimate = output.audio if network.training else torch.zeros_like(audio)
            return estimate, output.quantized.commitment
        levels = output.quantized.codes.transpose(0, 1).flatten(1)
        self.usage.scatter_add_(1, levels, torch.ones_like(levels))
        return output.audio, output.quantized.commitment

    def listen(self, audio: Tensor) -> Tensor:
        """See `AdversarialStage.listen`."""
        if not self.model.quantizer.ready:
            return torch.zeros_like(audio)
        return self.model.decode(self.model.encode(audio))[:, : audio.size(1)]

    def validation_step(self, batch: WaveformBatch, batch_idx: int) -> None:
        """See `AdversarialStage.validation_step`."""
        before = self.usage.clone()
        super().validation_step(batch, batch_idx)
        if not batch.counts:
            self.usage.copy_(before)

    def on_validation_epoch_end(self) -> None:
        """Log how many entries of each level are in effective use, and name the levels that have collapsed."""
        quantizer = self.live.quantizer
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.usage)
        for name, entries in (("validation", perplexity(self.usage)), ("train", quantizer.perplexity())):
            for level, value in enumerate(entries, start=1):
                self.log(f"{name}/perplexity_level_{level}", value)
        for level, dead in enumerate(quantizer.replaced, start=1):
            self.log(f"train/dead_codes_level_{level}", dead.float())
        self.usage.zero_()
        if self.trainer.sanity_checking:
            return
        if not quantizer.ready:
            self.print(
                f"codec: the codebooks wait for {quantizer.pool_frames} frames to start from; until then nothing is coded, "
                "and validation scores silence."
            )
        troubles, judged = self.health.observe_usage(quantizer.usage)
        quantizer.reset_usage(judged)
        self.log("train/collapsed_levels", float(len(troubles)))
        for trouble in troubles:
            rank_zero_warn(
                f"{trouble} What helps, in this order: a larger dead_fraction "
                f"({quantizer.dead_fraction}), a smaller ema_decay ({quantizer.decay}), a larger commitment share "
                f"({self.shares.commitment}), a lower learning rate ({self.learning_rate:g}); or the data are "
                "much alike, and a smaller codebook_size says as much."
            )
