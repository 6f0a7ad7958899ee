"""Speaker vectors of public models: WavLM, wav2vec 2.0 and UniSpeech-SAT with an x-vector head, through transformers."""

import math
import pickle
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from audiolm.checkpoint import plain, weights_digest
from audiolm.semantic.public_models import (
    SAMPLE_RATE_HZ,
    UNUSED_WEIGHTS,
    _first_line,
    _normalizes,
    _read_config,
)
from audiolm.untrusted.public_folders import require_fits_files, require_harmless

MODELS = ("wavlm", "wav2vec2", "unispeech-sat")


class SpeakerVectors:
    """Turns audio into a vector of unit length; those of one voice point in similar directions.

    Args:
        model: of transformers, with an x-vector head.
        normalize: give every recording zero mean and unit variance first.

    Source: Snyder et al., "X-vectors" (2018), on a self-supervised model's features.
    """

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, model: Any, *, normalize: bool) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.normalize = normalize

    @classmethod
    def from_pretrained(cls, name: str, *, device: str | torch.device = "cpu") -> "SpeakerVectors":
        """Load a published model by name, or from a folder that `save_pretrained` wrote. No code from it is run.

        Raises:
            FileNotFoundError: if it cannot be found here nor downloaded.
            ValueError: if it is no model with an x-vector head, damaged, or wants audio of another rate than 16 kHz.
        """
        from transformers import AutoModelForAudioXVector

        config = _read_config(name)
        heads = [text for text in config.architectures or [] if text.endswith("ForXVector")]
        if config.model_type not in MODELS or not heads:
            raise ValueError(
                f"{name!r} ({config.model_type}, {', '.join(config.architectures or ['no architecture'])}) has no head for "
                f"speaker vectors. Name a model ForXVector of {', '.join(MODELS)}, such as microsoft/wavlm-base-plus-sv."
            )
        require_harmless(plain(config.to_dict()), what=f"the configuration of {name!r}")
        normalize = _normalizes(name, config)
        require_fits_files(name, config, make=lambda: AutoModelForAudioXVector.from_config(config))
        try:
            model, report = AutoModelForAudioXVector.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
                weights_only=True,
            )
        except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError, TypeError, KeyError) as error:
            raise ValueError(
                f"The weights of the speaker model {name!r} are missing, damaged or do not fit its config.json: "
                f"{_first_line(error)}. Copy or download the whole folder again."
            ) from error
        missing = sorted(
            key for key in report["missing_keys"] if key not in _UNUSED and not key.startswith("objective")
        )
        if missing:
            raise ValueError(
                f"{len(missing)} weights of the speaker model {name!r} are not in its files, {missing[0]} for one, and would be "
                "random: it was not trained to tell speakers apart."
            )
        return cls(model.to(device), normalize=normalize)

    @property
    def digest(self) -> str:
        """sha256 (hex) over configuration and weights."""
        weights = {name: value for name, value in self.model.state_dict().items() if not name.startswith("objective")}
        config = {**plain(self.model.config.to_dict()), "normalize": self.normalize}
        return weights_digest({key: value for key, value in config.items() if key != "_name_or_path"}, weights)

    @property
    def shortest_samples(self) -> int:
        """Of audio that the head's kernels fit into."""
        config = self.model.config
        frames = 1 + sum((k - 1) * d for k, d in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True))
        samples = frames
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return int(samples) + math.prod(config.conv_stride)  # statistics of two frames have a deviation

    @torch.no_grad()
    def embed(self, audio: Tensor) -> Tensor:
        """The voice of one recording.

        Args:
            audio: (samples,) float32 mono at `sample_rate_hz`.

        Returns:
            (dim,) float32 of length 1, on the CPU.

        Raises:
            ValueError: for audio shorter than `shortest_samples`, or a vector that is not finite.
        """
        if audio.ndim != 1 or len(audio) < self.shortest_samples:
            raise ValueError(
                f"audio must be (samples,) of at least {self.shortest_samples} samples for a speaker vector, got "
                f"{tuple(audio.shape)}"
            )
        if self.normalize:
            audio = (audio - audio.mean()) / (audio.var(unbiased=False) + 1e-7).sqrt()
        vector: Tensor = self.model(audio.to(self.model.device)[None]).embeddings[0].float().cpu()
        if not bool(vector.isfinite().all()):
            raise ValueError("a speaker vector is not finite: the model cannot hear this recording, or is damaged")
        return nn.functional.normalize(vector, dim=0)


_UNUSED = UNUSED_WEIGHTS | {
    f"{name}.{weight}" for name in ("wavlm", "wav2vec2", "unispeech_sat") for weight in UNUSED_WEIGHTS
}
