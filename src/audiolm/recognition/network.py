"""Our recogniser: an encoder's features, twice as many frames, a bidirectional GRU, letters by CTC."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from audiolm.checkpoint import StageCheckpoint
from audiolm.recognition.alphabet import BLANK, LETTERS, decode
from audiolm.semantic.conformer import SUBSAMPLING, ConformerEncoder
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.encoders import rebuild_encoder
from audiolm.untrusted.rebuilding import rebuilt
from audiolm.untrusted.values import LARGEST_SIZE, from_values, require_types, require_whole

MOST_LAYERS, MOST_UPSAMPLING = 32, 16


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of what stands on the encoder.

    Args:
        dim: width of the GRU, in each direction.
        layers: of the GRU.
        upsampling: letters' frames per frame of the encoder. English has about 15 letters a second, doubled ones need a blank
            between them and CTC wants some blanks more: 25 frames a second are too few, 50 suffice.
        dropout: between layers.
    """

    dim: int = 512
    layers: int = 3
    upsampling: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require_types(self)
        require_whole(self.dim, low=1, high=LARGEST_SIZE, what="dim of the recogniser's head")
        require_whole(self.layers, low=1, high=MOST_LAYERS, what="layers of the recogniser's head")
        require_whole(self.upsampling, low=1, high=MOST_UPSAMPLING, what="upsampling of the recogniser's head")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class CtcNetwork(nn.Module):
    """Log probabilities of letters, a distribution a frame. What follows a recording's end has no influence.

    Args:
        encoder: what makes the features, at its `layer`. Where it needs no gradient it stays in evaluation mode.
        config: of the rest.

    Source: CTC (Graves et al., 2006). The paper's recogniser is a Conformer Transducer-L trained on LibriSpeech's 960 hours;
    ours is small, and its error rates compare with nobody's.
    """

    def __init__(self, encoder: Encoder, config: HeadConfig) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        self.norm = nn.LayerNorm(encoder.dim)
        self.up = nn.Linear(encoder.dim, config.upsampling * config.dim)
        dropout = config.dropout if config.layers > 1 else 0.0  # torch has it between layers only, and warns of one
        self.gru = nn.GRU(config.dim, config.dim, config.layers, batch_first=True, bidirectional=True, dropout=dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.letters = nn.Linear(2 * config.dim, len(LETTERS) + 1)

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio it hears."""
        return self.encoder.sample_rate_hz

    def frames(self, samples: int) -> int:
        """Distributions that so many samples have."""
        return self.encoder.frames(samples) * self.config.upsampling

    def train(self, mode: bool = True) -> "CtcNetwork":
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.train(mode and any(parameter.requires_grad for parameter in self.encoder.parameters()))
        return self

    def fine_tune(self) -> None:
        """Let the encoder learn too, up to its layer; what lies above is never heard.

        Raises:
            ValueError: if it is not one that is trained here.
        """
        if not isinstance(self.encoder, ConformerEncoder):
            raise ValueError(
                f"fine_tune is for encoders of the encoder stage; {type(self.encoder).__name__} stays as it is: fine_tune: false"
            )
        for part in (self.encoder.subsampling, *self.encoder.blocks[: self.encoder.layer]):
            part.requires_grad_(True)

    def forward(
        self, audio: Tensor, samples: Tensor | None = None, *, change: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute log probabilities.

        Args:
            audio: (batch, samples) float32 mono at `sample_rate_hz`.
            samples: (batch,) how many of each row are real; by default all.
            change: what is done to raw log spectra (batch, steps, bins) before a trained encoder hears them: augmentation.

        Returns:
            (batch, frames, letters + 1) float32, the blank first, and (batch,) how many frames of each row are real; what
            stands in later ones means nothing.
        """
        if samples is None:
            samples = torch.full((len(audio),), audio.shape[1], device=audio.device)
        features = self._features(audio, samples, change)
        x = F.gelu(self.up(self.norm(features)))
        x = rearrange(x, "batch frames (times dim) -> batch (frames times) dim", times=self.config.upsampling)
        frames = -(-samples // self.encoder.hop_samples) * self.config.upsampling
        with torch.autocast(audio.device.type, enabled=False):
            packed = pack_padded_sequence(self.dropout(x.float()), frames.cpu(), batch_first=True, enforce_sorted=False)
            heard, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
            return self.letters(self.dropout(heard)).log_softmax(-1), frames

    def _features(self, audio: Tensor, samples: Tensor, change: Callable[[Tensor], Tensor] | None) -> Tensor:
        encoder = self.encoder
        if change is None or not isinstance(encoder, ConformerEncoder):
            return encoder(audio, samples)
        inside = (
            torch.arange(encoder.frames(audio.shape[1]), device=audio.device)
            < -(-samples // encoder.hop_samples)[:, None]
        )
        real = torch.arange(audio.shape[1], device=audio.device) < samples[:, None]
        raw = encoder.spectrogram.raw(audio.float().masked_fill(~real, 0.0), steps=SUBSAMPLING * inside.shape[1])
        x = encoder.subsampling(encoder.spectrogram.normalize(change(raw)), inside)
        states = [x, *encoder.run_blocks(x, inside, range(encoder.layer))]
        return states[-1].float() * inside[..., None]

    @torch.no_grad()
    def transcribe(self, audio: Tensor, samples: Tensor | None = None) -> list[str]:
        """The letters of each row of (batch, samples): the likeliest of every frame (greedy decoding, no language model)."""
        scores, frames = self(audio, samples)
        paths = zip(scores.argmax(-1).tolist(), frames.tolist(), strict=True)
        return [decode(path[:count]) for path, count in paths]

    def config_dict(self) -> dict[str, Any]:
        """Plain values from which `rebuild_recogniser` makes the same network, weights aside."""
        return {"encoder": self.encoder.config_dict(), "head": asdict(self.config), "letters": LETTERS}


def letter_losses(scores: Tensor, frames: Tensor, targets: Tensor, letters: Tensor) -> Tensor:
    """The CTC loss of each row, in nats per letter.

    Args:
        scores: (batch, frames, letters + 1) log probabilities.
        frames: (batch,) how many are real.
        targets: (batch, longest) ids of the letters; what stands after a row's own means nothing.
        letters: (batch,) how many letters.

    Returns:
        (batch,); infinite where there are more letters than frames can hold.
    """
    total = F.ctc_loss(scores.transpose(0, 1), targets, frames, letters, blank=BLANK, reduction="none")
    return total / letters


def rebuild_recogniser(checkpoint: StageCheckpoint) -> CtcNetwork:
    """The network of an asr stage's checkpoint, frozen and ready to use.

    Raises:
        ValueError: if its configuration or weights are not those of a recogniser, or it writes other letters.
    """
    config = checkpoint.config
    if set(config) != {"encoder", "head", "letters"} or config["letters"] != LETTERS:
        raise ValueError("this checkpoint of the asr stage has another form or other letters: made by another version?")

    def make() -> CtcNetwork:
        head = from_values(HeadConfig, config["head"], source="the configuration of the recogniser")
        return CtcNetwork(rebuild_encoder(config["encoder"]), head)

    return rebuilt(make, checkpoint.weights, what="the recogniser").requires_grad_(False).eval()
