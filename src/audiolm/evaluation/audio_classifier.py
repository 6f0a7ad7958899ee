"""The paper's classifier of one second of audio: who speaks (speaker stage), or whether a machine does (detector stage)."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from audiolm.checkpoint import StageCheckpoint
from audiolm.evaluation.shared_batch_norm import SharedBatchNorm
from audiolm.semantic.spectrogram import STEP_RATE_HZ, LogMel
from audiolm.untrusted.rebuilding import rebuilt
from audiolm.untrusted.values import MOST_SAMPLE_RATE_HZ, from_values, require_types

CHANNELS = (64, 128, 256, 256, 512, 512)
MEL_BINS = 64
LEVEL = 0.1  # root mean square that every crop is brought to: -20 dB of full scale
QUIETEST = 1e-4  # what is quieter (-80 dB: silence, and the noise of 16 bits) is raised no further than this would be


@dataclass(frozen=True)
class ClassifierConfig:
    """The sizes of a classifier. Stored in its checkpoint.

    Args:
        labels: the classes' names, at least two, all different.
        sample_rate_hz: of the audio; a multiple of 100.
        channels: of the blocks. Where their number grows from one block to the next, time and frequency are halved.
    """

    labels: tuple[str, ...]
    sample_rate_hz: int = 16000
    channels: tuple[int, ...] = CHANNELS

    def __post_init__(self) -> None:
        for name in ("labels", "channels"):  # lists, of a file
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        require_types(self)
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"A classifier needs two or more different labels, got {list(self.labels)[:10]}")
        if not 1000 <= self.sample_rate_hz <= MOST_SAMPLE_RATE_HZ or self.sample_rate_hz % STEP_RATE_HZ:
            raise ValueError(
                f"sample_rate_hz must be a multiple of {STEP_RATE_HZ} from 1000 on, got {self.sample_rate_hz}"
            )
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must be one or more positive numbers, got {self.channels}")


class AudioClassifier(nn.Module):
    """Six blocks of convolutions on a log-mel spectrogram of one second; a class's score for each crop.

    Loudness and constant offset are taken from every crop first, so neither can tell classes apart.

    Attributes:
        temperature: () what scores are divided by, so that probabilities are as often right as they say; 1 until measured.

    Source: AudioLM, Table III (speakers), and the same network in its detector of synthesized speech. The paper leaves open how
    the last block becomes classes (here: the mean over time and frequency, then a linear layer), whether the first block pools
    (here not: three halvings), how the input is scaled (here: one level for all crops, then each mel bin normalised by running
    statistics), the rate of the audio, and the whole of the training.
    """

    temperature: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config, self.labels, self.sample_rate_hz = config, config.labels, config.sample_rate_hz
        self.spectrogram = LogMel(bins=MEL_BINS, sample_rate_hz=config.sample_rate_hz)
        self.input_norm = SharedBatchNorm(MEL_BINS, affine=False)
        self.blocks = nn.Sequential(_Block(1, config.channels[0], halved=False))
        for before, after in pairwise(config.channels):
            self.blocks.append(_Block(before, after, halved=after > before))
        self.scores = nn.Linear(config.channels[-1], len(self.labels))
        self.register_buffer("temperature", torch.tensor(1.0))

    @property
    def crop_samples(self) -> int:
        """Samples of one second."""
        return self.sample_rate_hz

    def forward(self, audio: Tensor) -> Tensor:
        """Score crops, calibrated: see `temperature`.

        Args:
            audio: (batch, samples) float32 mono in [-1, 1], exactly one second at `sample_rate_hz`.

        Returns:
            (batch, classes) float32 logits, in the order of `labels`.

        Raises:
            ValueError: if `audio` is of another shape.
        """
        return self.uncalibrated(audio) / self.temperature

    def uncalibrated(self, audio: Tensor) -> Tensor:
        """As `forward`, but not divided by `temperature`: what is trained."""
        if audio.ndim != 2 or audio.shape[1] != self.crop_samples:
            raise ValueError(
                f"audio must be (batch, {self.crop_samples}), crops of exactly 1 s at {self.sample_rate_hz} Hz, got "
                f"{tuple(audio.shape)}. Cut longer audio with `windowed.window_log_probabilities`."
            )
        spectra = self.spectrogram.raw(levelled(audio.float()), steps=STEP_RATE_HZ)
        spectra = self.input_norm(rearrange(spectra, "batch steps bins -> batch bins steps 1"))
        blocks = self.blocks(rearrange(spectra, "batch bins steps 1 -> batch 1 steps bins"))
        scores: Tensor = self.scores(blocks.mean((2, 3)))
        return scores.float()

    def config_dict(self) -> dict[str, Any]:
        """Plain values from which `from_config` makes the same network, weights aside."""
        return {
            "labels": list(self.labels),
            "sample_rate_hz": self.sample_rate_hz,
            "channels": list(self.config.channels),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the network of a `config_dict`, with random weights.

        Raises:
            ValueError: if it is not one.
        """
        return cls(from_values(ClassifierConfig, config, source="the configuration of the classifier"))

    @classmethod
    def from_checkpoint(cls, checkpoint: StageCheckpoint) -> Self:
        """Rebuild a trained classifier, frozen and ready to use.

        Raises:
            ValueError: if its configuration or weights are not those of a classifier.
        """
        model = rebuilt(lambda: cls.from_config(checkpoint.config), checkpoint.weights, what="the classifier")
        return model.requires_grad_(False).eval()


def levelled(audio: Tensor) -> Tensor:
    """(batch, samples) without constant offset, each row at a root mean square of `LEVEL`."""
    audio = audio - audio.mean(1, keepdim=True)
    level = audio.square().mean(1, keepdim=True).sqrt()
    return audio * (LEVEL / level.clamp(min=QUIETEST))


class _Block(nn.Module):
    """A convolution along time and one along frequency, each with ReLU and batch normalisation."""

    def __init__(self, before: int, after: int, *, halved: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, after, (3, 1), padding=(1, 0)),
            nn.ReLU(),
            SharedBatchNorm(after),
            nn.Conv2d(after, after, (1, 3), padding=(0, 1)),
            nn.ReLU(),
            SharedBatchNorm(after),
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if halved else nn.Identity()

    def forward(self, values: Tensor) -> Tensor:
        """(batch, channels, steps, bins) to (batch, channels, steps, bins), halved if so."""
        pooled: Tensor = self.pool(self.layers(values))
        return pooled
