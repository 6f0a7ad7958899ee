"""Causal attention with an additive bias by distance: the plain reference, and fast exact paths for training."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from audiolm.lm.flex import flex_attention_with

AttentionKind = Literal["auto", "reference", "blockwise", "flex"]
# queries, keys, values (batch, heads, tokens, head_dim) -> the same shape
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

LONG_TOKENS = 4096  # past it, a mask of heads x tokens x tokens takes gigabytes
BLOCK_TOKENS = 128  # 64 to 256 measured alike; the scores of one block stay in the processor's cache


def causal_attention(bias: Tensor | None, *, kind: AttentionKind) -> Attend:
    """Make the attention of one forward pass, shared by all layers so that the bias is prepared once.

    Args:
        bias: (heads, tokens), the bias of the distances 0 to tokens - 1; distance = query position - key position. None:
            without a bias, where scaled_dot_product_attention is fast by itself, whatever `kind` is.
        kind: `reference` is scaled_dot_product_attention with an additive mask; a learned bias sends it down the slow
            path that keeps batch x heads x tokens x tokens numbers per layer. `blockwise` gives the same output and
            gradients from blocks of queries; `flex` from one compiled kernel, on CUDA. `auto` takes blockwise on CPU,
            flex on CUDA where the bias learns, and the reference elsewhere: with a bias that does not learn it has a
            kernel that needs no compiling (but for more than 4096 tokens, where its mask would take gigabytes).
    """
    if bias is None:
        return partial(F.scaled_dot_product_attention, is_causal=True)
    if kind == "auto":
        kind = _fastest_kind(bias)
    if kind == "blockwise":
        return lambda queries, keys, values: blockwise_attention(queries, keys, values, bias)
    if kind == "flex":
        return flex_attention_with(bias)
    device = bias.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else bias.dtype
    mask = causal_bias(bias).to(dtype)  # once for all layers, which will ask in this dtype
    return lambda queries, keys, values: F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask.to(queries.dtype)
    )


def _fastest_kind(bias: Tensor) -> AttentionKind:
    if bias.device.type == "cpu" or (bias.size(1) > LONG_TOKENS and not bias.requires_grad):
        return "blockwise"
    return "flex" if bias.device.type == "cuda" and bias.requires_grad else "reference"


def causal_bias(bias: Tensor) -> Tensor:
    """Spread a bias by distance (heads, tokens) over queries and keys: (heads, tokens, tokens), -inf for the future."""
    position = torch.arange(bias.size(1), device=bias.device)
    distance = position[:, None] - position
    return bias[:, distance.clamp(min=0)].masked_fill(distance < 0, -torch.inf)


@torch.compiler.disable  # the compiler cannot follow the backward pass, and would spend minutes on the way
def blockwise_attention(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, *, block: int = BLOCK_TOKENS
) -> Tensor:
    """Causal attention over blocks of queries, equal to the reference in output and in all four gradients.

    Each block reads only the keys up to its own end, which halves the work, and the softmax is computed again in the
    backward pass, so that nothing of size tokens x tokens is kept. Any bias will do, also one that never levels off. In
    bfloat16 the scores are rounded too: 0.6 % off the exact result where the reference is 0.3 % off.

    Args:
        queries, keys, values: (batch, heads, tokens, head_dim), all of one dtype (float32, bfloat16 or float64).
        bias: (heads, tokens), by distance; cast to that dtype. Its gradient is summed in at least float32.

    Returns:
        (batch, heads, tokens, head_dim).
    """
    with torch.autocast(queries.device.type, enabled=False):  # the dtypes are decided: by autocast, in the projections
        return _Blockwise.apply(queries, keys, values, bias, block)


class _Blockwise(torch.autograd.Function):
    """Inside a block the queries stand in reverse order. Then the bias of row r and key j is entry r + j of one short
    array, so a block's bias is a strided view of it, and its gradient a sum along such a view: no index tables."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, block: int) -> Tensor:
        tokens, head_dim = queries.shape[2:]
        q, k, v = (queries * head_dim**-0.5).flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
        ramp = _ramp(bias, dtype=q.dtype, batch=len(queries), block=block)
        output = torch.empty_like(q, memory_format=torch.contiguous_format)
        for start in range(0, tokens, block):
            stop = min(start + block, tokens)
            weights = _block_weights(q[:, start:stop].flip(1), k[:, :stop], ramp, tokens=tokens)
            output[:, start:stop] = torch.bmm(weights, v[:, :stop]).flip(1)
        ctx.save_for_backward(q, k, v, bias)
        ctx.block = block
        return output.view(queries.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, bias = ctx.saved_tensors
        (heads, tokens), block = bias.shape, ctx.block
        batch, head_dim = len(q) // heads, q.size(-1)
        ramp = _ramp(bias, dtype=q.dtype, batch=batch, block=block)
        wide = torch.promote_types(q.dtype, torch.float32)
        gradient = output_gradient.flatten(0, 1)
        q_gradient = torch.empty_like(q, memory_format=torch.contiguous_format)
        k_gradient = torch.zeros(k.shape, dtype=wide, device=k.device)
        v_gradient = torch.zeros(v.shape, dtype=wide, device=v.device)
        ramp_gradient = torch.zeros(heads, tokens + block, dtype=wide, device=q.device)
        # Rows one longer than the distance from row to row below: read with that step, each row is shifted by one, so
        # a sum over rows is a sum over diagonals. The columns past a block's keys are zero: blocks only grow.
        rows = torch.zeros(heads, block, tokens + block, dtype=wide, device=q.device)
        for start in range(0, tokens, block):
            stop = min(start + block, tokens)
            size = stop - start
            queries, block_gradient = q[:, start:stop].flip(1), gradient[:, start:stop].flip(1)
            weights = _block_weights(queries, k[:, :stop], ramp, tokens=tokens)
            v_gradient[:, :stop] += torch.bmm(weights.transpose(1, 2), block_gradient)
            scores = torch.bmm(block_gradient, v[:, :stop].transpose(1, 2))
            scores = torch._softmax_backward_data(scores, weights, -1, weights.dtype)
            q_gradient[:, start:stop] = torch.bmm(scores, k[:, :stop]).flip(1)
            k_gradient[:, :stop] += torch.bmm(scores.transpose(1, 2), queries)
            torch.sum(scores.view(batch, heads, size, stop), 0, dtype=wide, out=rows[:, :size, :stop])
            shifted = rows.as_strided((heads, size, stop + size - 1), (rows.stride(0), rows.stride(1) - 1, 1))
            ramp_gradient[:, tokens - stop : tokens + size - 1] += shifted.sum(1)
        shape = (batch, heads, tokens, head_dim)
        return (
            (q_gradient * head_dim**-0.5).view(shape),
            k_gradient.to(k.dtype).view(shape),
            v_gradient.to(v.dtype).view(shape),
            ramp_gradient[:, :tokens].flip(1).to(bias.dtype),
            None,
        )


def _ramp(bias: Tensor, *, dtype: torch.dtype, batch: int, block: int) -> Tensor:
    """The bias from the farthest distance to 0, then -inf for keys of the future: (batch * heads, tokens + block)."""
    return F.pad(bias.detach().to(dtype).flip(1), (0, block), value=-torch.inf).repeat(batch, 1)


def _block_weights(queries: Tensor, keys: Tensor, ramp: Tensor, *, tokens: int) -> Tensor:
    """Attention weights of a block: (batch * heads, queries, keys), the block's last query first."""
    size, stop = queries.size(1), keys.size(1)
    first = tokens - stop  # row 0 is query stop - 1, whose distance to key 0 is stop - 1: entry tokens - stop
    bias = ramp.as_strided((len(ramp), size, stop), (ramp.stride(0), 1, 1), first)
    return torch.softmax(torch.baddbmm(bias, queries, keys.transpose(1, 2)), dim=-1)
