"""Cross-entropy of a linear head without its logits: rows are taken in chunks, and the gradients made on the way."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ROWS = 1024  # 512 to 2048 measured alike on CPU; at 1024 ids the logits of a chunk take 4 MB


def summed_nats(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, illegal: Tensor | None = None, chunk_rows: int = CHUNK_ROWS
) -> Tensor:
    """Sum of `F.cross_entropy(hidden @ weight.T, targets)` over all rows, equal in value and in both gradients.

    Logits exist for `chunk_rows` rows at a time. Where gradients are asked for, those of a chunk are computed beside its
    nats: kept for the backward pass are only the gradients themselves, of the sizes of `hidden` and `weight`.

    Under autocast the matrix products run in its dtype and everything else in float32, the sum over chunks too.

    Args:
        hidden: (rows, dim) float.
        weight: (ids, dim) float: the part of a head that makes the logits of the legal ids.
        targets: (rows,) int64 in [0, ids).
        illegal: (rows,) int64, one id that takes no probability in each row, or None; outside [0, ids) there is none.
        chunk_rows: rows per chunk.

    Returns:
        Scalar, in nats; float32, or float64 where `hidden` is. 0 for no rows.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    learning = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    with torch.autocast(device, enabled=False):
        nats: Tensor = _SummedNats.apply(hidden, weight, targets, illegal, chunk_rows, dtype, learning)
    return nats


class _SummedNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        illegal: Tensor | None,
        chunk_rows: int,
        dtype: torch.dtype,
        learning: bool,
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        head = weight.to(dtype)
        nats = torch.zeros((), dtype=wide, device=hidden.device)
        if learning:
            hidden_gradient = torch.empty_like(hidden, memory_format=torch.contiguous_format)
            weight_gradient = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        for start in range(0, len(hidden), chunk_rows):
            rows = slice(start, start + chunk_rows)
            chunk, target = hidden[rows].to(dtype), targets[rows, None]
            logits = F.linear(chunk, head).to(wide)
            if illegal is not None:
                _close(logits, illegal[rows, None])
            log_probabilities = torch.log_softmax(logits, -1)
            nats -= log_probabilities.gather(1, target).sum()
            if learning:
                logits_gradient = torch.softmax(logits, -1, out=logits)  # cheaper than exp of the logarithms
                logits_gradient.scatter_add_(1, target, logits.new_full((), -1).expand(target.shape))
                narrow = logits_gradient.to(dtype)
                hidden_gradient[rows] = narrow @ head
                weight_gradient += narrow.t() @ chunk
        if learning:
            ctx.save_for_backward(hidden_gradient, weight_gradient.to(weight.dtype))
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, nats_gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_gradient, weight_gradient = ctx.saved_tensors
        hidden_gradient, weight_gradient = (
            gradient * nats_gradient.to(gradient.dtype) if needed else None
            for gradient, needed in zip((hidden_gradient, weight_gradient), ctx.needs_input_grad[:2], strict=True)
        )
        return hidden_gradient, weight_gradient, None, None, None, None, None


def _close(logits: Tensor, illegal: Tensor) -> None:
    """Set one id of each row (rows, 1) to -inf, in place; ids outside the logits close nothing."""
    last = logits.size(1) - 1
    inside = (illegal >= 0) & (illegal <= last)
    index = illegal.clamp(0, last)
    logits.scatter_(1, index, logits.gather(1, index).masked_fill(inside, -torch.inf))
