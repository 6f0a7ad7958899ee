"""Public encoders through transformers: HuBERT, WavLM, wav2vec 2.0, w2v-BERT 2.0, by name or from a folder."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm.checkpoint import plain
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.hidden_states import hidden_states
from audiolm.semantic.public_models import SAMPLE_RATE_HZ, WAVEFORM_MODELS, read_public_model, require_supported
from audiolm.semantic.stacked_log_mel import STACKED_STEPS, STEP_SAMPLES, stacked_log_mel
from audiolm.untrusted.public_folders import require_harmless


class PretrainedEncoder(Encoder):
    """One layer of a public self-supervised model; most have 50 frames per second at 16 kHz, a few 25.

    A recording's frames do not depend on the batch it comes in: normalisation counts real samples, and what follows them is
    zero wherever the model looks past a frame. The checkpoint that uses it holds its weights too, so tokenizing and
    generating need no download.

    Args:
        model_config: the transformers configuration as plain values (`model_type` included).
        layer: which hidden state: 0 is the input of the first layer, n the output of layer n (before the norm that
            follows the last in models with `do_stable_layer_norm`).
        normalize: give every utterance zero mean and unit variance first, as the model's feature extractor says. w2v-BERT
            2.0 normalises its spectra instead, always.

    Raises:
        ValueError: for a model type we do not know how to align, a layer that it does not have, or a rate that is not whole.

    Source: AudioLM, section IV-B uses layer 7 of w2v-BERT XL, which was never released; these take its place.
    """

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, model_config: dict[str, Any], *, layer: int, normalize: bool) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        require_harmless(model_config, what="the configuration of the encoder")
        require_supported(model_config.get("model_type"), source="This")
        if type(normalize) is not bool:
            raise ValueError(f"normalize must be true or false, got {str(normalize)[:80]!r}")
        config = AutoConfig.for_model(**model_config)
        self.model_config, self.layer, self.normalize = model_config, layer, normalize
        self.layers, self.dim = int(config.num_hidden_layers), int(config.hidden_size)
        self.check_layers([layer])
        self.hears_waveforms = config.model_type in WAVEFORM_MODELS
        hop = math.prod(config.conv_stride) if self.hears_waveforms else STACKED_STEPS * STEP_SAMPLES
        if self.sample_rate_hz % hop:
            raise ValueError(f"This model has a frame every {hop} samples: not a whole number of them in a second.")
        self.rate_hz = self.sample_rate_hz // hop
        self.model = AutoModel.from_config(config, dtype=torch.float32)
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, name: str, *, layer: int) -> "PretrainedEncoder":
        """Load a published model by name, or from a folder that `save_pretrained` wrote.

        Raises:
            FileNotFoundError: if it cannot be found here nor downloaded.
            ValueError: as the class, and if it is not a model, is incomplete, or wants audio of another rate than 16 kHz.
        """
        model, normalize = read_public_model(name)
        encoder = cls(plain(model.config.to_dict()), layer=layer, normalize=normalize)
        encoder.model.load_state_dict(model.state_dict())
        return encoder

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """Stays in evaluation mode: it is frozen."""
        return super().train(False)

    @torch.no_grad()
    def _hidden_states(self, audio: Tensor, samples: Tensor, layers: Sequence[int]) -> list[Tensor]:
        frames = -(-samples // self.hop_samples)
        inside = torch.arange(self.frames(audio.shape[1]), device=audio.device) < frames[:, None]
        if self.hears_waveforms:
            inputs = self._convolved(_normalized(audio, samples) if self.normalize else audio, frames)
        else:
            inputs = _spectra(audio, samples, frames=inside.shape[1])
        projected = self.model.feature_projection(inputs)
        x = projected if isinstance(projected, Tensor) else projected[0]  # all but HuBERT return their input too
        return hidden_states(self.model.encoder, x, inside, layers)

    def _convolved(self, audio: Tensor, frames: Tensor) -> Tensor:
        """(batch, frames, channels) of waveforms; frame i hears `receptive_samples` from sample i * hop on."""
        if self.model.config.feat_extract_norm != "group":
            return self._convolved_together(audio, self.frames(audio.shape[1]))
        # group norms take their statistics over time, padding included: only rows of as many frames go together
        together = [(frames == count, count) for count in frames.unique().tolist()]
        parts = [(rows, self._convolved_together(audio[rows], count)) for rows, count in together]
        convolved = parts[0][1].new_zeros(len(audio), self.frames(audio.shape[1]), parts[0][1].shape[-1])
        for rows, part in parts:
            convolved[rows, : part.shape[1]] = part
        return convolved

    def _convolved_together(self, audio: Tensor, frames: int) -> Tensor:
        needed = (frames - 1) * self.hop_samples + self.receptive_samples  # gives exactly so many frames
        return self.model.feature_extractor(F.pad(audio, (0, needed - audio.shape[1]))).mT

    @property
    def receptive_samples(self) -> int:
        """Samples that a frame of the convolutions hears; 400 in most models."""
        samples = 1
        for kernel, stride in zip(
            reversed(self.model.config.conv_kernel), reversed(self.model.config.conv_stride), strict=True
        ):
            samples = (samples - 1) * stride + kernel
        return samples

    def config_dict(self) -> dict[str, Any]:
        """See `Encoder.config_dict`."""
        return {
            "kind": "pretrained",
            "model_config": self.model_config,
            "layer": self.layer,
            "normalize": self.normalize,
        }


def _spectra(audio: Tensor, samples: Tensor, *, frames: int) -> Tensor:
    spectra = [stacked_log_mel(row[:count]) for row, count in zip(audio, samples.tolist(), strict=True)]
    return torch.stack([F.pad(rows, (0, 0, 0, frames - len(rows))) for rows in spectra])


def _normalized(audio: Tensor, samples: Tensor) -> Tensor:
    """Zero mean and unit variance over each row's real samples, zeros after them.

    Source: transformers' Wav2Vec2FeatureExtractor.
    """
    inside = torch.arange(audio.shape[1], device=audio.device) < samples[:, None]
    centred = (audio - audio.sum(1, keepdim=True) / samples[:, None]) * inside
    variance = centred.square().sum(1, keepdim=True) / samples[:, None]
    return centred / (variance + 1e-7).sqrt()
