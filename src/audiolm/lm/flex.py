"""Causal attention with a bias by distance as one kernel: flex attention, compiled on CUDA."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

BLOCK_TOKENS = 128  # of the kernel; lengths are padded to a multiple of it
CACHED_MASKS = 64  # 64 multiples of 128 reach to 8192 tokens, past every stage's window


def flex_attention_with(bias: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The attention of one forward pass, equal to the reference in output and in all four gradients.

    The scores exist only inside the kernel, whose blocks in the future are skipped. Off CUDA nothing is compiled: scores
    of tokens x tokens are kept then, and torch has no gradients there.

    The length is padded to a multiple of 128: with other lengths a mask together with a bias may give gradients that are
    no numbers (pytorch issue 153799), and fewer lengths are fewer masks and kernels. What is added lies in every query's
    future.

    Args:
        bias: (heads, tokens), by distance. Kept in at least float32, in which its gradient is summed.

    Returns:
        queries, keys, values (batch, heads, tokens, head_dim), of one dtype -> the same shape.
    """
    tokens = bias.size(1)
    added = -tokens % BLOCK_TOKENS
    by_distance = F.pad(bias.to(torch.promote_types(bias.dtype, torch.float32)), (0, added))
    mask = _causal_mask(tokens + added, str(bias.device))
    kernel = _kernel(compiled=bias.device.type == "cuda")

    def biased(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # the mask is applied after the bias: a key of the future must not read before the first distance
        return score + by_distance[head, (query - key).clamp(min=0)]

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        padded = [F.pad(tensor, (0, 0, 0, added)) for tensor in (queries, keys, values)]
        output: Tensor = kernel(*padded, score_mod=biased, block_mask=mask)
        return output[:, :, :tokens]

    return attend


@lru_cache(maxsize=2)
def _kernel(*, compiled: bool) -> Any:
    if not compiled:
        return flex_attention
    # one kernel per length; past the compiler's limit it would silently keep scores of tokens x tokens
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, CACHED_MASKS)
    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=CACHED_MASKS)
def _causal_mask(tokens: int, device: str) -> BlockMask:
    with torch.inference_mode(False):  # made while validating, it must serve training too
        return create_block_mask(_is_past, B=None, H=None, Q_LEN=tokens, KV_LEN=tokens, device=device)


def _is_past(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key
