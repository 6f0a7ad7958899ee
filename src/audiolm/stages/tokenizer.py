"""The tokenizer stages: normalisation and k-means over an encoder's features; and again on what is left."""

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from audiolm.audio import is_silent
from audiolm.checkpoint import load_stage_checkpoint
from audiolm.semantic.centroids import Centroids, read_centroids
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.encoders import EncoderConfig, make_encoder
from audiolm.semantic.gathering import cpu_group, gather_frames
from audiolm.semantic.kmeans import fit_kmeans
from audiolm.semantic.moments import FeatureMoments, usable_deviation
from audiolm.semantic.reservoir import FeatureReservoir, capacity_of_each
from audiolm.semantic.tokenizer import CHUNK_FRAMES, SemanticTokenizer
from audiolm.semantic.unit_use import UnitUse, unit_use
from audiolm.stages.base import StageModule

SECONDS_BETWEEN_LINES = 10.0  # of k-means' progress


class ClusteringStage(StageModule):
    """Fits a `SemanticTokenizer`: collects features of random crops, then normalises and clusters them.

    One epoch without gradients: `trainer.max_epochs: 1`. Every process collects its share: mean and deviation are those of
    all frames, k-means works on a uniform sample of them, the same one however many processes there are. The first process
    clusters and the others receive the result. A
    validation, if there is one, comes after that, and measures how well the centroids serve speakers not fitted on.

    Args:
        encoder: what makes the features.
        given: centroids to take instead of clustering.

    The other arguments are `TokenizerStage`'s.
    """

    model: SemanticTokenizer

    def __init__(
        self,
        encoder: Encoder,
        *,
        clusters: int,
        levels: int,
        max_frames: int,
        iterations: int,
        restarts: int,
        root: str,
        given: Centroids | None = None,
    ) -> None:
        super().__init__(root=root)
        if max_frames < clusters or iterations < 1 or restarts < 1:
            raise ValueError(
                f"max_frames ({max_frames}) must be at least `clusters` ({clusters}), iterations ({iterations}) and restarts "
                f"({restarts}) at least 1"
            )
        self.automatic_optimization = False
        self.model = SemanticTokenizer(encoder, clusters=clusters, levels=levels).requires_grad_(False)
        self.given = given
        self.unused = torch.nn.Parameter(torch.zeros(()))  # DDP refuses a module without anything to train
        self.max_frames, self.iterations, self.restarts = max_frames, iterations, restarts
        self.fitted = False

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio this stage wants."""
        return self.model.sample_rate_hz

    def config_dict(self) -> dict[str, Any]:
        """See `StageModule.config_dict`."""
        return self.model.config_dict()

    def sources(self) -> dict[str, str]:
        """The encoder, weights and layer."""
        return {"encoder": self.model.config_dict()["encoder_digest"]}

    def configure_optimizers(self) -> None:
        """No gradients, no optimizer."""

    def on_train_epoch_start(self) -> None:
        """Start with an empty sample."""
        self.model.eval()
        self.fitted, self._heard = False, False
        capacity = capacity_of_each(self.max_frames, streams=self.trainer.world_size)
        self._reservoir = FeatureReservoir(capacity, seed=self.run_seed)
        self._moments = FeatureMoments(self.model.encoder.dim)

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        """Collect the features of one batch; frames that lie in the silence behind a short utterance are left out."""
        self._heard = self._heard or not all(map(is_silent, batch.audio))
        frames = self._frames(batch)
        self._moments.add(torch.cat(frames))
        for example, features in zip(self.examples_of_run(batch_idx, rows=len(frames)), frames, strict=True):
            self._reservoir.add(features.cpu(), example=example)
        return None

    def on_validation_epoch_start(self) -> None:
        """Validation comes before the end of the epoch, and needs centroids."""
        if not self.trainer.sanity_checking:
            self._fit()
        levels = self.model.levels
        self._counts = torch.zeros(levels, self.model.clusters, dtype=torch.int64, device=self.device)
        self._errors = torch.zeros(
            levels, dtype=torch.float64, device="cpu" if self.device.type == "mps" else self.device
        )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count units and add up what each level leaves over."""
        if not batch.counts:
            return
        counts, errors = quantization(self.model, self.model.normalize(torch.cat(self._frames(batch))))
        self._counts += counts
        self._errors += errors.to(self._errors.device)

    def on_validation_epoch_end(self) -> None:
        """Log quantization error and use on the validation split."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._counts)
            dist.all_reduce(self._errors)
        if self.trainer.sanity_checking or not int(self._counts.sum()):
            return
        frames = int(self._counts[0].sum())
        distortions = (self._errors / (frames * self.model.encoder.dim)).tolist()
        uses = [unit_use(counts, rate_hz=self.model.rate_hz) for counts in self._counts.cpu()]
        self._log_levels("validation", distortions, uses)
        self.log("validation/loss", distortions[-1], sync_dist=True)
        self._say(f"On {frames:,} frames of the validation split", distortions, uses)

    def on_train_epoch_end(self) -> None:
        """Save the result, clustering first if no validation has."""
        self._fit()
        # by hand: ModelCheckpoint does not save where no optimizer has stepped
        self.trainer.save_checkpoint(self.folder / "best.ckpt", weights_only=False)

    def _frames(self, batch: Any) -> list[Tensor]:
        """The features (frames, dim) of each of a batch's recordings, of its own audio."""
        with torch.no_grad(), torch.autocast(batch.audio.device.type, enabled=False):  # as units are made later
            features = self.model.encoder(batch.audio, batch.samples).float()
        real = [self.model.encoder.frames(int(samples)) for samples in batch.samples]
        return [row[:frames] for row, frames in zip(features, real, strict=True)]

    def _fit(self) -> None:
        if self.fitted:
            return
        self.fitted, group = True, cpu_group()
        gathered = gather_frames(self._reservoir, self._moments, heard=self._heard, frames=self.max_frames, group=group)
        moments = gathered.moments
        deviation = usable_deviation(moments, heard=gathered.heard, clusters=self.model.clusters)
        self.model.mean.copy_(moments.mean)
        self.model.deviation.copy_(deviation)
        if self.given is not None:
            for name in ("centroids", "mean", "deviation"):
                getattr(self.model, name).copy_(getattr(self.given, name))
        if self.global_rank == 0:
            assert gathered.sample is not None, "the first process holds the sample"
            sample = gathered.sample.sub_(self.model.mean.cpu()).div_(self.model.deviation.cpu())  # in place: gigabytes
            self._cluster(sample, seen=moments.count)
        del gathered, self._reservoir
        if group is not None:
            centroids = self.model.centroids.cpu()
            dist.broadcast(centroids, src=0, group=group)
            self.model.centroids.copy_(centroids)

    def _cluster(self, sample: Tensor, *, seen: int) -> None:
        """Fit every level on what those before it left over of `sample`, in place, and log it."""
        frames, dim = sample.shape
        distortions, uses = [], []
        for level in range(self.model.levels):
            if self.given is None:
                result = fit_kmeans(
                    sample,
                    clusters=self.model.clusters,
                    iterations=self.iterations,
                    restarts=self.restarts,
                    seed=level,
                    progress=self._progress_of(level + 1),
                )
                self.model.centroids[level] = result.centroids
                nearest = result.nearest
            else:
                nearest = _nearest(sample, self.model.centroids[level].cpu())
            _subtract(sample, self.model.centroids[level].cpu(), nearest)
            squares = sum(float(chunk.square().sum(dtype=torch.float64)) for chunk in sample.split(CHUNK_FRAMES))
            distortions.append(squares / (frames * dim))
            uses.append(unit_use(torch.bincount(nearest, minlength=self.model.clusters), rate_hz=self.model.rate_hz))
        self._log_levels("tokenizer", distortions, uses, frames_seen=seen, frames=frames)
        verb = "Fitted on" if self.given is None else "Given centroids, on"
        self._say(f"{verb} {frames:,} of {seen:,} frames seen", distortions, uses)

    def _progress_of(self, level: int) -> Any:
        started, said = time.monotonic(), time.monotonic()

        def progress(restart: int, iteration: int, distortion: float) -> None:
            nonlocal said
            now = time.monotonic()
            if now - said >= SECONDS_BETWEEN_LINES:
                said, done = now, restart * self.iterations + iteration + 1
                left = (now - started) / done * (self.restarts * self.iterations - done)
                error = distortion / self.model.encoder.dim
                self.print(
                    f"tokenizer k-means  level {level}/{self.model.levels}  restart {restart + 1}/{self.restarts}  "
                    f"iteration {iteration + 1}/{self.iterations}  error {error:.4f}  {left:.0f} s left"
                )

        return progress

    def _log_levels(self, split: str, distortions: list[float], uses: list[UnitUse], **others: float) -> None:
        """Log the first level under plain names and deeper ones with their number."""
        values: dict[str, float] = {f"{split}/{name}": value for name, value in others.items()}
        for level, (distortion, use) in enumerate(zip(distortions, uses, strict=True), start=1):
            suffix = "" if level == 1 else f"_level_{level}"
            values[f"{split}/distortion{suffix}"] = (
                distortion  # mean square per dimension left over; 1: no better than the mean
            )
            for name in ("used_share", "entropy_bits", "perplexity", "bitrate_bps"):
                values[f"{split}/{name}{suffix}"] = getattr(use, name)
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in values.items()}, step=self.trainer.global_step)
            logger.save()

    def _say(self, what: str, distortions: list[float], uses: list[UnitUse]) -> None:
        """One line per level in the terminal."""
        for level, (distortion, use) in enumerate(zip(distortions, uses, strict=True), start=1):
            level_ = f", level {level}" if self.model.levels > 1 else ""
            self.print(
                f"{what}{level_}: quantization error {distortion:.4f} per dimension, {use.used} of {use.clusters} clusters "
                f"in use ({use.used_share:.1%}), entropy {use.entropy_bits:.2f} of {math.log2(use.clusters):.2f} bits "
                f"(perplexity {use.perplexity:.0f}), {use.bitrate_bps:.0f} bit/s"
            )


