"""Public encoders through transformers: HuBERT, WavLM, wav2vec 2.0, w2v-BERT 2.0, by name or from a folder."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.compliance.kaldi import fbank

from audiolm.checkpoint import plain
from audiolm.semantic.encoder import Encoder

WAVEFORM_MODELS = ("hubert", "wavlm", "wav2vec2")
SPECTROGRAM_MODELS = ("wav2vec2-bert",)
TAIL_SAMPLES = 80  # receptive field 400, stride 320: with 80 samples more, T samples give exactly T / 320 frames


class PretrainedEncoder(Encoder):
    """One layer of a public self-supervised model, 50 frames per second at 16 kHz.

    The checkpoint that uses it holds its weights too, so tokenizing and generating need no download.

    Args:
        model_config: the transformers configuration as plain values (`model_type` included).
        layer: which hidden state: 0 is the input of the first layer, n the output of layer n.
        normalize: give every utterance zero mean and unit variance first, as the model's feature extractor says.

    Raises:
        ValueError: for a model type we do not know how to align, or a layer that it does not have.

    Source: AudioLM, section IV-B uses layer 7 of w2v-BERT XL, which was never released; these take its place.
    """

    sample_rate_hz = 16000
    rate_hz = 50

    def __init__(self, model_config: dict[str, Any], *, layer: int, normalize: bool) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        kind = model_config.get("model_type")
        if kind not in WAVEFORM_MODELS + SPECTROGRAM_MODELS:
            raise ValueError(
                f"An encoder of type {kind!r} is not supported: its frames cannot be aligned with the audio. "
                f"Use one of {', '.join(WAVEFORM_MODELS + SPECTROGRAM_MODELS)}."
            )
        self.model_config, self.layer, self.normalize = model_config, layer, normalize
        self.layers = int(model_config["num_hidden_layers"])
        self.check_layers([layer])
        self.model = AutoModel.from_config(AutoConfig.for_model(**model_config))
        self.dim = int(model_config["hidden_size"])
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, name: str, *, layer: int) -> "PretrainedEncoder":
        """Load a published model by name, or from a folder that `save_pretrained` wrote.

        Raises:
            FileNotFoundError: if it cannot be found here nor downloaded.
        """
        from transformers import AutoFeatureExtractor, AutoModel

        try:
            model = AutoModel.from_pretrained(name)
        except OSError as error:
            raise FileNotFoundError(
                f"The encoder {name!r} is neither a folder with a transformers model nor can it be downloaded: "
                f"{str(error).splitlines()[0]}. Without network, download it elsewhere and name its folder."
            ) from error
        try:
            normalize = bool(getattr(AutoFeatureExtractor.from_pretrained(name), "do_normalize", False))
        except (
            OSError,
            ValueError,
        ):  # a folder with a model alone: these published models normalise if their layers do
            normalize = getattr(model.config, "feat_extract_norm", "") == "layer"
        encoder = cls(plain(model.config.to_dict()), layer=layer, normalize=normalize)
        encoder.model.load_state_dict(model.state_dict())
        return encoder

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """Stays in evaluation mode: it is frozen."""
        return super().train(False)

    @torch.no_grad()
    def _hidden_states(self, audio: Tensor, samples: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Recordings of equal length go through the model together, so that none is padded."""
        states = [audio.new_zeros(len(audio), self.frames(audio.shape[1]), self.dim) for _ in layers]
        for count in samples.unique().tolist():
            rows = torch.nonzero(samples == count)[:, 0]
            for state, hidden in zip(states, self._of_equal_length(audio[rows, :count], layers), strict=True):
                state[rows, : hidden.shape[1]] = hidden.float()
        return states

    def _of_equal_length(self, audio: Tensor, layers: Sequence[int]) -> list[Tensor]:
        frames = self.frames(audio.shape[1])
        audio = F.pad(audio, (0, frames * self.hop_samples - audio.shape[1]))
        if self.model_config["model_type"] in WAVEFORM_MODELS:
            if self.normalize:
                deviation = (audio.var(1, keepdim=True, unbiased=False) + 1e-7).sqrt()
                audio = (audio - audio.mean(1, keepdim=True)) / deviation
            inputs = {"input_values": F.pad(audio, (0, TAIL_SAMPLES))}
        else:
            inputs = {"input_features": self._spectrogram(F.pad(audio, (0, TAIL_SAMPLES)))}
        hidden = self.model(**inputs, output_hidden_states=True).hidden_states
        assert hidden[0].shape[1] == frames, (
            f"{hidden[0].shape[1]} frames for {audio.shape[1]} samples, expected {frames}"
        )
        return [hidden[layer] for layer in layers]

    @staticmethod
    def _spectrogram(audio: Tensor) -> Tensor:
        """(batch, frames, 160): 80-bin log-mel every 10 ms, normalised per utterance and bin, two steps stacked.

        An odd last step is completed with zeros, the mean.

        Source: the SeamlessM4T feature extractor of transformers, which w2v-BERT 2.0 was trained with.
        """
        stacked = []
        for row in audio * 2**15:  # Kaldi's filterbank works on 16-bit amplitudes
            mel = fbank(
                row[None],
                num_mel_bins=80,
                window_type="povey",
                frame_length=25.0,
                sample_frequency=16000,
                preemphasis_coefficient=0.97,
                remove_dc_offset=True,
                dither=0.0,
            )
            mel = (mel - mel.mean(0)) / (mel.var(0, unbiased=True) + 1e-7).sqrt()
            stacked.append(F.pad(mel, (0, 0, 0, len(mel) % 2)).reshape(-1, 160))
        return torch.stack(stacked)

    def config_dict(self) -> dict[str, Any]:
        """See `Encoder.config_dict`."""
        return {
            "kind": "pretrained",
            "model_config": self.model_config,
            "layer": self.layer,
            "normalize": self.normalize,
        }
