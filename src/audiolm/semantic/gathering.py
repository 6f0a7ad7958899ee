"""Feature frames of all processes: statistics of all of them, and a uniform sample that only the first one holds."""

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from audiolm.semantic.moments import FeatureMoments
from audiolm.semantic.reservoir import FeatureReservoir, merge_counts

ROWS_PER_MESSAGE = 16384
PATIENCE = timedelta(days=7)  # the others wait while the first process clusters


@dataclass(frozen=True)
class Gathered:
    """What all processes saw.

    Attributes:
        moments: of all frames of all processes; equal on each.
        heard: whether any recording of any process was not silent.
        sample: (frames, dim) uniform over everything seen, on the first process; None on the others.
    """

    moments: FeatureMoments
    heard: bool
    sample: Tensor | None


def cpu_group() -> dist.ProcessGroup | None:
    """A group of all processes for tensors on the CPU; None where there is one process."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def gather_frames(
    reservoir: FeatureReservoir,
    moments: FeatureMoments,
    *,
    heard: bool,
    frames: int,
    group: dist.ProcessGroup | None,
    seed: int = 0,
) -> Gathered:
    """Merge what every process collected; all of them call this.

    No process ever holds more than its own reservoir, and the first one the result besides.

    Args:
        reservoir: this process's sample.
        moments: of all frames that this process saw.
        frames: how many to sample at most.
        group: from `cpu_group`.
    """
    if group is None:
        return Gathered(moments, heard, reservoir.sample() if reservoir.seen else None)
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    counts = torch.tensor([reservoir.seen, reservoir.kept, int(heard)])
    of_all = [torch.empty_like(counts) for _ in range(ranks)]
    dist.all_gather(of_all, counts, group=group)
    ours = moments.as_tensor()
    statistics = [torch.empty_like(ours) for _ in range(ranks)]
    dist.all_gather(statistics, ours, group=group)
    merged = FeatureMoments.from_tensor(statistics[0])
    for other in statistics[1:]:
        merged.merge(FeatureMoments.from_tensor(other))
    seen, kept, hears = ([int(row[column]) for row in of_all] for column in range(3))
    taken = merge_counts(seen, kept, frames=frames, seed=seed)
    dim = (len(ours) - 1) // 2
    sample = torch.empty(sum(taken), dim) if rank == 0 else None
    _collect(reservoir, taken, sample, group=group)
    return Gathered(merged, any(hears), sample)


def _collect(reservoir: FeatureReservoir, taken: list[int], sample: Tensor | None, *, group: dist.ProcessGroup) -> None:
    """Send what was chosen of this process's reservoir to the first one, a few rows at a time."""
    rank = dist.get_rank(group)
    ours = reservoir.choose(taken[rank]).split(ROWS_PER_MESSAGE) if taken[rank] else ()
    if sample is None:
        for places in ours:
            dist.send(reservoir.sample()[places], dst=0, group=group)
        return
    parts = sample.split(taken)
    for places, rows in zip(ours, parts[0].split(ROWS_PER_MESSAGE), strict=False):
        torch.index_select(reservoir.sample(), 0, places, out=rows)
    for source, part in enumerate(parts[1:], start=1):
        for rows in part.split(ROWS_PER_MESSAGE) if len(part) else ():
            dist.recv(rows, src=source, group=group)
