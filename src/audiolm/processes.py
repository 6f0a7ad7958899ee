"""What the processes of one run share: row l of process r of R is example l * R + r of the global batch.

Losses and gradients are means over processes (DDP and FSDP average gradients). So what one process would divide by a count
that differs from process to process, such as masked frames, is divided by the global count here: see `part_of_mean`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


class _Sum(torch.autograd.Function):
    """Sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


@dataclass(frozen=True)
class Processes:
    """The processes that share a global batch, all with equally many rows. What is said to be collective, all must call.

    Attributes:
        rank: this one's number.
        count: how many there are. With one, every method gives back what it takes.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> "Processes":
        """Those of `torch.distributed`; this one alone, if it is not in use."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes, with a gradient. Collective."""
        if self.count == 1:
            return values
        return _Sum.apply(values)  # type: ignore[no-any-return,no-untyped-call]

    def part_of_mean(self, total: Tensor, number: Tensor | int) -> Tensor:
        """This process's part of the mean over `number` things of each process whose values add up to `total` here.

        The mean over processes of what is returned is the mean over all things; 0 where there are none. Collective.
        """
        numbers = torch.as_tensor(number, device=total.device, dtype=total.dtype)
        return total * (self.count / self.sum(numbers).clamp(min=1))

    def mean_of_rows(self, values: Tensor) -> Tensor:
        """Mean over the rows of all processes' (rows, …), of which each may have another number; with a gradient. Collective."""
        rows = self.sum(torch.tensor(float(len(values)), device=values.device))
        return self.sum(values.sum(0)) / rows

    def mean_of_each(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means over processes of scalars by name, without gradient: what is logged. Collective."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        return dict(zip(values, self.sum(stacked) / self.count, strict=True))

    def rows(self, values: Tensor) -> Tensor:
        """This process's rows of a global batch."""
        return values[self.rank :: self.count]

    def gather(self, values: Tensor) -> Tensor:
        """The rows of the global batch, in its order, of (rows, …) of each process. Collective."""
        if self.count == 1:
            return values
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    def previous_rows(self, values: Tensor) -> Tensor:
        """For every row of (rows, …) the one before it in the global batch; before the first comes the last. Collective."""
        if self.count == 1:
            return values.roll(1, 0)
        before, after = (self.rank - 1) % self.count, (self.rank + 1) % self.count
        ours, theirs = values.contiguous(), torch.empty_like(values, memory_format=torch.contiguous_format)
        sent = dist.P2POp(dist.isend, ours, after), dist.P2POp(dist.irecv, theirs, before)
        for work in dist.batch_isend_irecv(list(sent)):
            work.wait()
        return theirs if self.rank else theirs.roll(1, 0)


ALONE = Processes()


class Draws:
    """Random numbers for the rows of a batch. Every example owns a stream, which depends on nothing but the seeds and the
    example's number in the global batch: not on how many processes share it, nor on the other rows.

    Args:
        seeds: such as the run's seed and the step, at least 0.
        examples: numbers of the rows in the global batch.
        device: where numbers are drawn. Unlike devices draw unlike numbers.
    """

    def __init__(self, *seeds: int, examples: Iterable[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._streams = []
        for example in examples:
            seed = int(np.random.SeedSequence([*seeds, example]).generate_state(1, np.uint64)[0])
            self._streams.append(torch.Generator(self.device).manual_seed(seed // 2))  # below 2^63

    def uniform(self, *shape: int) -> Tensor:
        """(rows, *shape) float32 in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=s, device=self.device) for s in self._streams])

    def normal(self, *shape: int) -> Tensor:
        """(rows, *shape) float32 of mean 0 and deviation 1."""
        return torch.stack([torch.randn(shape, generator=s, device=self.device) for s in self._streams])

    def exponential(self, *shape: int) -> Tensor:
        """(rows, *shape) float32 of mean 1, above 0."""
        empty = [torch.empty(shape, device=self.device) for _ in self._streams]
        return torch.stack([e.exponential_(generator=s) for e, s in zip(empty, self._streams, strict=True)])
