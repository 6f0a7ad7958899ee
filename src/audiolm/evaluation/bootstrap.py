"""Intervals of figures whose clips depend on each other: those of one speaker, or of one prompt, are drawn together."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000


def bootstrap_interval(
    groups: Sequence[Hashable],
    statistic: Callable[[NDArray[np.int64]], float],
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentiles of a figure over as many groups drawn with replacement.

    Args:
        groups: of each row, which group it belongs to.
        statistic: the figure of some rows, given their positions, of which any may come several times.

    Returns:
        Lower and upper bound; None for a single group, which says nothing of others.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; of clusters.
    """
    names = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    if len(names) < 2:
        return None
    of_row = np.array([names[group] for group in groups])
    rows = [np.flatnonzero(of_row == number) for number in range(len(names))]
    random = np.random.default_rng(seed)
    values = [
        statistic(np.concatenate([rows[number] for number in random.integers(0, len(rows), len(rows))]))
        for _ in range(draws)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
