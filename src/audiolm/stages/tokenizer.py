"""The tokenizer stage: normalisation and k-means over an encoder's features."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from audiolm.semantic.encoders import EncoderConfig, make_encoder
from audiolm.semantic.kmeans import fit_kmeans
from audiolm.semantic.reservoir import FeatureReservoir
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.stages.base import StageModule


class TokenizerStage(StageModule):
    """Fits a `SemanticTokenizer`: collects features of random crops, then normalises and clusters them.

    One epoch without gradients: `trainer.max_epochs: 1`. Every process collects its share; the first one clusters and the
    others receive the result.

    Args:
        encoder: what makes the features.
        clusters: K, the number of units.
        max_frames: frames kept for clustering, a uniform sample of all frames seen (of all processes together).
        iterations: k-means iterations.
        restarts: k-means runs; the one with the least distortion is kept.

    Source: AudioLM, section III-B and IV-B (K = 1024 on normalised features).
    """

    stage = "tokenizer"
    model: SemanticTokenizer

    def __init__(
        self,
        *,
        encoder: EncoderConfig,
        clusters: int = 1024,
        max_frames: int = 1_000_000,
        iterations: int = 20,
        restarts: int = 1,
        root: str = "checkpoints",
    ) -> None:
        super().__init__(root=root)
        self.automatic_optimization = False
        self.model = SemanticTokenizer(make_encoder(encoder), clusters=clusters).requires_grad_(False)
        self.unused = torch.nn.Parameter(torch.zeros(()))  # DDP refuses a module without anything to train
        self.max_frames, self.iterations, self.restarts = max_frames, iterations, restarts

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio this stage wants."""
        return self.model.sample_rate_hz

    def config_dict(self) -> dict[str, Any]:
        """See `StageModule.config_dict`."""
        return self.model.config_dict()

    def configure_optimizers(self) -> None:
        """No gradients, no optimizer."""

    def on_train_epoch_start(self) -> None:
        """Start with an empty sample."""
        self.model.eval()
        self._reservoir = FeatureReservoir(self.max_frames // self.trainer.world_size, seed=self.global_rank)

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        """Collect the features of one batch; frames that lie in the silence behind a short utterance are left out."""
        with torch.no_grad():
            features = self.model.encoder(batch.audio)
        real = [self.model.encoder.frames(int(samples)) for samples in batch.samples]
        for row, frames in zip(features, real, strict=True):
            self._reservoir.add(row[:frames].float().cpu())
        return None

    def on_train_epoch_end(self) -> None:
        """Normalise and cluster what was collected."""
        sample = _gathered(self._reservoir.sample())
        deviation, mean = torch.std_mean(sample, dim=0)
        self.model.mean.copy_(mean)
        self.model.deviation.copy_(deviation.clamp(min=1e-5))
        if self.global_rank == 0:
            normalized = self.model.normalize(sample.to(self.model.mean.device))
            result = fit_kmeans(
                normalized, clusters=self.model.clusters, iterations=self.iterations, restarts=self.restarts
            )
            self.model.centroids.copy_(result.centroids)
            use = torch.bincount(self.model.nearest(normalized), minlength=self.model.clusters).float()
            self._report(len(sample), result.distortion / sample.shape[1], use / use.sum())
        if dist.is_initialized():
            dist.broadcast(self.model.centroids, src=0)
        # by hand: ModelCheckpoint does not save where no optimizer has stepped
        self.trainer.save_checkpoint(self.folder / "best.ckpt", weights_only=False)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing to validate: quantization error and use of the clusters are logged when they are made."""

    def _report(self, frames: int, distortion: float, shares: Tensor) -> None:
        entropy_bits = -(shares * shares.clamp(min=1e-12).log2()).sum()
        values = {
            "tokenizer/frames": frames,
            "tokenizer/distortion": distortion,  # mean squared error per dimension; 1 would be no better than the mean
            "tokenizer/used_share": float((shares > 0).float().mean()),
            "tokenizer/entropy_bits": float(entropy_bits),
            "tokenizer/bitrate_bps": float(entropy_bits) * self.model.rate_hz,
        }
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in values.items()}, step=self.trainer.global_step)
            logger.save()


def _gathered(sample: Tensor) -> Tensor:
    """All processes' samples, one after the other; the processes' counts may differ."""
    if not dist.is_initialized():
        return sample
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, sample)
    return torch.cat(parts)
