"""Public codecs through transformers: EnCodec, DAC and Mimi, by name or from a folder."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm.checkpoint import StageCheckpoint, plain
from audiolm.codec.codec import Codec
from audiolm.untrusted.public_folders import require_fits_files, require_harmless, require_sound_folder
from audiolm.untrusted.rebuilding import rebuilt
from audiolm.untrusted.values import require_whole

SUPPORTED = ("encodec", "dac", "mimi")
MOST_LEVELS = 32
WINDOW_SECONDS = 30.0  # what is longer is processed in windows of this length
CONTEXT_SECONDS = 2.0  # of which so much at either end is only context


class PretrainedCodec(Codec):
    """A public codec, frozen, at its own rates. The checkpoint that uses it holds its weights, so later stages need no
    download.

    Frames: audio is completed with silence to whole frames, and of T frames all three models make T latents. EnCodec and
    Mimi are causal (except EnCodec's 32 kHz model) and give back T * hop_samples samples; frame i is made from, and is
    heard in, the samples from i * hop_samples on. DAC is centred on its frames; where a stride is odd it gives back a few
    samples less (8 of 320 * T with strides 2, 4, 5, 8), all of them at the end: silence takes their place.

    Long audio: up to 30 s are processed whole, more in windows of 30 s. 2 s at either end of a window are context that the
    neighbouring window delivers. DAC hears no further than that, so its codes are those of the whole. EnCodec's LSTM and
    Mimi's attention remember longer: their codes, and the audio made from codes, may differ a little from those of the
    whole, most of all just behind the border of two windows.

    Args:
        model_config: the transformers configuration as plain values (`model_type` included).
        levels: how many of the model's quantizers are used, coarsest first; by default all it has, at most 32.

    Raises:
        ValueError: for a model type we cannot align, a stereo or normalising model, or levels that it does not have.

    Source: EnCodec (arXiv 2210.13438), DAC (arXiv 2306.06546), Mimi (Moshi, arXiv 2410.00037).
    """

    def __init__(self, model_config: dict[str, Any], *, levels: int | None = None) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        require_harmless(model_config, what="the configuration of the codec")
        kind = _checked(model_config)["model_type"]
        self.config = AutoConfig.for_model(**model_config)
        most = min(MOST_LEVELS, int(self.config.n_codebooks if kind == "dac" else self.config.num_quantizers))
        if levels is None:
            levels = most
        if not 1 <= levels <= most:
            raise ValueError(f"This {kind} model has {most} levels: ask for 1 to {most}, not {levels}")
        self.model_config, self.kind, self._levels = model_config, kind, levels
        self.model = AutoModel.from_config(self.config).float()
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, name: str, *, levels: int | None = None) -> "PretrainedCodec":
        """Load a published model by name, or from a folder that `save_pretrained` wrote.

        Raises:
            FileNotFoundError: if it cannot be found here nor downloaded.
            ValueError: as the class.
        """
        from transformers import AutoConfig, AutoModel

        try:
            require_sound_folder(name)
            found = AutoConfig.from_pretrained(name, trust_remote_code=False)
            config = _plain_config(found)
            require_harmless(config, what=f"the configuration of {name!r}")
            _checked(config)  # before its weights are downloaded
            require_fits_files(name, found)
            model = AutoModel.from_pretrained(name, trust_remote_code=False, weights_only=True)
        except OSError as error:
            raise FileNotFoundError(
                f"The codec {name!r} is neither a folder with a transformers model nor can it be downloaded: "
                f"{str(error).splitlines()[0].rstrip('.')}. Without network, download it elsewhere and name its folder."
            ) from error
        except Exception as error:  # its classes check their values in many ways
            if isinstance(error, ValueError):
                raise
            raise ValueError(
                f"The codec {name!r} is damaged, or its weights do not fit its config.json: {str(error)[:200]}"
            ) from error
        codec = cls(config, levels=levels)
        codec.model.load_state_dict(model.state_dict())
        return codec

    @classmethod
    def from_checkpoint(cls, checkpoint: StageCheckpoint) -> "PretrainedCodec":
        """Rebuild the codec of a codec stage's checkpoint, without download.

        Raises:
            ValueError: if weights and configuration do not fit each other.
        """
        config = checkpoint.config
        if set(config) != {"kind", "model_config", "levels"}:
            raise ValueError(
                f"a public codec has the values kind, levels and model_config, found {sorted(config)[:20]}"
            )
        require_whole(config["levels"], low=1, high=MOST_LEVELS, what="levels of the codec")
        return rebuilt(
            lambda: cls(config["model_config"], levels=config["levels"]), checkpoint.weights, what="the codec"
        )

    @property
    def sample_rate_hz(self) -> int:
        return int(self.config.sampling_rate)

    @property
    def hop_samples(self) -> int:
        if self.kind == "mimi":  # 960 * 2: 12.5 frames per second
            return math.prod(self.config.upsampling_ratios) * int(self.config.latent_stride)
        return int(self.config.hop_length)

    @property
    def levels(self) -> int:
        return self._levels

    @property
    def codebook_size(self) -> int:
        return int(self.config.codebook_size)

    def train(self, mode: bool = True) -> "PretrainedCodec":
        """Stays in evaluation mode: it is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """See `Codec.encode`; how long audio is divided stands with the class."""
        self._check_audio(audio)
        hop = self.hop_samples
        audio = F.pad(audio.float(), (0, -audio.size(1) % hop))[:, None]
        codes = []
        for taken, kept in self._windows(audio.size(2) // hop):
            found = self._codes(audio[..., taken.start * hop : taken.stop * hop])
            expected = (len(audio), self.levels, taken.stop - taken.start)
            assert found.shape == expected, f"codes {tuple(found.shape)}, expected {expected}"
            codes.append(found[..., kept])
        return torch.cat(codes, dim=2)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """See `Codec.decode`; how long audio is divided stands with the class."""
        self._check_codes(codes)
        hop, audio = self.hop_samples, []
        for taken, kept in self._windows(codes.size(2)):
            found = self.model.decoder(self.embed(codes[..., taken]))
            wave = (found if isinstance(found, Tensor) else found.audio_values)[:, 0]
            missing = (taken.stop - taken.start) * hop - wave.size(1)
            assert 0 <= missing < hop, f"{wave.size(1)} samples for {taken.stop - taken.start} frames of {hop}"
            audio.append(F.pad(wave, (0, missing))[:, kept.start * hop : kept.stop * hop].float())
        return torch.cat(audio, dim=1)

    @torch.no_grad()
    def embed(self, codes: Tensor) -> Tensor:
        """See `Codec.embed`."""
        self._check_codes(codes)
        quantizer, codes = self.model.quantizer, codes.long()
        if self.kind == "dac":
            return quantizer.from_codes(codes)[0]
        return quantizer.decode(codes.transpose(0, 1) if self.kind == "encodec" else codes)

    def config_dict(self) -> dict[str, Any]:
        """See `Codec.config_dict`."""
        return {"kind": "pretrained", "model_config": self.model_config, "levels": self.levels}

    def _codes(self, audio: Tensor) -> Tensor:
        """(batch, levels, frames) of audio (batch, 1, frames * hop_samples), whole."""
        if self.kind == "dac":
            return self.model.encode(audio, n_quantizers=self.levels).audio_codes
        if self.kind == "encodec":  # asked for by bandwidth: take the smallest that has the levels
            count = self.model.quantizer.get_num_quantizers_for_bandwidth
            bandwidth = min(value for value in self.config.target_bandwidths if count(value) >= self.levels)
            return self.model.encode(audio, bandwidth=bandwidth).audio_codes[0, :, : self.levels]
        asked = max(self.levels, self.config.num_semantic_quantizers)
        return self.model.encode(audio, num_quantizers=asked).audio_codes[:, : self.levels]

    def _windows(self, frames: int) -> Iterator[tuple[slice, slice]]:
        """Which frames are processed together, and which of those are kept."""
        window, context = (
            max(1, round(seconds * self.sample_rate_hz / self.hop_samples))
            for seconds in (WINDOW_SECONDS, CONTEXT_SECONDS)
        )
        if frames <= window:
            yield slice(0, frames), slice(0, frames)
            return
        step = window - 2 * context
        for start in range(0, frames, step):
            first, stop = max(0, start - context), min(frames, start + step)
            yield slice(first, min(frames, stop + context)), slice(start - first, stop - first)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PretrainedCodec":
        """Moving to another device: Mimi keeps its codebooks in a cache that would stay behind."""
        for module in self.modules():
            if hasattr(module, "_embed"):
                module._embed = None  # type: ignore[assignment]
        return super()._apply(fn, recurse)


def _plain_config(config: Any) -> dict[str, Any]:
    """What makes the model and nothing else: neither the folder it came from nor the version that read it."""
    values = {
        key: plain(value) for key, value in config.to_dict().items() if key[0] != "_" and key != "transformers_version"
    }
    if config.model_type == "mimi":
        values["frame_rate"] = config.frame_rate  # a property there
    return values


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    kind = config.get("model_type")
    if kind not in SUPPORTED:
        raise ValueError(f"A codec of type {kind!r} is not supported. Use one of {', '.join(SUPPORTED)}.")
    if config.get("audio_channels", 1) != 1 or config.get("normalize") or config.get("chunk_length_s") is not None:
        raise ValueError(
            f"This {kind} model is stereo, normalises its input or cuts it into chunks of its own: its codes alone do not "
            "give the audio back. Use a mono one, such as facebook/encodec_24khz."
        )
    require_whole(
        config.get("codebook_size"), low=2, high=2**16, what="codebook_size (tokens are stored as 16-bit numbers)"
    )
    return config
