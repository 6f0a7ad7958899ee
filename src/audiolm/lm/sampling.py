"""Drawing the next token from logits. Randomness is an argument: one uniform number per row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from audiolm.untrusted.values import require_types


@dataclass(frozen=True)
class Sampling:
    """How a stage draws: which ids stay, and how boldly.

    Args:
        temperature: above 0; 1 samples the model as it is, less is more cautious.
        top_k: keep the k likeliest legal ids (and those equally likely as the last of them); None keeps all.
        top_p: keep the fewest likeliest ids whose probabilities sum to at least this, in (0, 1]; None keeps all.

    Raises:
        ValueError: for a number out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        require_types(self)
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"temperature must be above 0 and finite, got {self.temperature}. For nearly greedy choices take a small "
                "one, such as 0.05."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}; None keeps every id")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}; None keeps every id")


def sample_next(logits: Tensor, *, uniform: Tensor, sampling: Sampling, allowed: Tensor | None = None) -> Tensor:
    """Draw one id per row by inverting its cumulative distribution, which is computed in float64.

    Args:
        logits: (batch, ids), any floating dtype.
        uniform: (batch,) float64 in [0, 1). A row's draw depends on nothing but its own logits and number.
        sampling: temperature, top-k and top-p.
        allowed: (ids,) or (batch, ids) bool; every other id has probability exactly 0, whatever `uniform` is. None allows
            all.

    Returns:
        (batch,) int64; -1 in a row that has no allowed id, or whose logits are not finite. Nothing waits for the device:
        `require_drawn` says it in words.
    """
    scores = logits.double() / sampling.temperature
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    if sampling.top_k is not None and sampling.top_k < scores.size(-1):
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[:, -1:], -torch.inf)
    probabilities = torch.softmax(scores, dim=-1)
    if sampling.top_p is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        kept_before = ordered.cumsum(-1) - ordered  # 0 for the likeliest, which therefore always stays
        probabilities = probabilities.masked_fill((kept_before >= sampling.top_p).gather(-1, order.argsort(-1)), 0)
    possible = probabilities > 0
    cumulative = probabilities.cumsum(-1)
    total = cumulative.masked_fill(~possible, -1).amax(-1)
    # `uniform * total` may round up to `total`, past every id: stay below it
    threshold = torch.minimum(uniform.double() * total, torch.nextafter(total, torch.zeros_like(total)))
    drawn = (possible & (cumulative > threshold[:, None])).int().argmax(-1)  # the first of them
    return torch.where(total > 0, drawn, -1)  # false for nan too


def require_drawn(failed: Tensor) -> None:
    """Raise ValueError if `sample_next` could not draw for some row: `failed` (rows,) bool."""
    if bool(failed.any()):
        raise ValueError(
            "cannot draw a token: a row has no allowed id, or its logits are not finite. If the latter, the model's "
            "weights have diverged: train it again with a lower learning rate."
        )
