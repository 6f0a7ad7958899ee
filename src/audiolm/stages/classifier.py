"""What the two stages share that train a classifier of one second of audio."""

from typing import Any

import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from audiolm.evaluation.audio_classifier import AudioClassifier, ClassifierConfig
from audiolm.evaluation.calibration import HeldOutScores
from audiolm.evaluation.labelled import LabelledClips
from audiolm.files import write_json
from audiolm.lm.schedule import warmup_cosine
from audiolm.processes import Processes
from audiolm.stages.finite_steps import FiniteSteps
from audiolm.stages.gradients import clip_by_norm


class ClassifierStage(FiniteSteps):
    """Trains an `AudioClassifier` on crops of known class, and calibrates it at every validation.

    Which recordings are held out, and which were too short to be heard at all, stands in `<root>/<stage>/split.json`,
    with the digest that checkpoints have in their `sources`: an older checkpoint stands there until the first of this training.

    Args:
        labelled: the recordings.
        sample_rate_hz: what they are resampled to.
        channels: of the network's blocks.
        learning_rate: peak; reached after `warmup_steps`, then a cosine down to a twentieth.
        weight_decay: of AdamW, on matrices only.
        gradient_clip: largest norm of the gradient.
        skip_limit: steps whose loss or gradient is not finite are skipped, so many at most.

    The paper says nothing of how it trains its classifier: all of this is ours.
    """

    takes_pieces = False  # batch normalisation needs the whole step at once
    model: AudioClassifier

    def __init__(
        self,
        labelled: LabelledClips,
        *,
        sample_rate_hz: int,
        channels: tuple[int, ...],
        learning_rate: float,
        warmup_steps: int,
        weight_decay: float,
        gradient_clip: float,
        skip_limit: int,
        root: str,
    ) -> None:
        super().__init__(skip_limit=skip_limit, root=root)
        if learning_rate < 0 or gradient_clip <= 0 or warmup_steps < 0 or weight_decay < 0:
            raise ValueError(
                "learning_rate, warmup_steps and weight_decay must be at least 0 and gradient_clip above 0, got "
                f"{learning_rate}, {warmup_steps}, {weight_decay} and {gradient_clip}"
            )
        self.model = AudioClassifier(ClassifierConfig(labelled.labels, sample_rate_hz, tuple(channels)))
        self.labelled, self.held_out_scores = labelled, HeldOutScores()
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay
        self.gradient_clip = gradient_clip

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio this stage wants."""
        return self.model.sample_rate_hz

    def config_dict(self) -> dict[str, Any]:
        """See `StageModule.config_dict`."""
        return self.model.config_dict()

    def sources(self) -> dict[str, str]:
        """Which recordings, of which class, and which of them are held out."""
        return {"clips": self.labelled.digest}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, warm-up, cosine."""
        if self.trainer.precision == "16-mixed":
            raise ValueError("precision 16-mixed scales gradients before they are clipped here: use bf16-mixed")
        matrices = [p for p in self.parameters() if p.ndim > 1]
        rest = [p for p in self.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        optimizer = AdamW(groups, lr=self.learning_rate, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        factor = warmup_cosine(warmup_steps=self.warmup_steps, total_steps=steps, floor=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def on_fit_start(self) -> None:
        """Write which recordings are held out, and say what there is."""
        known = self.labelled
        if self.global_rank == 0:
            write_json(self.folder / "split.json", known.as_dict())
        trained, held_out = known.part(held_out=False), known.part(held_out=True)
        short = f", {len(known.too_short)} shorter than a second left out" if known.too_short else ""
        self.print(
            f"{self.name}: {len(known.labels)} classes, {len(trained.clips)} recordings ({trained.seconds / 60:.1f} min) to "
            f"train on, {len(held_out.clips)} ({held_out.seconds / 60:.1f} min) held out{short}"
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy of a batch of crops."""
        scores = self.model.uncalibrated(batch.audio)
        loss = F.cross_entropy(scores, batch.classes)
        accuracy = (scores.argmax(-1) == batch.classes).float().mean()
        values = Processes.current().mean_of_each({"loss": loss, "accuracy": accuracy})
        self.log("train/loss", values["loss"], prog_bar=True)
        self.log("train/accuracy", values["accuracy"])
        self.log("train/learning_rate", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip; skip a step whose gradient is not finite."""
        norm = clip_by_norm(self.parameters(), self.gradient_clip)
        self.log("train/gradient_norm", norm)
        self.skip_unless_finite(
            norm, optimizer, remedy=f"Lower the learning rate ({self.learning_rate:g}): the stage then starts afresh."
        )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Score held-out crops."""
        self.held_out_scores.update(self.model.uncalibrated(batch.audio), batch.classes, batch.weights)

    def on_validation_epoch_end(self) -> None:
        """Calibrate, before a checkpoint is written; every class counts alike, however much of it is held out."""
        values = self.held_out_scores.compute()
        self.held_out_scores.reset()
        self.model.temperature.copy_(values["temperature"])
        self.log_dict({f"validation/{name}": value for name, value in values.items()}, rank_zero_only=False)