class TokenizerStage(ClusteringStage):
    """The semantic tokenizer: mean, deviation and centroids of one layer of an encoder.

    Args:
        encoder: what makes the features.
        clusters: K, the number of units.
        levels: how many times what is left over is clustered again (residual k-means); the language models use the first.
        max_frames: frames kept for clustering, a uniform sample of all frames seen (of all processes together).
        iterations: k-means iterations.
        restarts: k-means runs; the one with the least distortion is kept.
        centroids: do not cluster, take these: see `audiolm.semantic.centroids.read_centroids`.

    Raises:
        ValueError: if `centroids` do not belong to this encoder, `clusters` or `levels`.

    Source: AudioLM, section III-B and IV-B (K = 1024 on normalised features).
    """

    stage = "tokenizer"

    def __init__(
        self,
        *,
        encoder: EncoderConfig,
        clusters: int = 1024,
        levels: int = 1,
        max_frames: int = 1_000_000,
        iterations: int = 20,
        restarts: int = 1,
        centroids: str | None = None,
        root: str = "checkpoints",
    ) -> None:
        made = make_encoder(encoder, root=Path(root))
        super().__init__(
            made,
            clusters=clusters,
            levels=levels,
            max_frames=max_frames,
            iterations=iterations,
            restarts=restarts,
            root=root,
            given=read_centroids(centroids, encoder=made, clusters=clusters, levels=levels) if centroids else None,
        )


