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
from audiolm.codec.streaming import State, decode_frames, encode_frames
from audiolm.untrusted.rebuilding import rebuilt

CHUNK_FRAMES = 250  # encoded or decoded at a time: bounds memory; more than 5 s at 50 Hz fall out of the caches


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
        config = SoundStreamConfig.from_dict({k: v for k, v in checkpoint.config.items() if k != "kind"})
        return rebuilt(lambda: cls(config), checkpoint.weights, what="the codec").fold_weights()

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
        """Turn waveforms into residual-VQ codes; see `Codec.encode`, and `streaming.EncoderStream` for live audio.

        Args:
            audio: (batch, samples) float in [-1, 1], mono, at `self.sample_rate_hz`, at least one sample.
            chunk_frames: frames encoded at a time. The codes do not depend on this number; memory does.

        Returns:
            (batch, levels, frames) int64 in [0, codebook_size), coarsest level first, frames = ceil(samples /
            hop_samples). A last partial frame is completed with silence.

        Raises:
            ValueError: if `audio` is not of that shape and type, holds NaN or infinity, or the codec was never trained.

        Source: SoundStream, section III. Causal: a frame depends on no sample after its own end.
        """
        self._check_audio(audio)
        self.require_trained()
        state: State = {}
        chunks = self._whole_frames(audio).split(chunk_frames * self.hop_samples, dim=1)
        return torch.cat([self.quantizer.encode(encode_frames(self.encoder, chunk, state)) for chunk in chunks], dim=2)

    @torch.no_grad()
    def decode(self, codes: Tensor, *, chunk_frames: int = CHUNK_FRAMES) -> Tensor:
        """Turn codes into waveforms; see `Codec.decode`. Any prefix of the levels gives the whole signal, the coarser
        the shorter; the audio does not depend on `chunk_frames`, the frames decoded at a time (beyond the rounding of bfloat16).
        """
        self._check_codes(codes)
        self.require_trained()
        state: State = {}
        chunks = codes.long().split(chunk_frames, dim=2)
        return torch.cat([decode_frames(self.decoder, self.quantizer.decode(c), state) for c in chunks], dim=1)

    def embed(self, codes: Tensor) -> Tensor:
        """See `Codec.embed`."""
        self._check_codes(codes)
        return self.quantizer.decode(codes.long())

    def config_dict(self) -> dict[str, Any]:
        """See `Codec.config_dict`."""
        return {"kind": "soundstream", **self.config.as_dict()}

    def fold_weights(self, dtype: torch.dtype = torch.float32) -> "SoundStream":
        """Prepare for inference: multiply the weight normalisation out, freeze; either kind's weights load into either.

        Args:
            dtype: of the convolutions. `torch.bfloat16` is faster where the hardware multiplies it; 5 to 9 % of the codes
                of trained codecs then differ (SI-SDR of reconstructions: by less than 0.1 dB). Codebooks and distances
                stay float32.
        """
        for module in self.modules():
            if isinstance(module, NormalisedWeight):
                module.fold()
        self.encoder.to(dtype)
        self.decoder.to(dtype)
        return self.eval().requires_grad_(False)

    def _whole_frames(self, audio: Tensor) -> Tensor:
        return F.pad(audio, (0, -audio.size(1) % self.hop_samples))

    def require_trained(self) -> None:
        """Raise ValueError if there are no codebooks yet."""
        if not self.quantizer.ready:
            raise ValueError(
                "this codec has no codebooks yet: they are initialised after "
                f"{self.quantizer.pool_frames} training frames. Load trained weights, or train longer (`make codec`)."
            )
