"""The semantic tokenizer: encoder, normalisation, nearest centroid."""

from typing import Any

import torch
from torch import Tensor, nn

from audiolm.audio import resample
from audiolm.checkpoint import StageCheckpoint
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.encoders import rebuild_encoder

CHUNK_FRAMES = 8192  # distances are computed for so many frames at a time, to bound memory


class SemanticTokenizer(nn.Module):
    """Turns audio into units: the index of the centroid nearest to the normalised features.

    Args:
        encoder: what makes the features.
        clusters: K, the number of units.

    Source: AudioLM, section III-B: every feature dimension is shifted and scaled to zero mean and unit variance before
    clustering, which "improves phonetic discriminability significantly".
    """

    mean: Tensor
    deviation: Tensor
    centroids: Tensor

    def __init__(self, encoder: Encoder, *, clusters: int) -> None:
        super().__init__()
        if clusters < 2:
            raise ValueError(f"clusters must be at least 2, got {clusters}")
        self.encoder, self.clusters = encoder, clusters
        self.register_buffer("mean", torch.zeros(encoder.dim))
        self.register_buffer("deviation", torch.ones(encoder.dim))
        self.register_buffer("centroids", torch.zeros(clusters, encoder.dim))

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio it expects."""
        return self.encoder.sample_rate_hz

    @property
    def rate_hz(self) -> int:
        """Units per second, before repeats are removed."""
        return self.encoder.rate_hz

    def normalize(self, features: Tensor) -> Tensor:
        """Shift and scale features (…, dim) to zero mean and unit variance over the training data."""
        return (features - self.mean) / self.deviation

    @torch.no_grad()
    def encode(self, audio: Tensor, *, sample_rate_hz: int | None = None) -> Tensor:
        """Turn waveforms into units.

        Args:
            audio: (batch, samples) float32 mono in [-1, 1].
            sample_rate_hz: the audio's rate, a multiple of `rate_hz`: audio of another rate than the encoder's is
                resampled. By default the encoder's.

        Returns:
            (batch, frames) int64 in [0, clusters), frames = ceil(samples / (sample_rate_hz / rate_hz)), repeats included.
            Resampling does not change that number: ceil(ceil(x) / n) = ceil(x / n).

        Raises:
            ValueError: if `audio` is not two-dimensional or has no samples.
        """
        if sample_rate_hz is not None:
            audio = resample(audio, from_hz=sample_rate_hz, to_hz=self.sample_rate_hz)
        features = self.normalize(self.encoder(audio).float())
        flat = features.reshape(-1, features.shape[-1])
        units = torch.cat([self.nearest(chunk) for chunk in flat.split(CHUNK_FRAMES)])
        return units.view(features.shape[:2])

    def nearest(self, features: Tensor) -> Tensor:
        """Index of the nearest centroid (frames,) of normalised features (frames, dim)."""
        scores = (
            features @ self.centroids.t() - self.centroids.square().sum(1) / 2
        )  # largest where the distance is least
        return scores.argmax(1)

    def config_dict(self) -> dict[str, Any]:
        """Plain values from which `from_checkpoint` rebuilds it."""
        return {"encoder": self.encoder.config_dict(), "clusters": self.clusters}

    @classmethod
    def from_checkpoint(cls, checkpoint: StageCheckpoint) -> "SemanticTokenizer":
        """Rebuild the tokenizer of a tokenizer stage's checkpoint, ready to use and frozen.

        Raises:
            ValueError: if configuration or weights are not those of a tokenizer.
        """
        config = checkpoint.config
        tokenizer = cls(rebuild_encoder(config["encoder"]), clusters=config["clusters"])
        try:
            tokenizer.load_state_dict(checkpoint.weights)
        except RuntimeError as error:
            raise ValueError(f"the weights of the tokenizer do not fit its configuration: {error}") from error
        return tokenizer.requires_grad_(False).eval()
