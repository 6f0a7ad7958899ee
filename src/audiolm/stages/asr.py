"""The asr stage: a small recogniser of English letters, on transcribed speech. For `audiolm evaluate asr` alone."""

from typing import Any

import jiwer
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from audiolm.checkpoint import weights_digest
from audiolm.lm.schedule import warmup_cosine
from audiolm.processes import Draws, Processes
from audiolm.recognition.alphabet import decode
from audiolm.recognition.network import CtcNetwork, HeadConfig, letter_losses
from audiolm.semantic.augmentation import Augmentation, augmented
from audiolm.semantic.encoders import EncoderConfig, make_encoder
from audiolm.stages.finite_steps import FiniteSteps
from audiolm.stages.gradients import clip_by_norm


class RecogniserStage(FiniteSteps):
    """Trains a `CtcNetwork` on an encoder's features: the only stage that needs transcripts, and none needs it.

    Args:
        encoder: what makes the features; by default the chain's.
        head: sizes of what stands on it.
        fine_tune: let the encoder learn too; only one of the encoder stage can.
        augmentation: how the spectra are changed in training, where the encoder is one of the encoder stage.
        learning_rate: peak; reached after `warmup_steps`, then a cosine down to a twentieth.
        encoder_rate: the encoder's learning rate, as a share of `learning_rate`.
        weight_decay: of AdamW, on matrices only.
        gradient_clip: largest norm of the gradient.
        skip_limit: steps whose loss or gradient is not finite are skipped, so many at most.

    Source: AudioLM, Table II scores acoustic generations with a recogniser, a Conformer Transducer-L trained elsewhere. This
    one lets the command work without downloads; give a public one for figures that compare.
    """

    stage = "asr"
    model: CtcNetwork

    def __init__(
        self,
        *,
        encoder: EncoderConfig = EncoderConfig(),  # noqa: B008 - frozen
        head: HeadConfig = HeadConfig(),  # noqa: B008
        fine_tune: bool = True,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        learning_rate: float = 5e-4,
        encoder_rate: float = 1.0,
        warmup_steps: int = 2000,
        weight_decay: float = 0.01,
        gradient_clip: float = 1.0,
        skip_limit: int = 20,
        root: str = "checkpoints",
    ) -> None:
        super().__init__(skip_limit=skip_limit, root=root)
        if min(learning_rate, encoder_rate, warmup_steps) < 0 or gradient_clip <= 0:
            raise ValueError(
                "learning_rate, encoder_rate and warmup_steps must be at least 0 and gradient_clip above 0, got "
                f"{learning_rate}, {encoder_rate}, {warmup_steps} and {gradient_clip}"
            )
        made = make_encoder(encoder, root=self.root)
        self._sources = {"encoder": weights_digest(made.config_dict(), made.state_dict())}
        self.model = CtcNetwork(made, head)
        if fine_tune:
            self.model.fine_tune()
        self.model.train()  # the trainer starts in the mode that it finds
        self.augmentation = augmentation
        self.learning_rate, self.encoder_rate, self.warmup_steps = learning_rate, encoder_rate, warmup_steps
        self.weight_decay, self.gradient_clip = weight_decay, gradient_clip

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio this stage wants."""
        return self.model.sample_rate_hz

    def config_dict(self) -> dict[str, Any]:
        """See `StageModule.config_dict`."""
        return self.model.config_dict()

    def sources(self) -> dict[str, str]:
        """The encoder, weights and layer."""
        return self._sources

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, warm-up, cosine."""
        if self.trainer.precision == "16-mixed":
            raise ValueError("precision 16-mixed scales gradients before they are clipped here: use bf16-mixed")
        groups = []
        for name, rate in (("encoder.", self.encoder_rate * self.learning_rate), ("", self.learning_rate)):
            for matrices, decay in ((True, self.weight_decay), (False, 0.0)):
                chosen = [
                    parameter
                    for key, parameter in self.model.named_parameters()
                    if parameter.requires_grad
                    and (parameter.ndim > 1) == matrices
                    and key.startswith("encoder.") == bool(name)
                ]
                if chosen:
                    groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
        optimizer = AdamW(groups, betas=(0.9, 0.98), fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        factor = warmup_cosine(warmup_steps=self.warmup_steps, total_steps=steps, floor=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The mean over utterances of nats per letter."""
        examples = self.examples(batch_idx, rows=len(batch.audio))
        draws = Draws(self.run_seed, self.trainer.global_step, examples=examples, device=self.device)
        processes = Processes.current()

        def change(raw: Tensor) -> Tensor:
            return augmented(raw, self.augmentation, draws=draws, processes=processes)

        scores, frames = self.model(batch.audio, batch.samples, change=change if self.augmentation.changes else None)
        loss = letter_losses(scores, frames, batch.targets, batch.letters).mean()
        self.log("train/loss", processes.mean_of_each({"loss": loss})["loss"], prog_bar=True)
        self.log("train/learning_rate", self.optimizers().param_groups[-1]["lr"])  # type: ignore[union-attr]
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip. Skip a step whose gradient is not finite, count it, and stop past the limit: all ranks see the same one."""
        norm = clip_by_norm(self.parameters(), self.gradient_clip)
        self.log("train/gradient_norm", norm)
        self.skip_unless_finite(
            norm,
            optimizer,
            remedy=f"Most often the learning rate is too high ({self.learning_rate:g}): lower it, or lengthen warmup_steps "
            f"({self.warmup_steps}); a changed configuration starts the stage afresh.",
        )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The same loss, and the character error rate of greedy decoding (spaces count), pooled."""
        processes = Processes.current()
        counted = float(batch.counts)
        scores, frames = self.model(batch.audio, batch.samples)
        losses = letter_losses(scores, frames, batch.targets, batch.letters)
        edits = letter_edits(scores, frames, batch.targets, batch.letters)
        rows, letters = counted * len(losses), counted * float(batch.letters.sum())
        for name, total, number in (("loss", losses.sum(), rows), ("cer", losses.new_tensor(float(edits)), letters)):
            number_of_all = int(processes.sum(torch.tensor(number, device=self.device)))
            mean = processes.part_of_mean(counted * total, torch.tensor(number, device=self.device))
            self.log(f"validation/{name}", mean, sync_dist=True, batch_size=max(1, number_of_all))


def letter_edits(scores: Tensor, frames: Tensor, targets: Tensor, letters: Tensor) -> int:
    """Substitutions, deletions and insertions that greedy decoding needs, over all rows; arguments as `letter_losses`."""
    paths = zip(scores.argmax(-1).tolist(), frames.tolist(), strict=True)
    heard = [decode(path[:count]) for path, count in paths]
    said = [_text(row[:count]) for row, count in zip(targets.tolist(), letters.tolist(), strict=True)]
    result = jiwer.process_characters(said, heard)
    return int(result.substitutions + result.deletions + result.insertions)


def _text(ids: list[int]) -> str:
    return "".join(decode([number]) or " " for number in ids)
