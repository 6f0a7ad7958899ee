"""Distances between many pairs of items, in batches of similar lengths."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from audiolm.evaluation.abx_distances import Distance, frame_distances, unit_frames, warped_distances

BATCH_CELLS = {"cpu": 2**18, "cuda": 2**26}  # frame distances in memory at a time: 2 MB fit a core's cache
TABLE_FRAMES = 2**14  # a table of distances between so many different frames takes 2 GB


class ItemDistances:
    """Distances between items, each a row of frames; neighbouring items' frames are neighbours too.

    Frames of which most are equal to others, as those of units are, get a table of distances between the different ones.

    Args:
        frames: (frames, dim), those of all recordings.
        starts, lengths: (items,) int64: which frames an item has.
        device: where to compute, in float64.

    Raises:
        ValueError: if `distance` compares probabilities and features are negative.
    """

    def __init__(
        self, frames: Tensor, starts: Tensor, lengths: Tensor, *, distance: Distance, device: str = "cpu"
    ) -> None:
        self.distance, self.device = distance, torch.device(device)
        frames = frames[_runs(starts, lengths)]
        if distance.startswith("kl") and bool((frames < 0).any()):
            raise ValueError(
                f"the distance {distance} compares probabilities, but some features are negative: take cosine or euclidian"
            )
        self.lengths = lengths.to(self.device)
        self.ends = [0, *lengths.cumsum(0).tolist()]  # frames before each item, and of all
        self.before = torch.tensor(self.ends, device=self.device)
        different, which = _different(frames)
        self.table = self.which = None
        if len(different) <= min(TABLE_FRAMES, len(frames) // 2):
            units = unit_frames(different.to(self.device))
            self.table = torch.cat([frame_distances(part, units, distance) for part in units.split(1024)])
            self.which = which.to(self.device)
        else:
            self.frames = unit_frames(frames.to(self.device))

    def cells(self, x: range, y: range) -> int:
        """How many distances between frames lie between all items x and all items y."""
        return (self.ends[x.stop] - self.ends[x.start]) * (self.ends[y.stop] - self.ends[y.start])

    def __call__(self, compared: Sequence[tuple[range, range]]) -> Tensor:
        """Distances of each item in x from each item in y, for every (x, y) in `compared`: one flat float64 tensor, y innermost.

        Memory: 8 bytes per cell, see `cells`.
        """
        cells = torch.cat([self._frame_distances(x, y).flatten() for x, y in compared])
        firsts = torch.tensor([(x.start, y.start, y.stop, len(x) * len(y)) for x, y in compared], device=self.device)
        x_start, y_start, y_stop, counts = firsts.unbind(1)
        widths = self.before[y_stop] - self.before[y_start]
        heights = torch.tensor([self.ends[x.stop] - self.ends[x.start] for x, _ in compared], device=self.device)
        bases = (heights * widths).cumsum(0) - heights * widths
        which, place = each(counts)
        across = (y_stop - y_start)[which]
        x, y, width = x_start[which] + place // across, y_start[which] + place % across, widths[which]
        row_base = bases[which] + (self.before[x] - self.before[x_start][which]) * width
        column_base = self.before[y] - self.before[y_start][which]
        rows, columns = self.lengths[x], self.lengths[y]
        result = torch.empty(len(x), dtype=torch.float64, device=self.device)
        for batch in batches(rows, columns, cells=BATCH_CELLS.get(self.device.type, BATCH_CELLS["cuda"])):
            height, width_, row, column = rows[batch], columns[batch], row_base[batch], column_base[batch]
            row_places = row + self._steps(height) * width[batch]
            result[batch] = warped_distances(cells, row_places, column + self._steps(width_), height, width_)
        return result

    def _steps(self, lengths: Tensor) -> Tensor:
        """(longest, pairs): 0, 1, … for each pair; those of shorter items stop at their last frame."""
        steps = torch.arange(int(lengths.max()), device=self.device)
        return torch.minimum(steps[:, None], lengths - 1)

    def _frame_distances(self, x: range, y: range) -> Tensor:
        rows = slice(self.ends[x.start], self.ends[x.stop])
        columns = slice(self.ends[y.start], self.ends[y.stop])
        if self.table is not None and self.which is not None:
            return self.table[self.which[rows, None], self.which[columns]]
        return frame_distances(self.frames[rows], self.frames[columns], self.distance)


def each(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For every element of rows with so many elements: its row, and its place in the row."""
    row = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return row, torch.arange(len(row), device=counts.device) - before[row]


def batches(rows: Tensor, columns: Tensor, *, cells: int) -> Iterator[Tensor]:
    """Split pairs into batches whose members have similar lengths on both sides.

    Sorted by rows the pairs are cut into strips, and each strip, sorted by columns, into batches: as many strips as batches
    per strip. The more pairs there are, the less is padded.

    Args:
        rows, columns: (pairs,) lengths.
        cells: of each batch, about.

    Yields:
        Indices of pairs; each pair comes once.
    """
    if not len(rows):
        return
    area = rows * columns
    total = int(area.sum())
    strips = max(1, round((total / cells) ** 0.5))
    by_rows = rows.argsort(stable=True)
    strip = (area[by_rows].cumsum(0) - 1) * strips // total
    order = by_rows[(strip * (int(columns.max()) + 1) + columns[by_rows]).argsort(stable=True)]
    batch = strip * (total + 1) + (area[order].cumsum(0) - 1) // cells  # `strip` is sorted: the order keeps it
    yield from order.split(torch.unique_consecutive(batch, return_counts=True)[1].tolist())


def _different(frames: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows of (frames, dim) float32, and for each row which of them it is."""
    rows = np.ascontiguousarray(
        (frames + 0.0).numpy()
    )  # + 0: minus zero becomes zero, so that equal numbers are equal bytes
    whole = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]
    _, first, which = np.unique(whole, return_index=True, return_inverse=True)
    return frames[torch.from_numpy(first)], torch.from_numpy(which)


def _runs(starts: Tensor, lengths: Tensor) -> Tensor:
    """start, start + 1, …, start + length - 1 of each, one after another."""
    row, place = each(lengths)
    return starts[row] + place
