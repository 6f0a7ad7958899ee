"""One block's part of a decoding step."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, layer_norm

from audiolm.lm.attention import Attend


class StepWeights(NamedTuple):
    """Views of a block's weights; the matrices (inputs, outputs)."""

    heads: int
    attention_scale: Tensor
    attention_shift: Tensor
    feed_forward_scale: Tensor
    feed_forward_shift: Tensor
    query_key_value: Tensor
    attention_output: Tensor
    feed_forward_input: Tensor
    feed_forward_output: Tensor


def step(x: Tensor, weights: StepWeights, attend: Attend) -> Tensor:
    """What `Block.forward` does without dropout, for one token per row: (batch, dim) -> the same.

    In as few calls as can be: for small models a call costs as much as what it computes.
    """
    (heads, scale, shift, next_scale, next_shift, qkv, output, wider, narrower), (batch, dim) = weights, x.shape
    mixed = attend(*(layer_norm(x, (dim,), scale, shift) @ qkv).view(batch, heads, 3, 1, dim // heads).unbind(2))
    x = torch.addmm(x, mixed.view(batch, dim), output)
    return torch.addmm(x, F.gelu(layer_norm(x, (dim,), next_scale, next_shift) @ wider), narrower)
