"""The semantic tokenizer: encoder, normalisation, nearest centroid; and again on what is left, where there are levels."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from audiolm.audio import resample
from audiolm.checkpoint import StageCheckpoint, weights_digest
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.encoders import rebuild_encoder
from audiolm.semantic.windows import OVERLAP_SECONDS, WINDOW_SECONDS, features_in_windows
from audiolm.untrusted.rebuilding import rebuilt
from audiolm.untrusted.values import require_number, require_whole

MOST_LEVELS = 256
CHUNK_FRAMES = 8192  # distances are computed for so many frames at a time, to bound memory


class SemanticTokenizer(nn.Module):
    """Turns audio into units: the index of the centroid nearest to the normalised features.

    With several levels each one quantizes what those before it left over. The language models use the first alone; all of
    them are the residual k-means that the paper compares with SoundStream at 6000 bit/s. Recordings longer than a window are
    encoded in overlapping ones, always the same, whoever asks.

    Args:
        encoder: what makes the features.
        clusters: K, the number of units of each level.
        levels: how many times the remainder is quantized.
        window_seconds: how much audio the encoder hears at once; see `semantic.windows.encode_in_windows`.
        overlap_seconds: what neighbouring windows share.

    Source: AudioLM, section III-B: every feature dimension is shifted and scaled to zero mean and unit variance before
    clustering, which "improves phonetic discriminability significantly". Residual k-means: section IV-D, Table I.
    """

    mean: Tensor
    deviation: Tensor
    centroids: Tensor  # (levels, clusters, dim)

    def __init__(
        self,
        encoder: Encoder,
        *,
        clusters: int,
        levels: int = 1,
        window_seconds: float = WINDOW_SECONDS,
        overlap_seconds: float = OVERLAP_SECONDS,
    ) -> None:
        super().__init__()
        if clusters < 2 or levels < 1:
            raise ValueError(f"clusters must be at least 2 and levels at least 1, got {clusters} and {levels}")
        self.encoder, self.clusters, self.levels = encoder, clusters, levels
        self.window_seconds, self.overlap_seconds = window_seconds, overlap_seconds
        self.register_buffer("mean", torch.zeros(encoder.dim))
        self.register_buffer("deviation", torch.ones(encoder.dim))
        self.register_buffer("centroids", torch.zeros(levels, clusters, encoder.dim))

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

    def encode(self, audio: Tensor, *, sample_rate_hz: int | None = None) -> Tensor:
        """Turn waveforms into units, those of the first level.

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
        return self.encode_levels(audio, sample_rate_hz=sample_rate_hz, levels=1)[:, 0]

    @torch.no_grad()
    def encode_levels(self, audio: Tensor, *, sample_rate_hz: int | None = None, levels: int | None = None) -> Tensor:
        """Turn waveforms into the units of the first `levels` levels, by default all: (batch, levels, frames).

        See `encode` for the arguments and what is raised.
        """
        if sample_rate_hz is not None:
            audio = resample(audio, from_hz=sample_rate_hz, to_hz=self.sample_rate_hz)
        pieces = self._features_in_windows(audio)
        return torch.cat([torch.stack([self.quantize(row, levels=levels) for row in piece]) for piece in pieces], dim=2)

    @torch.no_grad()
    def features(self, audio: Tensor) -> Tensor:
        """The normalised features (batch, frames, dim) that `encode` quantizes, of audio at the encoder's rate."""
        return torch.cat(list(self._features_in_windows(audio)), dim=1)

    def _features_in_windows(self, audio: Tensor) -> Iterator[Tensor]:
        windows = {"window_seconds": self.window_seconds, "overlap_seconds": self.overlap_seconds}
        for (piece,) in features_in_windows(self.encoder, audio, layers=[self.encoder.layer], **windows):
            yield self.normalize(piece)

    @torch.no_grad()
    def quantize(self, features: Tensor, *, levels: int | None = None) -> Tensor:
        """Units (levels, frames) of normalised features (frames, dim); by default of all levels."""
        return torch.cat([self._quantize(chunk, levels or self.levels) for chunk in features.split(CHUNK_FRAMES)], 1)

    def _quantize(self, remainder: Tensor, levels: int) -> Tensor:
        units = []
        for level, centroids in enumerate(self.centroids[:levels], start=1):
            scores = remainder @ centroids.t() - centroids.square().sum(1) / 2  # largest where the distance is least
            units.append(scores.argmax(1))
            if level < levels:
                remainder = remainder - centroids[units[-1]]
        return torch.stack(units)

    def embed(self, units: Tensor) -> Tensor:
        """The normalised features that units stand for.

        Args:
            units: (frames,) of the first level, or (levels, frames) of the first few levels.

        Returns:
            (frames, dim) float32: the sum of the levels' centroids.

        Raises:
            ValueError: for more levels than there are, or units outside [0, clusters).
        """
        units = units[None] if units.ndim == 1 else units
        if units.ndim != 2 or not 1 <= len(units) <= self.levels:
            raise ValueError(
                f"units must be (frames,) or (levels, frames) with at most {self.levels} level(s), got {tuple(units.shape)}"
            )
        if units.numel() and not 0 <= int(units.min()) <= int(units.max()) < self.clusters:
            raise ValueError(f"units must lie in [0, {self.clusters}): these come from another tokenizer")
        embedded = torch.zeros(units.shape[1], self.centroids.shape[-1], device=self.centroids.device)
        for level, ids in enumerate(units.long()):
            embedded += self.centroids[level][ids]
        return embedded

    def config_dict(self) -> dict[str, Any]:
        """Plain values from which `from_checkpoint` rebuilds it, and what it was fitted on."""
        return {
            "encoder": self.encoder.config_dict(),
            "encoder_digest": encoder_digest(self.encoder),
            "clusters": self.clusters,
            "levels": self.levels,
            "window_seconds": self.window_seconds,
            "overlap_seconds": self.overlap_seconds,
        }

    @classmethod
    def from_checkpoint(cls, checkpoint: StageCheckpoint) -> "SemanticTokenizer":
        """Rebuild the tokenizer of a tokenizer stage's checkpoint, ready to use and frozen.

        Raises:
            ValueError: if configuration or weights are not those of a tokenizer, or its encoder is not the one that it was
                fitted on.
        """
        config = checkpoint.config
        if "encoder_digest" not in config:
            raise ValueError(
                "the tokenizer's checkpoint does not say which encoder it was fitted on: an older version made it. Run the "
                "tokenizer stage again."
            )
        if "window_seconds" not in config:
            raise ValueError(
                "the tokenizer's checkpoint does not say in which windows it encodes long recordings: an older version made "
                "it. Run the tokenizer stage again; its centroids can be kept, `--model.centroids` takes the old checkpoint."
            )
        _require_sizes(config)
        sizes = {name: config[name] for name in ("clusters", "levels", "window_seconds", "overlap_seconds")}
        tokenizer = rebuilt(
            lambda: cls(rebuild_encoder(config["encoder"]), **sizes), checkpoint.weights, what="the tokenizer"
        )
        require_same_encoder(tokenizer.encoder, config, source="the tokenizer's checkpoint")
        return tokenizer.requires_grad_(False).eval()