class ResidualTokenizerStage(ClusteringStage):
    """Residual units: the tokenizer's encoder and layer, quantised by several codebooks, each of what is left over.

    For measuring only (Table I); the language models keep the tokenizer. Fitted on the tokenizer's own audio with its own
    settings, the first level is the tokenizer itself.

    Args:
        source: the tokenizer's checkpoint, whose encoder and layer these are; by default `<root>/tokenizer/best.ckpt`.
        clusters, max_frames, iterations, restarts: as in `TokenizerStage`.
        levels: codebooks; 24 of 1024 at 25 Hz are 6000 bit/s.

    Source: AudioLM, section IV-D, Table I: "residual quantization" of w2v-BERT embeddings at 6000 bit/s. The paper says
    neither how many codebooks nor of what size: we keep K and take as many as that bitrate needs.
    """

    stage = "residual_tokenizer"

    def __init__(
        self,
        *,
        source: str | None = None,
        clusters: int = 1024,
        levels: int = 24,
        max_frames: int = 1_000_000,
        iterations: int = 20,
        restarts: int = 1,
        root: str = "checkpoints",
    ) -> None:
        checkpoint = load_stage_checkpoint(source or Path(root) / "tokenizer" / "best.ckpt", stage="tokenizer")
        super().__init__(
            SemanticTokenizer.from_checkpoint(checkpoint).encoder,
            clusters=clusters,
            levels=levels,
            max_frames=max_frames,
            iterations=iterations,
            restarts=restarts,
            root=root,
        )


def quantization(tokenizer: SemanticTokenizer, features: Tensor) -> tuple[Tensor, Tensor]:
    """How often each unit of each level occurs (levels, clusters), and the summed squares that each level leaves over (levels,).

    Args:
        features: (frames, dim), normalised.
    """
    with torch.autocast(features.device.type, enabled=False):
        units = tokenizer.quantize(features)
    counts = torch.stack([torch.bincount(ids, minlength=tokenizer.clusters) for ids in units])
    errors = [(features - tokenizer.embed(units[:level])).square().sum() for level in range(1, tokenizer.levels + 1)]
    return counts, torch.stack(errors).double()


def _nearest(frames: Tensor, centroids: Tensor) -> Tensor:
    halves = centroids.square().sum(1) / 2
    return torch.cat([(chunk @ centroids.t() - halves).argmax(1) for chunk in frames.split(CHUNK_FRAMES)])


def _subtract(frames: Tensor, centroids: Tensor, nearest: Tensor) -> None:
    for chunk, ids in zip(frames.split(CHUNK_FRAMES), nearest.split(CHUNK_FRAMES), strict=True):
        chunk -= centroids[ids]
