"""What every stage that trains a decoder of audio has in common: discriminators, balanced losses, averaged weights."""

import abc
import copy
import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from audiolm.codec.averaging import update_average
from audiolm.codec.balancer import LossBalancer
from audiolm.codec.discriminators import DiscriminatorConfig, Discriminators, Judgement
from audiolm.codec.health import TrainingHealth
from audiolm.codec.losses import (
    MEL_WINDOWS,
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    multi_scale_mel_loss,
)
from audiolm.errors import TrainingFailedError
from audiolm.evaluation.reconstruction import mel_distance, si_sdr
from audiolm.lm.schedule import warmup_cosine
from audiolm.processes import Processes
from audiolm.stages.base import StageModule
from audiolm.stages.listening import ListeningLog
from datamodules.waveforms import WaveformBatch

HEALTH_STEPS = 10  # steps between two looks at the loss


@dataclass(frozen=True)
class CodecLossShares:
    """How hard each loss pulls on the reconstructed audio, relative to the others (see `LossBalancer`).

    Waveform, the mean absolute difference, is ours: mel spectrograms are blind to phase, and on them alone a fresh codec
    was still at -44 dB SI-SDR after 500 steps, with it at -3 dB. SoundStream's own weights (1 for the adversarial and
    reconstruction losses, 100 for feature matching) are of losses whose scale depends on sums over time and bins.

    Adversarial and feature matching are gentle on purpose: in an hour on two cores, five times as much of both cost 0.24
    ViSQOL and made the mel distance a sixth worse, and these shares cost nothing (docs/results.md). Raise them for long runs.

    Commitment bypasses the audio: it is a plain weight, beside a total pull of 1 per example on the audio.
    """

    reconstruction: float = 1.0
    waveform: float = 0.3
    adversarial: float = 0.1
    feature: float = 0.2
    commitment: float = 0.01


