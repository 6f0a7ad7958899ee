"""T5-style relative position bias: a learned number per head and bucket of distance, added to attention scores."""

import math

import torch
from torch import Tensor, nn


def distance_buckets(distances: Tensor, *, buckets: int, max_distance: int) -> Tensor:
    """The bucket of each distance (query position minus key position, at least 0), int64 of the same shape.

    Half of the buckets hold one distance each; the others widen logarithmically up to `max_distance`, and everything
    farther shares the last one.

    Source: T5, section 2.1; equal to transformers' `T5Attention._relative_position_bucket(bidirectional=False)`.
    """
    exact = buckets // 2
    logarithmic = torch.log(distances.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (logarithmic * (buckets - exact)).long()).clamp(max=buckets - 1)
    return torch.where(distances < exact, distances, far)


class PositionBias(nn.Module):
    """One table per stage, shared by its layers."""

    def __init__(self, heads: int, *, buckets: int, max_distance: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, tokens: int) -> Tensor:
        """The bias of the distances 0 to tokens - 1: (heads, tokens)."""
        distances = torch.arange(tokens, device=self.weight.device)
        buckets = distance_buckets(distances, buckets=self.buckets, max_distance=self.max_distance)
        return self.weight[buckets].t()
