"""What all processes decide alike, without waiting for each other: each step they exchange a few numbers on the CPU."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


class Agreement:
    """The largest of every number that any process gave, one step later; with one process, at once.

    All processes create it and call `exchange` at the same steps. The numbers travel in the background while a step is
    computed, and are looked at when it is done.

    Args:
        numbers: how many are exchanged.
        timeout: how long a process that stays away is waited for.
    """

    def __init__(self, numbers: int, *, timeout: timedelta) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo", timeout=timeout) if several else None
        self._under_way: tuple[dist.Work, Tensor] | None = None
        self._numbers = numbers

    def result(self, now: list[int]) -> list[int]:
        """What was agreed on: of one process what it says now, of several what they said at the step before.

        Raises:
            RuntimeError: if the connection to another process broke, or one stayed away too long.
        """
        if self._group is None:
            return now
        if self._under_way is None:
            return [0] * self._numbers
        work, values = self._under_way
        work.wait()
        self._under_way = None
        return [int(value) for value in values.tolist()]

    def tell(self, now: list[int]) -> None:
        """Send this process's numbers on their way."""
        if self._group is not None:
            values = torch.tensor(now)
            work = dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
            assert work is not None
            self._under_way = work, values
