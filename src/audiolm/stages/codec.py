"""The codec stage: trains a SoundStream against its discriminators."""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.discriminators import DiscriminatorConfig, Discriminators, Judgement
from audiolm.codec.losses import (
    MEL_WINDOWS,
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    multi_scale_mel_loss,
)
from audiolm.codec.quantizer import perplexity
from audiolm.codec.soundstream import SoundStream
from audiolm.evaluation.reconstruction import mel_distance, si_sdr
from audiolm.lm.schedule import warmup_cosine
from audiolm.stages.base import StageModule
from datamodules.waveforms import WaveformBatch


@dataclass(frozen=True)
class CodecLossWeights:
    """How much each loss of the codec counts.

    SoundStream's weights are 1 for the adversarial and reconstruction losses and 100 for feature matching, with sums
    where ours are means. Chosen here so that no loss drowns the others: the norms of their gradients on the
    reconstructed audio, per unit of weight, measure about 300 (reconstruction), 0.0035 (waveform), 0.2 (adversarial)
    and 0.003 (feature), so that with these weights each of them pulls with 0.2 to 1. (At a reconstruction weight of 1,
    discriminators change nothing.) Two losses are ours. Waveform, the mean absolute difference: mel spectrograms are
    blind to phase, and on them alone a fresh codec was still at -44 dB SI-SDR after 500 steps, with it at -3 dB.
    Commitment: without it latents grow faster than their codebooks follow.
    """

    reconstruction: float = 0.003
    waveform: float = 300.0
    adversarial: float = 1.0
    feature: float = 100.0
    commitment: float = 0.1


