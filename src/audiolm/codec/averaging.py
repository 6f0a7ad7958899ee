"""A running average of a network's weights: steadier than the weights of any one step, and what later stages use."""

import torch
from torch import nn

from audiolm.codec.quantizer import ResidualQuantizer


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, *, decay: float, step: int) -> None:
    """Move every weight of `average` a little towards `network`'s.

    Codebooks are averaged at the same pace as the encoder whose latents they round; an entry that was just replaced, and
    everything else that is no weight (counts, flags), is copied.

    Args:
        average: a copy of `network`, whose weights are moved in place.
        decay: 0.999 averages over about a thousand steps.
        step: steps done; early on the average is shorter, (1 + step) / (10 + step) at most.
    """
    rate = 1 - min(decay, (1 + step) / (10 + step))
    ours, theirs = dict(average.named_parameters()), dict(network.named_parameters())
    torch._foreach_lerp_(list(ours.values()), [theirs[name] for name in ours], rate)
    for mine, other in zip(average.modules(), network.modules(), strict=True):
        if isinstance(mine, ResidualQuantizer) and isinstance(other, ResidualQuantizer):
            mine.follow(other, rate=rate)
        else:
            for name, buffer in mine.named_buffers(recurse=False):
                buffer.copy_(getattr(other, name))
