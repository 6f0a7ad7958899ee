"""The encoder that is trained here: log-mel spectra, convolutional subsampling to 25 Hz, Conformer blocks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from audiolm.semantic.encoder import Encoder
from audiolm.semantic.spectrogram import STEP_RATE_HZ, LogMel
from audiolm.untrusted.values import require_types

MOST_MEL_BINS = 1024
SUBSAMPLING = 4  # two convolutions of stride 2: 10 ms -> 40 ms


@dataclass(frozen=True)
class ConformerConfig:
    """Sizes of the encoder. The defaults are those of w2v-BERT XL.

    Args:
        dim: width of the blocks.
        contrastive_layers: blocks of the first module, which w2v-BERT's contrastive loss trains; BEST-RQ does not
            distinguish the two modules.
        masked_layers: blocks of the second module, on top of the first.
        heads: attention heads.
        feed_forward: inner width of the feed-forward layers.
        kernel: of the depthwise convolutions, in frames of 40 ms; odd.
        subsampling_channels: of the two convolutions in front.
        mel_bins: of the spectra.
        dropout: on every residual branch and on attention weights.

    Source: w2v-BERT (arXiv 2108.06209), section III and table I: 12 + 12 Conformer blocks of width 1024, 0.6 B parameters.
    """

    dim: int = 1024
    contrastive_layers: int = 12
    masked_layers: int = 12
    heads: int = 8
    feed_forward: int = 4096
    kernel: int = 5
    subsampling_channels: int = 128
    mel_bins: int = 80
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require_types(self)
        sizes = (self.dim, self.heads, self.feed_forward, self.kernel, self.subsampling_channels, self.mel_bins)
        if min(sizes) < 1 or self.mel_bins > MOST_MEL_BINS:
            raise ValueError(f"sizes must be at least 1 and mel_bins at most {MOST_MEL_BINS}, got {sizes}")
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"dim must be a multiple of twice the heads (rotary positions), got {self.dim} and {self.heads}"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        if self.mel_bins % SUBSAMPLING:
            raise ValueError(f"mel_bins must be a multiple of {SUBSAMPLING}, got {self.mel_bins}")
        if min(self.contrastive_layers, self.masked_layers) < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"Each module needs a layer and dropout must be in [0, 1), got {self.contrastive_layers} and "
                f"{self.masked_layers} layers, dropout {self.dropout}"
            )

    @property
    def layers(self) -> int:
        """Blocks of both modules."""
        return self.contrastive_layers + self.masked_layers

    @property
    def usual_layer(self) -> int:
        """The paper's choice, layer 7 of 12 of the masked-prediction module, in proportion."""
        return self.contrastive_layers + max(1, round(self.masked_layers * 7 / 12))


class Subsampling(nn.Module):
    """(batch, 4 frames, bins) -> (batch, frames, dim): two convolutions of stride 2 x 2, and a projection."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        channels = config.subsampling_channels
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.project = nn.Linear(channels * config.mel_bins // SUBSAMPLING, config.dim)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, spectra: Tensor, inside: Tensor) -> Tensor:
        """`inside` (batch, frames) bool: frames that are real; what follows them is zero, and has no influence."""
        fine = inside.repeat_interleave(SUBSAMPLING, 1)
        x = rearrange(spectra * fine[..., None], "batch steps bins -> batch 1 steps bins")
        x = F.gelu(self.first(x)) * inside.repeat_interleave(2, 1)[:, None, :, None]
        x = F.gelu(self.second(x))
        x = self.norm(self.project(rearrange(x, "batch channels frames bins -> batch frames (channels bins)")))
        return x * inside[..., None]


class ConformerEncoder(Encoder):
    """The encoder of the `encoder` stage: 25 frames per second at 16 kHz.

    Layer 0 is what the subsampling gives, layer n the output of block n; the blocks of the contrastive module come first.

    Args:
        config: its sizes.
        layer: which layer `forward` gives; by default `config.usual_layer`.

    Source: w2v-BERT (arXiv 2108.06209), section III-A. The blocks are transformers' (w2v-BERT 2.0: rotary positions,
    layer norm instead of batch norm, depthwise convolutions of the past), which ignore what lies behind a recording's end.
    """

    sample_rate_hz = 16000
    rate_hz = STEP_RATE_HZ // SUBSAMPLING

    def __init__(self, config: ConformerConfig, *, layer: int | None = None) -> None:
        super().__init__()
        from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertEncoderLayer

        self.config, self.dim, self.layers = config, config.dim, config.layers
        self.layer = config.usual_layer if layer is None else layer
        self.check_layers([self.layer])
        self.spectrogram = LogMel(bins=config.mel_bins, sample_rate_hz=self.sample_rate_hz)
        self.subsampling = Subsampling(config)
        block_config = _block_config(config)
        self.blocks = nn.ModuleList(Wav2Vec2BertEncoderLayer(block_config) for _ in range(config.layers))

    def _hidden_states(self, audio: Tensor, samples: Tensor, layers: Sequence[int]) -> list[Tensor]:
        frames = -(-samples // self.hop_samples)
        inside = torch.arange(self.frames(audio.shape[1]), device=audio.device) < frames[:, None]
        spectra = self.spectrogram(audio, steps=SUBSAMPLING * inside.shape[1])
        deepest = max(layers)
        states = [self.subsampling(spectra, inside)]
        states += self.run_blocks(states[0], inside, range(deepest))
        return [states[layer] for layer in layers]

    def run_blocks(self, x: Tensor, inside: Tensor, numbers: Sequence[int]) -> list[Tensor]:
        """Each block's output (batch, frames, dim), of blocks counted from 0; `inside` (batch, frames) bool."""
        positions = rotary_positions(x.shape[1], self.config.dim // self.config.heads, like=x)
        attended = None if inside.all() else inside[:, None, None, :]
        outputs = []
        for number in numbers:
            x = self.blocks[number](
                x, attention_mask=attended, relative_position_embeddings=positions, conv_attention_mask=inside
            )
            outputs.append(x)
        return outputs

    def config_dict(self) -> dict[str, Any]:
        """See `Encoder.config_dict`."""
        return {"kind": "conformer", "config": asdict(self.config), "layer": self.layer}


def rotary_positions(frames: int, head_dim: int, *, like: Tensor) -> Tensor:
    """Cosines and sines (2, frames, 1, 1, head_dim) by which the blocks rotate queries and keys.

    transformers' own class keeps them from one call to the next, in the precision and on the device of the first.

    Source: RoFormer (arXiv 2104.09864), base 10000.
    """
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, device=like.device) / head_dim)
    angles = torch.arange(frames, device=like.device)[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)[:, None, None]
    return torch.stack([angles.cos(), angles.sin()]).to(like.dtype)


def _block_config(config: ConformerConfig) -> Any:
    from transformers import Wav2Vec2BertConfig

    block_config = Wav2Vec2BertConfig(
        hidden_size=config.dim,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward,
        conv_depthwise_kernel_size=config.kernel,
        position_embeddings_type="rotary",
        hidden_act="swish",
        hidden_dropout=config.dropout,
        activation_dropout=0.0,
        attention_dropout=config.dropout,
        conformer_conv_dropout=config.dropout,
    )
    block_config._attn_implementation = "sdpa"
    return block_config
