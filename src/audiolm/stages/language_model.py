"""The language model stages: semantic, coarse, fine, and acoustic (the baseline without units). One class, four layouts."""

from dataclasses import asdict
from typing import Any, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from audiolm.files import read_json, write_json
from audiolm.lm.attention import AttentionKind
from audiolm.lm.losses import next_token_loss
from audiolm.lm.schedule import warmup_cosine
from audiolm.lm.transformer import Transformer, TransformerConfig
from audiolm.stages.baselines import measure_baselines
from audiolm.stages.finite_steps import FiniteSteps
from audiolm.stages.gradients import clip_by_norm
from audiolm.stages.sharded import shard
from audiolm.stages.tensor_parallel import split_layers
from audiolm.tokens.layout import Stage, StageLayout, TokenBatch
from audiolm.tokens.store import TokenStore
from audiolm.tokens.windows import Windows
from datamodules.sharing import data_parallel


class LanguageModelStage(FiniteSteps):
    """A decoder-only Transformer over the tokens of one stage.

    Losses are nats per token over the ids that are legal at a position. When training starts, unigram and bigram
    cross-entropies on the same validation tokens are computed (`<root>/<stage>/baselines.json`), so that a loss means
    something.

    Args:
        stage: semantic, coarse, fine or acoustic.
        transformer: sizes of the model.
        learning_rate: peak learning rate; reached after `warmup_steps`, then a cosine down to a tenth of it.
        weight_decay: of AdamW, on matrices only.
        baseline_tokens: training tokens counted for the n-gram baselines at most.
        attention: how attention is computed: auto, reference, blockwise (CPU) or flex (CUDA); see `causal_attention`.
        activation_checkpointing: keep less for the backward pass and compute it again: less memory, more time.
        compile: let torch.compile make the code of the blocks; the first steps wait for it.
        skip_limit: steps whose loss or gradient is not finite are skipped, so many at most.
        root: the folder of the chain; the token store is `<root>/tokens`.

    Attention, activation checkpointing and compiling change how a step is computed and not what it is: a run goes on when
    they are switched.

    Raises:
        FileNotFoundError: if the token store is not there, naming the command that makes it.
        ValueError: if flex attention is to learn on a CPU, where it has no gradients.

    Source: AudioLM, sections III-C and IV-C. The paper does not state optimizer and schedule: AdamW, warm-up and cosine are
    the field's habit.
    """

    shards = True
    model: Transformer

    def __init__(
        self,
        *,
        stage: Stage,
        transformer: TransformerConfig,
        learning_rate: float = 3e-4,
        warmup_steps: int = 1000,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.98),
        baseline_tokens: int = 20_000_000,
        attention: AttentionKind = "auto",
        activation_checkpointing: bool = False,
        compile: bool = False,
        skip_limit: int = 20,
        root: str = "checkpoints",
    ) -> None:
        super().__init__(skip_limit=skip_limit, root=root)
        store = TokenStore(self.root / "tokens")
        self.layout = StageLayout(store.spec, stage)
        self.store_digest = store.digest
        self.model = Transformer(
            transformer,
            self.layout.vocabulary,
            attention=attention,
            activation_checkpointing=activation_checkpointing,
        )
        if compile:
            self.model.compile_blocks()
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.weight_decay, self.betas = weight_decay, betas
        self.baseline_tokens = baseline_tokens
        self.validation_nats = MeanMetric()
        self.validation_phases = torch.nn.ModuleList(MeanMetric() for _ in range(self.layout.phases))
        self._window_seconds: float | None = None
        self._units_per_second: float | None = None
        self._step_nats = torch.zeros(())
        self._positions_read = torch.zeros(2, dtype=torch.int64)  # padding, and all

    @property
    def name(self) -> str:
        """The stage's name and that of its folder."""
        return self.layout.stage

    def config_dict(self) -> dict[str, Any]:
        """See `StageModule.config_dict`. Also what decoding must know: the window, and how fast units come."""
        return {
            "spec": self.layout.spec.as_dict(),
            "transformer": asdict(self.model.config),
            "window_seconds": self._window_seconds,
            "units_per_second": self._units_per_second,
        }

    def sources(self) -> dict[str, str]:
        """The token store."""
        return {"tokens": self.store_digest}

    def setup(self, stage: str) -> None:
        """Learn the window from the data module, and count the baselines once."""
        if self.model.attention == "flex" and self.trainer.strategy.root_device.type == "cpu":
            raise ValueError(
                "attention: flex has no gradients on a CPU. Set attention: auto, which takes blockwise attention there."
            )
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._window_seconds = data.window_seconds
        if self.global_rank == 0:
            self._ensure_baselines()
        self.trainer.strategy.barrier()
        baselines = read_json(self.folder / "baselines.json", made_by=f"The {self.name} stage")
        self._units_per_second = baselines["units_per_second"]
        self.print(
            f"{self.name}: validation cross-entropy of a unigram {baselines['unigram']:.3f}, of a bigram "
            f"{baselines['bigram']:.3f} nats per token; the model must get below the latter."
        )

    def _ensure_baselines(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        limit = self.trainer.limit_val_batches
        measured_on = str(limit // data.micro_batches if isinstance(limit, int) else limit)
        described = {"tokens": self.store_digest, "window_seconds": data.window_seconds, "validation": measured_on}
        path = self.folder / "baselines.json"
        if path.exists() and read_json(path, made_by=f"The {self.name} stage").get("of") == described:
            return
        batches = (validation := data.validation_dataset()).batches
        if limit is not None:
            pieces = data.micro_batches
            batches = min(batches, limit // pieces) if isinstance(limit, int) else round(batches * limit)
        measured = measure_baselines(
            self.layout,
            Windows(data.store, split="train", seconds=data.window_seconds),
            (validation.sequences(number) for number in range(batches)),
            most_tokens=self.baseline_tokens,
        )
        write_json(path, {"of": described, **measured})

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """One batch of a step: mean nats over the counted tokens of the whole step."""
        loss = next_token_loss(self.model, self.layout, batch)
        # gradients are averaged over processes and accumulated batches: together they are those of the step's mean
        mean = loss.nats.sum() * (
            data_parallel(self.trainer)[1] * self.trainer.accumulate_grad_batches / batch.step_targets
        )
        self._log_mean_of_step(mean.detach(), batch_idx)
        self.log("train/padding", self._padding_so_far(batch))
        self.log("train/learning_rate", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return mean

    def _log_mean_of_step(self, part: Tensor, batch_idx: int) -> None:
        """Log the mean over all tokens of the step, of which `part` is this process's and this batch's contribution."""
        pieces = self.trainer.accumulate_grad_batches
        self._step_nats = part if batch_idx % pieces == 0 else self._step_nats + part
        if (batch_idx + 1) % pieces == 0:
            self.log("train/loss", self._step_nats / pieces, prog_bar=True, sync_dist=True)

    def _padding_so_far(self, batch: TokenBatch) -> Tensor:
        """Share of padding in all positions that this process has read since it started, without waiting for a GPU."""
        read = torch.stack([batch.padded, torch.full_like(batch.padded, batch.inputs.numel())])
        self._positions_read = self._positions_read.to(read.device) + read
        return self._positions_read[0] / self._positions_read[1]

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        """Sum nats over all validation tokens, per phase too (a phase is a level in the acoustic stages)."""
        loss = next_token_loss(self.model, self.layout, batch)
        if loss.counted.sum():
            self.validation_nats.update(loss.nats.sum() / loss.counted.sum(), weight=loss.counted.sum())
        for metric, nats, counted in zip(self._phase_metrics, loss.nats, loss.counted, strict=True):
            if counted:
                metric.update(nats / counted, weight=counted)

    def on_validation_epoch_end(self) -> None:
        """Log nats per token and perplexity, over all processes."""
        nats = self.validation_nats.compute()
        self.log("validation/loss", nats, prog_bar=True)  # reduced over processes by the metric itself
        self.log("validation/perplexity", nats.exp())
        self.validation_nats.reset()
        for phase, metric in enumerate(self._phase_metrics):
            if self.layout.phases > 1:
                level = phase + 1 + (self.layout.spec.coarse_levels if self.layout.stage == "fine" else 0)
                self.log(f"validation/loss_level_{level}", metric.compute())
            metric.reset()

    @property
    def _phase_metrics(self) -> list[MeanMetric]:
        return cast(list[MeanMetric], list(self.validation_phases))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on all weights, decay on matrices only, with warm-up and cosine."""
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=self.learning_rate,
            betas=self.betas,
            fused=self.trainer.precision != "16-mixed",  # the loss scaler and fused steps exclude clipping by norm
        )
        total = int(self.trainer.estimated_stepping_batches)
        factor = warmup_cosine(warmup_steps=self.warmup_steps, total_steps=total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm and log it; Lightning's own clipping refuses fused optimizers even where no scaler is at work.

        A step whose gradient is not finite is skipped (with 16-mixed the loss scaler skips it).
        """
        if self.trainer.precision == "16-mixed":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        norm = clip_by_norm(self.parameters(), gradient_clip_val or float("inf"))
        self.log("train/gradient_norm", norm)
        self.skip_unless_finite(
            norm,
            optimizer,
            remedy=f"Most often the learning rate is too high ({self.learning_rate:g}): lower it, lengthen warmup_steps "
            f"({self.warmup_steps}), or clip the gradient (trainer.gradient_clip_val: 1); a changed configuration starts the "
            "stage afresh.",
        )

    def divide(self, mesh: DeviceMesh) -> None:
        """See `StageModule.divide`. Block by block; embedding, norm and head stay gathered during a step."""
        if mesh["tensor_parallel"].size() > 1:
            split_layers(self.model, mesh["tensor_parallel"])
        shard(self.model, self.model.blocks, mesh["data_parallel"], precision=str(self.trainer.precision))
        register_fsdp_forward_method(self.model, "hidden")
