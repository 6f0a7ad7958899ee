"""Feature frames of all processes: statistics of all of them, and a uniform sample that only the first one holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from audiolm.semantic.moments import FeatureMoments
from audiolm.semantic.reservoir import FeatureReservoir

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
) -> Gathered:
    """Merge what every process collected; all of them call this.

    The sample is what one process would have kept of everything, in the order of the examples' numbers. Only where a process
    saw so much more than the others that its reservoir has lost frames of that sample, it is shorter, and still uniform. No
    process ever holds more frames than its own reservoir, and the first one the result besides.

    Args:
        reservoir: this process's; all with one seed, and with examples in increasing order.
        moments: of all frames that this process saw.
        frames: how many to sample at most.
        group: from `cpu_group`.
    """
    if group is None:
        return Gathered(moments, heard, reservoir.sample() if reservoir.seen else None)
    ranks, ours = dist.get_world_size(group), moments.as_tensor()
    statistics = [torch.empty_like(ours) for _ in range(ranks)]
    dist.all_gather(statistics, ours, group=group)
    merged = FeatureMoments.from_tensor(statistics[0])
    for other in statistics[1:]:
        merged.merge(FeatureMoments.from_tensor(other))
    keys = reservoir.keys()
    counts = torch.tensor([len(keys), int(heard), reservoir.bound - 1])
    of_all = [torch.empty_like(counts) for _ in range(ranks)]
    dist.all_gather(of_all, counts, group=group)
    kept, hears, bounds = ([int(row[column]) for row in of_all] for column in range(3))
    every = [torch.empty(max(kept), 2, dtype=torch.int64) for _ in range(ranks)]
    dist.all_gather(every, F.pad(keys, (0, 0, 0, max(kept) - len(keys))), group=group)
    every = [theirs[:count] for theirs, count in zip(every, kept, strict=True)]
    last = _last_key(torch.cat([theirs[:, 0] for theirs in every]), frames=frames, known=min(bounds))
    chosen = [theirs[:, 0] <= last for theirs in every]
    order = torch.cat([theirs[use, 1] for theirs, use in zip(every, chosen, strict=True)]).argsort(stable=True)
    taken = [int(use.sum()) for use in chosen]
    rank = dist.get_rank(group)
    mine = chosen[rank].nonzero()[:, 0]
    if rank:
        for places in mine.split(ROWS_PER_MESSAGE) if taken[rank] else ():
            dist.send(reservoir.sample()[places], dst=0, group=group)
        return Gathered(merged, any(hears), None)
    sample = torch.empty(sum(taken), (len(ours) - 1) // 2)
    _collect(reservoir, mine, sample, order.argsort().split(taken), group=group)
    return Gathered(merged, any(hears), sample)


def _last_key(keys: Tensor, *, frames: int, known: int) -> int:
    """The largest key of a sample of `frames` at most, of what has keys up to `known`: some process lost frames above."""
    keys = keys[keys <= known]
    return int(keys.kthvalue(min(frames, len(keys))).values) if len(keys) else -1


def _collect(
    reservoir: FeatureReservoir, mine: Tensor, sample: Tensor, rows: Sequence[Tensor], *, group: dist.ProcessGroup
) -> None:
    """Fill the first process's sample, whose `rows` are those of each process, a few at a time."""
    ours, *others = rows
    for part, places in zip(ours.split(ROWS_PER_MESSAGE), mine.split(ROWS_PER_MESSAGE), strict=True):
        sample[part] = reservoir.sample()[places]
    for source, theirs in enumerate(others, start=1):
        for part in theirs.split(ROWS_PER_MESSAGE) if len(theirs) else ():
            received = torch.empty(len(part), sample.shape[1])
            dist.recv(received, src=source, group=group)
            sample[part] = received
