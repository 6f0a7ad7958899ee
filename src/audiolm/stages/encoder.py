"""The encoder stage: self-supervised pretraining of a Conformer on raw audio."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.files import set_aside
from audiolm.lm.schedule import warmup_cosine
from audiolm.processes import ALONE, Draws, Processes
from audiolm.semantic.augmentation import Augmentation, augmented
from audiolm.semantic.conformer import SUBSAMPLING, ConformerConfig, ConformerEncoder
from audiolm.semantic.gathering import cpu_group, gather_frames
from audiolm.semantic.kmeans import fit_kmeans
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.semantic.moments import FeatureMoments
from audiolm.semantic.objectives import (
    BestRqConfig,
    BestRqObjective,
    Hearing,
    HubertConfig,
    HubertObjective,
    Objective,
    Pretraining,
    W2vBertConfig,
    W2vBertObjective,
)
from audiolm.semantic.reservoir import FeatureReservoir, capacity_of_each
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.stages.finite_steps import FiniteSteps
from audiolm.stages.gradients import clip_by_norm
from audiolm.stages.sharded import shard

STATISTICS_BATCHES = 100  # of training crops that the spectra's mean and deviation are taken from
UNIT_FRAMES = 1_000_000  # that HuBERT's first units are fitted on at most
JUDGED_TARGETS = 10  # per code: perplexity of fewer says more about the sample than about the codes
FEW_CODES = 0.05  # of the codebook in effective use: collapsed


class EncoderStage(FiniteSteps):
    """Trains a `ConformerEncoder` to tell, behind a mask, what was said.

    Args:
        encoder: its sizes.
        objective: "w2v-bert", the simpler "best-rq", or "hubert", which predicts units of MFCC or of an earlier encoder.
        w2v_bert, best_rq, hubert: settings of the three; the others' are not looked at.
        augmentation: how the audio is changed before the encoder hears it; targets are made of the unchanged audio.
        learning_rate: peak; reached after `warmup_steps`, then a cosine down to a twentieth.
        weight_decay: of AdamW, on matrices only.
        gradient_clip: largest norm of the gradient.
        skip_limit: steps whose loss or gradient is not finite are skipped, so many at most.

    Source: AudioLM, section IV-B (w2v-BERT XL, trained on the same audio); w2v-BERT (arXiv 2108.06209); BEST-RQ
    (arXiv 2202.01855). Augmentation is ours: with hours instead of 60,000 hours of speech, voices are few.
    """

    stage = "encoder"
    shards = True
    model: ConformerEncoder
    usage: Tensor

    def __init__(
        self,
        *,
        encoder: ConformerConfig,
        objective: Literal["w2v-bert", "best-rq", "hubert"] = "w2v-bert",
        w2v_bert: W2vBertConfig = W2vBertConfig(),  # noqa: B008 - frozen
        best_rq: BestRqConfig = BestRqConfig(),  # noqa: B008
        hubert: HubertConfig = HubertConfig(),  # noqa: B008
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        learning_rate: float = 5e-4,
        warmup_steps: int = 10_000,
        weight_decay: float = 0.01,
        gradient_clip: float = 1.0,
        skip_limit: int = 20,
        root: str = "checkpoints",
    ) -> None:
        super().__init__(skip_limit=skip_limit, root=root)
        if learning_rate < 0 or gradient_clip <= 0 or warmup_steps < 0:
            raise ValueError(
                "learning_rate and warmup_steps must be at least 0 and gradient_clip above 0, got "
                f"{learning_rate}, {warmup_steps} and {gradient_clip}"
            )
        self.model = ConformerEncoder(encoder)
        self._sources: dict[str, str] = {}
        self.objective = self._objective(objective, w2v_bert, best_rq, hubert)
        self.augmentation = augmentation
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay
        self.gradient_clip = gradient_clip
        self.register_buffer("usage", torch.zeros(self.objective.codes, dtype=torch.int64))

    def _objective(self, name: str, w2v_bert: W2vBertConfig, best_rq: BestRqConfig, hubert: HubertConfig) -> Objective:
        if name == "w2v-bert":
            return W2vBertObjective(w2v_bert, self.model)
        if name == "best-rq":
            return BestRqObjective(best_rq, self.model)
        if hubert.tokenizer is None:
            mfcc = MfccEncoder(rate_hz=self.model.rate_hz, sample_rate_hz=self.model.sample_rate_hz)
            return HubertObjective(hubert, self.model, SemanticTokenizer(mfcc, clusters=hubert.clusters))
        checkpoint = load_stage_checkpoint(hubert.tokenizer, stage="tokenizer")
        self._sources["tokenizer"] = checkpoint.digest
        return HubertObjective(hubert, self.model, SemanticTokenizer.from_checkpoint(checkpoint))

    def sources(self) -> dict[str, str]:
        """The tokenizer whose units are predicted, if any."""
        return self._sources

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio this stage wants."""
        return self.model.sample_rate_hz

    def config_dict(self) -> dict[str, Any]:
        """What rebuilds the encoder: the objective's own weights are not needed after training."""
        return self.model.config_dict()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, warm-up, cosine."""
        if self.trainer.precision == "16-mixed":
            raise ValueError("precision 16-mixed scales gradients before they are clipped here: use bf16-mixed")
        matrices = [p for p in self.parameters() if p.requires_grad and p.ndim > 1]
        rest = [p for p in self.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        optimizer = AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.98), fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        factor = warmup_cosine(warmup_steps=self.warmup_steps, total_steps=steps, floor=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def divide(self, mesh: DeviceMesh) -> None:
        """See `StageModule.divide`. Block by block; the objective's own weights are one group.

        Raises:
            ValueError: for tensor parallelism, which is there for language models only.
        """
        if mesh["tensor_parallel"].size() > 1:
            raise ValueError("tensor_parallel_size is for the language models: the encoder stage needs 1")
        parts = [*self.model.blocks, self.model.subsampling]
        shard(self.objective, parts, mesh["data_parallel"], precision=str(self.trainer.precision))

    def on_fit_start(self) -> None:
        """Measure mean and deviation of the corpus's spectra, and fit HuBERT's first units, once."""
        if not self.model.spectrogram.measured:
            self._measure_spectra()
        tokenizer = getattr(self.objective, "tokenizer", None)
        if tokenizer is not None and not tokenizer.centroids.any():
            self._fit_units(tokenizer)

    def _first_recordings(self) -> Iterator[tuple[int, Tensor]]:
        """This process's crops (samples,) of the run's first batches, without the silence behind them, and their numbers."""
        batches = self.trainer.datamodule.training_batches()  # type: ignore[attr-defined]
        for number, batch in enumerate(islice(batches, STATISTICS_BATCHES * self.trainer.accumulate_grad_batches)):
            examples = self.examples_of_run(number, rows=len(batch.audio))
            for example, audio, samples in zip(examples, batch.audio, batch.samples.tolist(), strict=True):
                yield example, audio[:samples].to(self.device)

    def _measure_spectra(self) -> None:
        spectrogram = self.model.spectrogram
        sums = torch.zeros(3, spectrogram.bins, dtype=torch.float64)
        for _, audio in self._first_recordings():
            steps = SUBSAMPLING * self.model.frames(len(audio))
            spectra = spectrogram.raw(audio[None], steps=steps)[0].double().cpu()
            sums += torch.stack([torch.full_like(spectra[0], steps), spectra.sum(0), spectra.square().sum(0)])
        sums = Processes.current().sum(sums.to(self.device)).cpu()
        mean, square = sums[1] / sums[0], sums[2] / sums[0]
        spectrogram.set_statistics(mean.float(), (square - mean.square()).clamp(min=0).sqrt().float())

    def _fit_units(self, tokenizer: SemanticTokenizer) -> None:
        """Cluster MFCC of the first recordings of all processes on the first one; the others receive the result."""
        capacity = capacity_of_each(UNIT_FRAMES, streams=self.trainer.world_size)
        reservoir, moments = FeatureReservoir(capacity, seed=self.run_seed), FeatureMoments(tokenizer.encoder.dim)
        for number, audio in self._first_recordings():
            features = tokenizer.encoder(audio[None])[0].cpu()
            moments.add(features)
            reservoir.add(features, example=number)
        gathered = gather_frames(reservoir, moments, heard=True, frames=UNIT_FRAMES, group=cpu_group())
        tokenizer.mean.copy_(gathered.moments.mean)
        tokenizer.deviation.copy_(gathered.moments.deviation.clamp(min=1e-5))
        if gathered.sample is not None:
            normalized = tokenizer.normalize(gathered.sample.to(self.device)).cpu()
            tokenizer.centroids[0] = fit_kmeans(normalized, clusters=tokenizer.clusters).centroids.to(self.device)
            self.print(
                f"encoder: {tokenizer.clusters} units of MFCC to learn from, fitted on {len(normalized):,} frames"
            )
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(tokenizer.centroids, src=0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step of the objective."""
        processes, examples = Processes.current(), self.examples(batch_idx, rows=len(batch.audio))
        draws = Draws(self.run_seed, self.trainer.global_step, examples=examples, device=self.device)
        outcome = self._outcome(batch, draws=draws, augmentation=self.augmentation, processes=processes)
        self.usage += processes.sum(torch.bincount(outcome.ids, minlength=len(self.usage)))
        values = processes.mean_of_each({"loss": outcome.loss, **outcome.parts})
        self.log("train/loss", values.pop("loss"), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in values.items()})
        self.log("train/learning_rate", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return outcome.loss

    def _outcome(
        self, batch: Any, *, draws: Draws, augmentation: Augmentation, processes: Processes = ALONE
    ) -> Pretraining:
        audio, frames = batch.audio, -(-batch.samples // self.model.hop_samples)
        longest = self.model.frames(audio.shape[1])
        inside = (torch.arange(longest, device=audio.device) < frames[:, None]) & batch.counts
        spectrogram = self.model.spectrogram
        raw = spectrogram.raw(audio, steps=SUBSAMPLING * longest)
        clean = spectrogram.normalize(raw)
        heard = clean
        if augmentation.changes:
            heard = spectrogram.normalize(augmented(raw, augmentation, draws=draws, processes=processes))
        hearing = Hearing(audio, batch.samples, clean, heard, inside, draws, processes)
        return self.objective(self.model, hearing, step=self.trainer.global_step)

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

    def on_train_end(self) -> None:
        """A layer that was chosen for earlier weights is not chosen for these."""
        path = self.folder / "selected.json"
        if self.global_rank == 0 and path.exists():
            aside = set_aside(path)
            self.print(
                f"The choice of a layer was made for other weights: moved to {aside}. Run audiolm evaluate layers again."
            )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The objective on unchanged audio, behind the same masks at every validation."""
        processes, number = Processes.current(), batch_idx // self.trainer.accumulate_grad_batches
        draws = Draws(number, examples=self.examples(batch_idx, rows=len(batch.audio)), device=self.device)
        outcome = self._outcome(batch, draws=draws, augmentation=Augmentation(), processes=processes)
        values = {"loss": outcome.loss, **outcome.parts}  # parts of means over all rows: all processes weigh them alike
        rows = int(processes.sum(torch.tensor(batch.weight, device=self.device)))
        self.log_dict({f"validation/{k}": v for k, v in values.items()}, sync_dist=True, batch_size=rows)

    def on_validation_epoch_end(self) -> None:
        """How many of the target codes are in effective use; a collapse is said, with what helps."""
        codes = len(self.usage)
        if self.trainer.sanity_checking or self.usage.sum() < JUDGED_TARGETS * codes:
            return
        shares = self.usage / self.usage.sum()
        perplexity = float((-(shares * shares.clamp(min=1e-12).log()).sum()).exp())
        self.log("train/code_perplexity", perplexity, rank_zero_only=True)
        if perplexity < FEW_CODES * codes:
            rank_zero_warn(
                f"The target codes have collapsed: of {codes} only {perplexity:.1f} are in effective use. What "
                "helps: a larger weight of the diversity loss, a lower learning rate, a slower gumbel_decay, fewer codes; "
                "or objective: best-rq, whose targets are fixed."
            )
        self.usage.zero_()
