"""How a step's batch is shared: among processes, and among the micro-batches of one process."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """The rows of every batch that are this process's.

    A batch belongs to a step of the whole run. Process r of R takes its rows r, r + R, r + 2R, …, in `micro_batches` pieces,
    one after the other, where they do not fit into memory at once. So what a step learns from does not depend on R.

    Args:
        rank: number of this process among those that read different data.
        ranks: how many of them there are.
        micro_batches: pieces of a process's share.
    """

    rank: int = 0
    ranks: int = 1
    micro_batches: int = 1

    def divide(self, number: int) -> tuple[int, int]:
        """The `number`-th batch that this process reads: which batch of the run, and which piece of it."""
        return divmod(number, self.micro_batches)

    def rows(self, micro_batch: int, rows: int) -> list[int]:
        """Rows of one piece, of a batch of `rows`; none where the last batch of a validation has too few."""
        return list(range(rows))[self.rank :: self.ranks][micro_batch :: self.micro_batches]


def data_parallel(trainer: Any) -> tuple[int, int]:
    """(rank, ranks) of this process among those that read different data; a tensor-parallel group reads the same."""
    tensor_parallel = getattr(trainer.strategy, "tensor_parallel_size", 1)
    return trainer.global_rank // tensor_parallel, trainer.world_size // tensor_parallel


def micro_batches(*, batch_size: int, micro_batch_size: int | None, ranks: int) -> int:
    """Into how many pieces each process cuts its share of a step.

    Args:
        batch_size: rows of a step, over all processes.
        micro_batch_size: rows that a process has in memory at once at most; None: its whole share.
        ranks: processes that read different data.

    Raises:
        ValueError: if the batch cannot be shared evenly, naming numbers that can.
    """
    if batch_size % ranks:
        raise ValueError(
            f"data.init_args.batch_size is {batch_size} windows per step over all processes, which {ranks} processes cannot "
            f"share evenly. Use a number of processes that divides it ({_divisors(batch_size)}), or another batch_size (which "
            "starts the stage afresh)."
        )
    share = batch_size // ranks
    at_once = min(share, micro_batch_size or share)
    return next(pieces for pieces in range(1, share + 1) if share % pieces == 0 and share // pieces <= at_once)


def _divisors(number: int) -> str:
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)
