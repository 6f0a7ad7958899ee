"""Drawing the next token from logits. Randomness is an argument: one uniform number per row."""

import torch
from torch import Tensor


def sample_next(
    logits: Tensor,
    *,
    allowed: Tensor,
    temperature: float,
    uniform: Tensor,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Draw one id per row by inverting its cumulative distribution, which is computed in float64.

    Args:
        logits: (batch, ids), any floating dtype.
        allowed: (ids,) or (batch, ids) bool; every other id has probability exactly 0, whatever `uniform` is.
        temperature: above 0; 1 samples the model as it is, less is more cautious.
        uniform: (batch,) float64 in [0, 1). A row's draw depends on nothing but its own logits and number.
        top_k: keep the k likeliest allowed ids (and those equally likely as the last of them).
        top_p: keep the fewest likeliest ids whose probabilities sum to at least this, in (0, 1].

    Returns:
        (batch,) int64.

    Raises:
        ValueError: for a number out of range, a row without an allowed id, or logits that are not finite.
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    scores = logits.double().masked_fill(~allowed, -torch.inf) / temperature
    if top_k is not None and top_k < scores.size(-1):
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    probabilities = torch.softmax(scores, dim=-1)
    if top_p is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        kept_before = ordered.cumsum(-1) - ordered  # 0 for the likeliest, which therefore always stays
        probabilities = probabilities.masked_fill((kept_before >= top_p).gather(-1, order.argsort(-1)), 0)
    possible = probabilities > 0
    cumulative = probabilities.cumsum(-1)
    total = cumulative.masked_fill(~possible, -1).amax(-1)
    if not bool((total > 0).all()):  # also false for nan
        raise ValueError(
            "cannot draw a token: a row has no allowed id, or its logits are not finite. If the latter, the model's "
            "weights have diverged: train it again with a lower learning rate."
        )
    # `uniform * total` may round up to `total`, past every id: stay below it
    threshold = torch.minimum(uniform.double() * total, torch.nextafter(total, torch.zeros_like(total)))
    return (possible & (cumulative > threshold[:, None])).int().argmax(-1)  # the first of them


def check_sampling(*, temperature: float, top_k: int | None = None, top_p: float | None = None) -> None:
    """Raise ValueError for settings that `sample_next` cannot draw with."""
    if not 0 < temperature < float("inf"):
        raise ValueError(
            f"temperature must be above 0 and finite, got {temperature}. For nearly greedy choices take a small one, "
            "such as 0.05."
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}; None keeps every id")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}; None keeps every id")
