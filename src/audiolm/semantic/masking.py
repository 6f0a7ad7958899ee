"""Which frames a masked encoder may not see."""

import torch
from torch import Tensor

from audiolm.processes import Draws

SPAN_FRAMES = 10  # 400 ms at 25 Hz


def span_mask(inside: Tensor, *, probability: float, draws: Draws, span: int = SPAN_FRAMES) -> Tensor:
    """Draw spans to mask.

    Args:
        inside: (batch, frames) bool: frames that are real.
        probability: of a span to begin at a frame; spans overlap.
        draws: of the rows, on their device.
        span: frames of a span.

    Returns:
        (batch, frames) bool. Every row has at least one masked frame, and one that is not masked if it has more than one.

    Source: w2v-BERT (arXiv 2108.06209), section III-B: probability 0.065, ten steps.
    """
    batch, frames = inside.shape
    lengths = inside.sum(1)
    starts = draws.uniform(frames) < probability
    one = (draws.uniform() * lengths).long()  # a row without any gets one
    starts[torch.arange(batch, device=inside.device), one] |= ~(starts & inside).any(1)
    counted = starts.long().cumsum(1)
    before = torch.nn.functional.pad(counted, (span, 0))[:, :frames]
    masked = (counted > before) & inside
    free = (draws.uniform() * lengths).long()  # a row that is masked throughout keeps one
    masked[torch.arange(batch, device=inside.device), free] &= ~((masked == inside).all(1) & (lengths > 1))
    return masked