class AdversarialStage(StageModule):
    """Trains `self.live` to reconstruct waveforms (batch, samples); `self.model` is the average of its weights.

    Several processes give the losses and weights that one gives on the same global batch, but for rounding.

    `trainer.max_steps` counts generator steps. A step whose loss or gradient is not finite is skipped and counted; a loss that
    explodes, or that stays no better than silence's, stops the run and says what helps.

    Args:
        network: what is trained: audio in, its reconstruction out (`reconstruct`).
        sample_rate_hz: of the audio.
        codebooks: levels whose use is watched; 0: none.
        discriminators: sizes of the discriminators.
        shares: of the generator's losses.
        learning_rate: of the network; after warm-up it falls to zero at `max_steps` along a cosine.
        discriminator_learning_rate: of the discriminators, on the same schedule, warmed up from their own start.
        warmup_steps: steps of linear growth of a learning rate.
        discriminator_start: generator steps on reconstruction alone, before there is anything worth discriminating.
        gradient_clip: largest norm of the gradient, of the network and of the discriminators each.
        average_decay: of the weights' running average; 0.999 averages over about a thousand steps.
        mel_windows: window lengths of the reconstruction loss, in samples; fewer are faster.
        skip_limit: skipped steps before the run stops.
        root: the folder of the chain.

    Source: SoundStream, section III; balanced as in EnCodec. Optimizer, schedule, clipping and averaging are not stated there.
    """

    draws_alike = True
    model: nn.Module
    live: nn.Module
    skipped_steps: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        sample_rate_hz: int,
        codebooks: int,
        discriminators: DiscriminatorConfig,
        shares: CodecLossShares,
        learning_rate: float,
        discriminator_learning_rate: float,
        warmup_steps: int,
        discriminator_start: int,
        gradient_clip: float,
        average_decay: float,
        mel_windows: tuple[int, ...],
        skip_limit: int,
        root: str,
    ) -> None:
        super().__init__(root=root)
        if min(learning_rate, discriminator_learning_rate) < 0 or gradient_clip <= 0:
            raise ValueError(
                "learning_rate and discriminator_learning_rate must be at least 0 and gradient_clip above 0, got "
                f"{learning_rate}, {discriminator_learning_rate} and {gradient_clip}"
            )
        if not 0 <= average_decay < 1:
            raise ValueError(f"average_decay must be at least 0 and below 1, got {average_decay}")
        if min(warmup_steps, discriminator_start, skip_limit) < 0:
            raise ValueError(
                "warmup_steps, discriminator_start and skip_limit must be at least 0, got "
                f"{warmup_steps}, {discriminator_start} and {skip_limit}"
            )
        if any(window < 32 for window in mel_windows):
            raise ValueError(
                f"mel_windows are window lengths of at least 32 samples, such as 64 to 2048; got {mel_windows}"
            )
        self.automatic_optimization = False
        self.rate_hz, self.shares, self.mel_windows = sample_rate_hz, shares, tuple(mel_windows) or MEL_WINDOWS
        self.learning_rate, self.discriminator_learning_rate = learning_rate, discriminator_learning_rate
        self.warmup_steps, self.discriminator_start = warmup_steps, discriminator_start
        self.gradient_clip, self.average_decay, self.skip_limit = gradient_clip, average_decay, skip_limit
        self.live = network
        self.model = copy.deepcopy(network).requires_grad_(False)
        self.discriminators = Discriminators(discriminators)
        self.balancer = LossBalancer({k: v for k, v in asdict(shares).items() if k != "commitment"})
        self.health = TrainingHealth(levels=codebooks)
        self.register_buffer("skipped_steps", torch.tensor(0))

    @abc.abstractmethod
    def reconstruct(self, network: Any, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Through `self.live` or `self.model`: audio as long as the input, with gradients, and the commitment loss."""

    @abc.abstractmethod
    def listen(self, audio: Tensor) -> Tensor:
        """The reconstruction (batch, samples) float32 that a user of the finished stage would hear, of any length."""

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio this stage wants."""
        return self.rate_hz

    def configure_callbacks(self) -> list[L.Callback]:
        """Reconstructions to listen to and to look at, at every validation."""
        return [ListeningLog()]

    def configure_optimizers(self) -> tuple[list[AdamW], list[LambdaLR]]:
        if self.trainer.precision == "16-mixed":
            raise ValueError(
                "precision 16-mixed scales losses, which the two optimizers here do not undo: use bf16-mixed"
            )
        if math.isinf(self.trainer.estimated_stepping_batches):
            raise ValueError("the learning rate falls towards the last step: say which one that is, trainer.max_steps")
        steps = int(self.trainer.estimated_stepping_batches)
        rates = ((self.live, self.learning_rate, 0), (self.discriminators, self.discriminator_learning_rate, 1))
        optimizers, schedules = [], []
        for module, rate, adversary in rates:
            start = min(adversary * self.discriminator_start, steps - 1)
            factor = warmup_cosine(warmup_steps=self.warmup_steps, total_steps=steps - start, floor=0.0)
            trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
            optimizers.append(AdamW(trained, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True))
            schedules.append(LambdaLR(optimizers[-1], factor))
        return optimizers, schedules

    def training_step(self, batch: WaveformBatch, batch_idx: int) -> None:
        """One step of the network, then one of the discriminators, which judge each audio once for both."""
        audio, adversarial = batch.audio, self.trainer.global_step >= self.discriminator_start
        generator, adversary = cast(list[LightningOptimizer], self.optimizers())
        reconstructed, commitment = self.reconstruct(self.live, audio)
        estimate = reconstructed.detach().float().requires_grad_()
        real = self.discriminators(audio) if adversarial else []
        fake = self.discriminators(estimate) if adversarial else []
        losses = self._losses(audio, estimate, real, fake)
        pull = self.balancer(losses, estimate)  # the gradient that the audio gets; the discriminators get none of it
        loss = (reconstructed.float() * pull).sum() + self.shares.commitment * commitment
        norm = self._descend(loss, generator)
        if norm is None:
            return self._skip()
        generator.step()  # this one advances the trainer's global step
        update_average(self.model, self.live, decay=self.average_decay, step=self.trainer.global_step)
        if adversarial:
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
        losses = Processes.current().mean_of_each(losses | {"commitment": commitment, "gradient_norm": norm})
        losses["learning_rate"] = torch.tensor(generator.param_groups[0]["lr"])
        self._watch(audio, losses["reconstruction"])
        self.log("train/loss", losses["reconstruction"], prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in losses.items()})

    def _losses(
        self, audio: Tensor, estimate: Tensor, real: list[Judgement], fake: list[Judgement]
    ) -> dict[str, Tensor]:
        """Each loss of the reconstruction by its name in `CodecLossShares`, unweighted."""
        losses = {
            "reconstruction": self._mel_loss(estimate, audio),
            "waveform": (estimate - audio).abs().mean(),
        }
        if fake:
            losses["adversarial"] = hinge_generator_loss(_scores(fake))
            losses["feature"] = feature_matching_loss([j.features for j in real], [j.features for j in fake])
        return losses

    def _mel_loss(self, estimate: Tensor, audio: Tensor) -> Tensor:
        return multi_scale_mel_loss(estimate, audio, sample_rate_hz=self.rate_hz, windows=self.mel_windows)

    def _descend(self, loss: Tensor, optimizer: LightningOptimizer) -> Tensor | None:
        """Put the clipped gradient of `loss` into the optimizer's parameters: its norm, or None if it is not finite.

        All ranks decide alike: the loss is agreed on before the collective backward pass, the gradients are equal after.
        """
        finite = loss.detach().isfinite().float()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        if not finite:
            return None
        if Processes.current().count > 1:  # DDP waits for every parameter in each of the two backward passes
            trained = [parameter.sum() for parameter in self.parameters() if parameter.requires_grad]
            loss = loss + 0.0 * torch.stack(trained).sum()
        optimizer.zero_grad()
        self.manual_backward(loss)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.gradient_clip)
        return norm if norm.isfinite() else None

    def _skip(self) -> None:
        self.skipped_steps += 1
        self.log("train/skipped_steps", self.skipped_steps.float())
        if self.skipped_steps > self.skip_limit:
            raise TrainingFailedError(
                f"{int(self.skipped_steps)} training steps had a loss or gradient that was not finite (limit "
                f"{self.skip_limit}). {self._remedy()} If it happened in the first steps, look for damaged recordings."
            )

    def _watch(self, audio: Tensor, reconstruction: Tensor) -> None:
        """Stop a run whose loss, of all processes, explodes or that learns nothing."""
        if self.trainer.global_step % HEALTH_STEPS:
            return
        with torch.no_grad():
            silence = self._mel_loss(torch.zeros_like(audio), audio)
        silence = Processes.current().mean_of_each({"silence": silence})["silence"]
        trouble = self.health.observe_loss(float(reconstruction), float(silence))
        if trouble:
            raise TrainingFailedError(trouble if self.health.hears_silence else f"{trouble} {self._remedy()}")

    def _remedy(self) -> str:
        return (
            f"Most often the learning rate is too high ({self.learning_rate:g}, discriminators "
            f"{self.discriminator_learning_rate:g}; 3e-4 is a safe start): lower it, lengthen warmup_steps "
            f"({self.warmup_steps}), or start the discriminators later (discriminator_start, {self.discriminator_start}). "
            "A changed configuration starts the stage afresh."
        )

    def validation_step(self, batch: WaveformBatch, batch_idx: int) -> None:
        """Measure reconstructions by the averaged weights, and the training losses."""
        audio = batch.audio
        reconstructed, commitment = self.reconstruct(self.model, audio)
        estimate = reconstructed.float()
        real: list[Judgement] = []
        fake: list[Judgement] = []
        if self.trainer.global_step >= self.discriminator_start:
            real, fake = self.discriminators(audio), self.discriminators(estimate)
        losses = self._losses(audio, estimate, real, fake) | {"commitment": commitment}
        if fake:
            losses["discriminator"] = hinge_discriminator_loss(_scores(real), _scores(fake))
        losses["loss"] = mel_distance(estimate, audio, sample_rate_hz=self.rate_hz).mean()
        losses["si_sdr_db"] = si_sdr(estimate, audio).mean()
        values = {f"validation/{name}": value for name, value in losses.items()}
        weight = (
            batch.weight * Processes.current().count
        )  # Lightning divides their sum by the processes, in whole numbers
        self.log("validation/loss", values.pop("validation/loss"), prog_bar=True, sync_dist=True, batch_size=weight)
        self.log_dict(values, sync_dist=True, batch_size=weight)


def _scores(judgements: list[Judgement]) -> list[Tensor]:
    return [judgement.scores for judgement in judgements]
