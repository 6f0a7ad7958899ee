"""SoundStream: a causal neural codec, waveform to residual-VQ codes and back."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm.checkpoint import StageCheckpoint
from audiolm.codec.codec import Codec
from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.layers import Decoder, Encoder, NormalisedWeight
from audiolm.codec.quantizer import Quantized, ResidualQuantizer

CHUNK_FRAMES = 1500  # encoded or decoded at a time: 30 s at 50 Hz, which bounds memory for recordings of any length


@dataclass(frozen=True)
class Reconstruction:
    """What one training pass gives."""

    audio: Tensor  # (batch, samples), as long as the input
    quantized: Quantized


class SoundStream(Codec):
    """Encoder, residual quantizer, decoder. `forward` trains; `encode` and `decode` use what was learned.

    Strictly causal, the left edge included: a frame depends on no sample after its own end, a decoded sample on no
    frame after its own.

    Source: SoundStream (arXiv 2107.03312), section III; sizes as in AudioLM, section IV-B. Left out: the denoising
    (FiLM) conditioning, which AudioLM does not use.
    """

    def __init__(self, config: SoundStreamConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SoundStreamConfig()
        self.encoder = Encoder(channels=config.channels, dim=config.dim, strides=config.strides)
        self.quantizer = ResidualQuantizer(
            levels=config.levels,
            codebook_size=config.codebook_size,
            dim=config.dim,
            decay=config.ema_decay,
            dead_fraction=config.dead_fraction,
            pool_frames=config.pool_factor * config.codebook_size,
            dropout=config.quantizer_dropout,
        )
        self.decoder = Decoder(channels=config.channels, dim=config.dim, strides=config.strides)

    @classmethod
    def from_checkpoint(cls, checkpoint: StageCheckpoint) -> "SoundStream":
        """The trained codec of a codec stage's checkpoint, ready for inference.

        Raises:
            ValueError: if configuration or weights are not those of this codec.
        """
        codec = cls(SoundStreamConfig.from_dict({k: v for k, v in checkpoint.config.items() if k != "kind"}))
        try:
            codec.load_state_dict(checkpoint.weights)
        except RuntimeError as error:
            raise ValueError(
                f"the weights of the codec do not fit its configuration {checkpoint.config}: {error}"
            ) from error
        return codec.fold_weights()

    @property
    def sample_rate_hz(self) -> int:
        return self.config.sample_rate_hz

    @property
    def hop_samples(self) -> int:
        return self.config.hop_samples

    @property
    def levels(self) -> int:
        return self.config.levels

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    def forward(self, audio: Tensor, *, active_levels: Tensor | None = None) -> Reconstruction:
        """Reconstruct `audio` (batch, samples) with gradients; see `ResidualQuantizer.forward` for `active_levels`."""
        latents = self.encoder(self._whole_frames(audio))
        quantized = self.quantizer(latents, active_levels=active_levels)
        return Reconstruction(self.decoder(quantized.latents)[:, : audio.size(1)], quantized)

    @torch.no_grad()
    def encode(self, audio: Tensor, *, chunk_frames: int = CHUNK_FRAMES) -> Tensor:
        """Turn waveforms into residual-VQ codes.

        Args:
            audio: (batch, samples) float in [-1, 1], mono, at `self.sample_rate_hz`, at least one sample.
            chunk_frames: frames encoded at a time. Each chunk is given the audio it depends on before it, so the
                codes do
                not depend on this number; memory does.

        Returns:
            (batch, levels, frames) int64 in [0, codebook_size), coarsest level first, frames = ceil(samples /
            hop_samples). A last partial frame is completed with silence.

        Raises:
            ValueError: if `audio` is not of that shape and type, holds NaN or infinity, or the codec was never trained.

        Source: SoundStream, section III. Causal: a frame depends on no sample after its own end.
        """
        self._check_audio(audio)
        self._check_trained()
        audio, hop, context = self._whole_frames(audio), self.hop_samples, self.encoder.context_frames
        codes = []
        for start in range(0, audio.size(1) // hop, chunk_frames):
            first = max(0, start - context)
            latents = self.encoder(audio[:, first * hop : (start + chunk_frames) * hop])
            codes.append(self.quantizer.encode(latents[..., start - first :]))
        return torch.cat(codes, dim=2)

    @torch.no_grad()
    def decode(self, codes: Tensor, *, chunk_frames: int = CHUNK_FRAMES) -> Tensor:
        """Turn codes into waveforms; any prefix of the levels gives the whole signal, the coarser the shorter.

        Args:
            codes: (batch, 1 to `levels` levels, frames) integers in [0, codebook_size), coarsest level first.
            chunk_frames: frames decoded at a time; the audio does not depend on it.

        Returns:
            (batch, frames * hop_samples) float32.

        Raises:
            ValueError: if `codes` has another shape or type, or holds a code outside the codebook.
        """
        self._check_codes(codes)
        self._check_trained()
        hop, context = self.hop_samples, self.decoder.context_frames
        audio = []
        for start in range(0, codes.size(2), chunk_frames):
            first = max(0, start - context)
            latents = self.quantizer.decode(codes[..., first : start + chunk_frames].long())
            audio.append(self.decoder(latents)[:, (start - first) * hop :].float())
        return torch.cat(audio, dim=1)

    def embed(self, codes: Tensor) -> Tensor:
        """See `Codec.embed`."""
        self._check_codes(codes)
        return self.quantizer.decode(codes.long())

    def config_dict(self) -> dict[str, Any]:
        """See `Codec.config_dict`."""
        return {"kind": "soundstream", **self.config.as_dict()}

    def fold_weights(self) -> "SoundStream":
        """Multiply the weight normalisation out, once, for faster inference; either kind's weights load into either."""
        for module in self.modules():
            if isinstance(module, NormalisedWeight):
                module.fold()
        return self.eval().requires_grad_(False)

    def _whole_frames(self, audio: Tensor) -> Tensor:
        return F.pad(audio, (0, -audio.size(1) % self.hop_samples))

    def _check_trained(self) -> None:
        if not self.quantizer.ready:
            raise ValueError(
                "this codec has no codebooks yet: they are initialised after "
                f"{self.quantizer.pool_frames} training frames. Load trained weights, or train longer (`make codec`)."
            )