class CodecStage(StageModule):
    """Trains `self.model` (a SoundStream) on waveforms (batch, samples); keeps the discriminators for resuming only.

    `trainer.max_steps` counts generator steps. A step whose loss or gradient is not finite is skipped and counted.

    Args:
        codec: sizes of the codec.
        discriminators: sizes of the discriminators.
        weights: of the generator's losses.
        learning_rate: of the codec; after warm-up it falls to zero at `max_steps` along a cosine.
        discriminator_learning_rate: of the discriminators, on the same schedule, warmed up from their own start.
        warmup_steps: steps of linear growth of a learning rate.
        discriminator_start: generator steps on reconstruction alone, before there is anything worth discriminating.
        gradient_clip: largest norm of the gradient, of the codec and of the discriminators alike.
        mel_windows: window lengths of the reconstruction loss, in samples; fewer are faster.
        skip_limit: skipped steps before the run stops.
        root: the folder of the chain.

    Source: SoundStream, section III. Optimizer, schedule and clipping are not stated there.
    """

    stage = "codec"
    model: SoundStream
    skipped_steps: Tensor
    usage: Tensor

    def __init__(
        self,
        *,
        codec: SoundStreamConfig = SoundStreamConfig(),  # noqa: B008  frozen: sharing is harmless
        discriminators: DiscriminatorConfig = DiscriminatorConfig(),  # noqa: B008
        weights: CodecLossWeights = CodecLossWeights(),
        learning_rate: float = 3e-4,
        discriminator_learning_rate: float = 3e-4,
        warmup_steps: int = 500,
        discriminator_start: int = 5000,
        gradient_clip: float = 1.0,
        mel_windows: tuple[int, ...] = MEL_WINDOWS,
        skip_limit: int = 20,
        root: str = "checkpoints",
    ) -> None:
        super().__init__(root=root)
        self.automatic_optimization = False
        self.codec, self.weights, self.mel_windows = codec, weights, tuple(mel_windows)
        self.learning_rate, self.discriminator_learning_rate = learning_rate, discriminator_learning_rate
        self.warmup_steps, self.discriminator_start = warmup_steps, discriminator_start
        self.gradient_clip, self.skip_limit = gradient_clip, skip_limit
        self.model = SoundStream(codec)
        self.discriminators = Discriminators(discriminators)
        self.register_buffer("skipped_steps", torch.tensor(0))
        self.register_buffer("usage", torch.zeros_like(self.model.quantizer.usage), persistent=False)

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio this stage wants."""
        return self.codec.sample_rate_hz

    def config_dict(self) -> dict[str, Any]:
        """What rebuilds the codec: the discriminators are not needed after training."""
        return self.model.config_dict()

    def configure_optimizers(self) -> tuple[list[AdamW], list[LambdaLR]]:
        if self.trainer.precision == "16-mixed":
            raise ValueError(
                "precision 16-mixed scales losses, which the two optimizers here do not undo: use bf16-mixed"
            )
        steps = int(self.trainer.estimated_stepping_batches)
        rates = ((self.model, self.learning_rate, 0), (self.discriminators, self.discriminator_learning_rate, 1))
        optimizers, schedules = [], []
        for module, rate, adversary in rates:
            start = min(adversary * self.discriminator_start, steps - 1)
            factor = warmup_cosine(warmup_steps=self.warmup_steps, total_steps=steps - start, floor=0.0)
            optimizers.append(AdamW(module.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True))
            schedules.append(LambdaLR(optimizers[-1], factor))
        return optimizers, schedules

    def training_step(self, batch: WaveformBatch, batch_idx: int) -> None:
        """One step of the codec, then one of the discriminators. Real audio is judged once, for both."""
        audio, adversarial = batch.audio, self.trainer.global_step >= self.discriminator_start
        generator, adversary = cast(list[LightningOptimizer], self.optimizers())
        reconstruction = self.model(audio)
        real = self.discriminators(audio) if adversarial else []
        self.discriminators.requires_grad_(False)  # their gradient comes from their own loss only
        fake = self.discriminators(reconstruction.audio) if adversarial else []
        losses = self._generator_losses(audio, reconstruction.audio, reconstruction.quantized.commitment, real, fake)
        self.discriminators.requires_grad_(True)
        norm = self._descend(losses["loss"], generator)
        if norm is None:
            return self._skip()
        generator.step()  # this one advances the trainer's global step
        if adversarial:
            fake = self.discriminators(reconstruction.audio.detach())
            losses["discriminator"] = hinge_discriminator_loss(_scores(real), _scores(fake))
            adversary_norm = self._descend(losses["discriminator"], adversary)
            if adversary_norm is None:
                self._skip()
            else:
                adversary.optimizer.step()  # the bare optimizer: Lightning does not count it as a step
                losses["discriminator_gradient_norm"] = adversary_norm
        schedules = cast(list[LambdaLR], self.lr_schedulers())
        for schedule in schedules if adversarial else schedules[:1]:
            schedule.step()
        losses["gradient_norm"] = norm
        losses["learning_rate"] = torch.tensor(generator.param_groups[0]["lr"])
        self.log("train/loss", losses.pop("loss"), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in losses.items()})

    def _generator_losses(
        self, audio: Tensor, estimate: Tensor, commitment: Tensor, real: list[Judgement], fake: list[Judgement]
    ) -> dict[str, Tensor]:
        """Each loss by its name in `CodecLossWeights`, unweighted, and `loss`, their weighted sum."""
        rate = self.codec.sample_rate_hz
        losses = {
            "reconstruction": multi_scale_mel_loss(estimate, audio, sample_rate_hz=rate, windows=self.mel_windows),
            "waveform": (estimate.float() - audio).abs().mean(),
            "commitment": commitment,
        }
        if fake:
            losses["adversarial"] = hinge_generator_loss(_scores(fake))
            losses["feature"] = feature_matching_loss([j.features for j in real], [j.features for j in fake])
        losses["loss"] = torch.stack([getattr(self.weights, name) * value for name, value in losses.items()]).sum()
        return losses

    def _descend(self, loss: Tensor, optimizer: LightningOptimizer) -> Tensor | None:
        """Put the clipped gradient of `loss` into the optimizer's parameters: its norm, or None if it is not finite.

        All ranks decide alike: the loss is agreed on before the collective backward pass, the gradients are equal
        after.
        """
        finite = loss.detach().isfinite().float()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        if not finite:
            return None
        if self.trainer.world_size > 1:  # DDP waits for every parameter in each of the two backward passes
            loss = loss + 0.0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        optimizer.zero_grad()
        self.manual_backward(loss)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.gradient_clip)
        return norm if norm.isfinite() else None

    def _skip(self) -> None:
        self.skipped_steps += 1
        self.log("train/skipped_steps", self.skipped_steps.float())
        if self.skipped_steps > self.skip_limit:
            raise RuntimeError(
                f"{int(self.skipped_steps)} training steps had a loss or gradient that was not finite (limit "
                f"{self.skip_limit}). Most often the learning rate is too high ({self.learning_rate}, discriminators "
                f"{self.discriminator_learning_rate}): lower it, lengthen warmup_steps ({self.warmup_steps}), or train "
                "with precision 32. If it happened in the first steps, look for damaged recordings."
            )

    def validation_step(self, batch: WaveformBatch, batch_idx: int) -> None:
        """Measure reconstructions through all levels, as `encode` and `decode` give them, and the training losses."""
        audio, output = batch.audio, self.model(batch.audio)
        estimate = output.audio.float()
        real: list[Judgement] = []
        fake: list[Judgement] = []
        if self.trainer.global_step >= self.discriminator_start:
            real, fake = self.discriminators(audio), self.discriminators(estimate)
        losses = self._generator_losses(audio, estimate, output.quantized.commitment, real, fake)
        losses["weighted"] = losses.pop("loss")
        if fake:
            losses["discriminator"] = hinge_discriminator_loss(_scores(real), _scores(fake))
        if self.model.quantizer.ready:
            levels = output.quantized.codes.transpose(0, 1).flatten(1)
            self.usage.scatter_add_(1, levels, torch.ones_like(levels))
        else:  # until there are codebooks nothing is coded: score silence, not the unquantised shortcut
            estimate = torch.zeros_like(audio)
        losses["loss"] = mel_distance(estimate, audio, sample_rate_hz=self.codec.sample_rate_hz).mean()
        losses["si_sdr_db"] = si_sdr(estimate, audio).mean()
        self.log("validation/loss", losses.pop("loss"), prog_bar=True, sync_dist=True, batch_size=len(audio))
        self.log_dict(
            {f"validation/{name}": value for name, value in losses.items()}, sync_dist=True, batch_size=len(audio)
        )

    def on_validation_epoch_end(self) -> None:
        """Log how many entries of each level are in effective use: in validation, and in training since the last."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.usage)
        for level, entries in enumerate(perplexity(self.usage), start=1):
            self.log(f"validation/perplexity_level_{level}", entries)
        for level, entries in enumerate(self.model.quantizer.perplexity(), start=1):
            self.log(f"train/perplexity_level_{level}", entries)
        self.usage.zero_()
        if not self.trainer.sanity_checking:
            self.model.quantizer.reset_usage()


def _scores(judgements: list[Judgement]) -> list[Tensor]:
    return [judgement.scores for judgement in judgements]
