"""Which batch comes when: a function of (seed, number of the batch), so that a run can stop and go on anywhere."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from torch.utils.data import Sampler

Item = TypeVar("Item")


class BatchNumbers(Sampler[int]):
    """Numbers of the batches that one process reads: from `first` on, to `total`.

    Its length counts the batches already done as well: the trainer counts batches from the beginning of the run.
    """

    def __init__(self, *, first: int = 0, total: int) -> None:
        self.first, self.total = first, total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.total))

    def __len__(self) -> int:
        return self.total


class EveryNth(Sampler[int]):
    """rank, rank + ranks, rank + 2 ranks, … below `total`: what can be divided unevenly, because nobody waits for anybody."""

    def __init__(self, *, rank: int, ranks: int, total: int) -> None:
        self.numbers = range(rank, total, ranks)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """A random stream of its own for every (seed, numbers…)."""
    return np.random.default_rng([seed, *numbers])


def in_length_buckets(items: Sequence[Item], lengths: Sequence[int], batch_size: int) -> list[list[Item]]:
    """Batches of similar length: items sorted by length, cut into batches. The last batch may be smaller."""
    order = sorted(range(len(items)), key=lambda position: (lengths[position], position))
    return [[items[position] for position in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]
