"""Units found again in audio with a seam in it: those before it and those after it."""

import math

import torch
from torch import Tensor

from audiolm.semantic.tokenizer import SemanticTokenizer


@torch.inference_mode()
def heard_units(
    tokenizer: SemanticTokenizer, before: Tensor, after: Tensor, *, sample_rate_hz: int
) -> tuple[Tensor, Tensor]:
    """Units (frames,), with repeats, on either side of a seam; both sides are heard together, as one recording.

    The frame that the seam lies in counts as before it.

    Args:
        before, after: (samples,) float32 at `sample_rate_hz`, which need not be the tokenizer's.
    """
    audio = torch.cat([before, after])[None].to(tokenizer.mean.device)
    units = tokenizer.encode(audio, sample_rate_hz=sample_rate_hz)[0].cpu()
    first = math.ceil(len(before) * tokenizer.rate_hz / sample_rate_hz)
    return units[:first], units[first:]