def _require_sizes(config: dict[str, Any]) -> None:
    """Check the names and numbers of a tokenizer's `config_dict`.

    Raises:
        ValueError: naming what is not as it should be.
    """
    names = {"encoder", "encoder_digest", "clusters", "levels", "window_seconds", "overlap_seconds"}
    if set(config) != names or not isinstance(config["encoder"], dict) or not isinstance(config["encoder_digest"], str):
        raise ValueError(f"a tokenizer's configuration has the values {sorted(names)}, found {sorted(config)[:20]}")
    require_whole(config["clusters"], low=2, high=2**16, what="clusters of the tokenizer")
    require_whole(config["levels"], low=1, high=MOST_LEVELS, what="levels of the tokenizer")
    window_seconds = require_number(
        config["window_seconds"], low=0.02, high=3600, what="window_seconds of the tokenizer"
    )
    require_number(config["overlap_seconds"], low=0, high=window_seconds, what="overlap_seconds of the tokenizer")


def encoder_digest(encoder: Encoder) -> str:
    """sha256 over an encoder's configuration and weights; one without parameters is its configuration."""
    weights = encoder.state_dict() if any(True for _ in encoder.parameters()) else {}
    return weights_digest(encoder.config_dict(), weights)


def require_same_encoder(encoder: Encoder, config: dict[str, Any], *, source: str) -> None:
    """Stop where centroids meet another encoder than the one they were fitted on.

    Args:
        config: a tokenizer's `config_dict`.
        source: where it comes from, for the message.

    Raises:
        ValueError: naming both encoders.
    """
    ours, theirs = encoder_digest(encoder), config["encoder_digest"]
    if ours != theirs:
        raise ValueError(
            f"the centroids of {source} were fitted on another encoder: {_named(config['encoder'], theirs)} there, "
            f"{_named(encoder.config_dict(), ours)} here. Units of one mean nothing to the other: fit the tokenizer again "
            "on this encoder, or name the encoder that belongs to the centroids."
        )


def _named(config: dict[str, Any], digest: str) -> str:
    """An encoder in a few words: what is nested (a whole model's configuration) says its type only."""
    short = {key: value.get("model_type", "…") if isinstance(value, dict) else value for key, value in config.items()}
    return f"{', '.join(f'{key} {value}' for key, value in short.items())}, weights {digest[:12]}"
