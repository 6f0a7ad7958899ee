"""The errors of ABX cells: how often X is nearer to B than to A."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from audiolm.evaluation.abx_pairs import ItemDistances, each
from audiolm.evaluation.abx_tasks import Comparison, Groups

FRAME_DISTANCES_AT_ONCE = {"cpu": 2**21, "cuda": 2**27}  # 16 MB stay near a core; a GPU wants much to do at a time
TRIPLES_AT_ONCE = 2**21


@dataclass(frozen=True)
class CellErrors:
    """One entry per cell: the groups of A and B, how many triples it has, and the share of them that is wrong."""

    a: Tensor
    b: Tensor
    triples: Tensor
    error: Tensor


def cell_errors(groups: Groups, compared: Iterable[Comparison], item_distances: ItemDistances) -> CellErrors:
    """Score cells: 1 - mean over triples of [d(x, a) < d(x, b)] + [d(x, a) = d(x, b)] / 2, where x is not a.

    Args:
        compared: X from one group, A from another or the same, B from each other group of A's block.
        item_distances: between the items in `groups.order`. Those of a comparison are computed once for all its cells.
    """
    device = item_distances.device
    bounds = torch.tensor([(group.start, group.end) for group in groups.groups], device=device)

    def errors(chunk: list[Comparison]) -> tuple[Tensor, ...]:
        distances = item_distances([_items(groups, comparison) for comparison in chunk])
        return _chunk_errors(torch.tensor(chunk, device=device), bounds, distances)

    parts = list(_in_threads(errors, _chunks(groups, compared, item_distances), device=device))
    if not parts:
        none = torch.zeros(0, dtype=torch.int64)
        return CellErrors(none, none, none, none.double())
    return CellErrors(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _in_threads(
    errors: Callable[[list[Comparison]], tuple[Tensor, ...]],
    chunks: Iterator[list[Comparison]],
    *,
    device: torch.device,
) -> Iterator[tuple[Tensor, ...]]:
    """Chunks side by side, one thread for each, in their order. Operations are so short that threads sharing one of them would
    mostly wait for each other: twenty times slower than one thread where other programs used the same cores."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(errors, chunks)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as executor:
            yield from executor.map(errors, chunks)
    finally:
        torch.set_num_threads(threads)


def _items(groups: Groups, comparison: Comparison) -> tuple[range, range]:
    """The places of X's items, and of all that A and B come from."""
    x, first, last = (groups.groups[index] for index in (comparison.x, comparison.first, comparison.end - 1))
    return range(x.start, x.end), range(first.start, last.end)


def _chunks(
    groups: Groups, compared: Iterable[Comparison], item_distances: ItemDistances
) -> Iterator[list[Comparison]]:
    most = FRAME_DISTANCES_AT_ONCE.get(item_distances.device.type, FRAME_DISTANCES_AT_ONCE["cuda"])
    chunk: list[Comparison] = []
    cells = 0
    for comparison in compared:
        chunk.append(comparison)
        cells += item_distances.cells(*_items(groups, comparison))
        if cells >= most:
            yield chunk
            chunk, cells = [], 0
    if chunk:
        yield chunk


def _chunk_errors(compared: Tensor, bounds: Tensor, distances: Tensor) -> tuple[Tensor, ...]:
    """A, B, triples and error of every cell of the comparisons (comparisons, 4): x, a, first, end."""
    x_group, a_group, first, end = compared.unbind(1)
    starts, sizes = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
    y_start = starts[first]
    y_size = bounds[end - 1, 1] - y_start
    x_start, x_size = starts[x_group], sizes[x_group]
    base = (x_size * y_size).cumsum(0) - x_size * y_size

    cell, place = each(end - first)
    b_group = first[cell] + place
    cell, b_group = cell[b_group != a_group[cell]], b_group[b_group != a_group[cell]]
    a = a_group[cell]
    columns_a, columns_b = starts[a] - y_start[cell], starts[b_group] - y_start[cell]
    shape = x_size[cell], sizes[a], sizes[b_group]
    right = torch.zeros(len(cell), dtype=torch.float64, device=base.device)
    triples = torch.zeros_like(cell)
    counts = shape[0] * shape[1] * shape[2]
    for part in torch.arange(len(cell), device=cell.device).split(_split_sizes(counts)):
        local, place = each(counts[part])
        c = part[local]
        x_place, rest = place // (shape[1] * shape[2])[c], place % (shape[1] * shape[2])[c]
        a_place, b_place = rest // shape[2][c], rest % shape[2][c]
        row = base[cell[c]] + x_place * y_size[cell[c]]
        to_a, to_b = distances[row + columns_a[c] + a_place], distances[row + columns_b[c] + b_place]
        counted = (x_start[cell] - starts[a])[c] + x_place != a_place  # x is not a
        score = ((to_a < to_b).double() + 0.5 * (to_a == to_b)) * counted
        right.index_add_(0, c, score)
        triples.index_add_(0, c, counted.long())
    return a, b_group, triples, 1 - right / triples


def _split_sizes(counts: Tensor) -> list[int]:
    """How many neighbouring cells fit into one go of about `TRIPLES_AT_ONCE`."""
    number = (counts.cumsum(0) - 1) // TRIPLES_AT_ONCE
    return torch.unique_consecutive(number, return_counts=True)[1].tolist()
