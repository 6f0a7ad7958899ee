"""How far two items are apart: distances between frames, and dynamic time warping of many pairs at once."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Distance = Literal["cosine", "euclidian", "kl", "kl_symmetric"]  # the spellings of the Libri-Light script
DISTANCES: tuple[Distance, ...] = get_args(Distance)
EPSILON = 1e-6
GRID_BITS = 40  # distances are multiples of 2**-40, about 1e-12: sums over up to 2**12 cells are then exact
COSINE_BITS = 46  # cosines are rounded so that those of equal frames are 1; it moves no angle by more than 2e-7


def unit_frames(frames: Tensor) -> Tensor:
    """Frames (…, dim) in float64, each of length 1; all-zero frames stay zero."""
    frames = frames.double()
    return frames / frames.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def frame_distances(left: Tensor, right: Tensor, distance: Distance) -> Tensor:
    """Distances (…, left frames, right frames) between unit frames (…, left frames, dim) and (…, right frames, dim).

    cosine is the angle over pi, in [0, 1]; an all-zero frame has distance 1 to any other and 0 to another all-zero one.
    euclidian is that of unit frames. kl is that of right from left, sum p log((p + 1e-6) / (q + 1e-6)), also on unit frames;
    kl_symmetric the mean of both directions.

    All are rounded to multiples of 2**-40. Without that, items made of few different frames (units) that are equally far would be
    told apart by the last bits of their sums: a tie, which counts one half, would be decided by the order of additions.

    Source: Libri-Light, which brings frames to length 1 whatever the distance.
    """
    match distance:
        case "cosine":
            angles = torch.acos(_rounded(left @ right.mT, bits=COSINE_BITS).clamp_(-1, 1)).mul_(1 / math.pi)
            silent_left, silent_right = (~side.any(-1) for side in (left, right))
            if silent_left.any() or silent_right.any():
                silent = silent_left[..., :, None].double() + silent_right[..., None, :].double()  # how many of the two
                angles = torch.where(silent == 0, angles, 2 - silent)
            return _rounded(angles, bits=GRID_BITS)
        case "euclidian":
            apart = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
            return _rounded(apart, bits=GRID_BITS)
        case "kl":
            return _rounded(_divergence(left, right), bits=GRID_BITS)
        case "kl_symmetric":
            return _rounded((_divergence(left, right) + _divergence(right, left).mT) / 2, bits=GRID_BITS)


def _rounded(values: Tensor, *, bits: int) -> Tensor:
    """To multiples of 2**-bits, in place."""
    return values.mul_(2.0**bits).round_().mul_(2.0**-bits)


def _divergence(left: Tensor, right: Tensor) -> Tensor:
    entropy = (left * (left + EPSILON).log()).sum(-1)
    return entropy[..., :, None] - left @ (right + EPSILON).log().mT


def warped_distances(cells: Tensor, row_places: Tensor, column_places: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Dynamic time warping of many pairs of items: the cost of the best path over its number of cells.

    A path steps by (1, 1), (0, 1) or (1, 0) from the first cell to the last. Going back from the last cell, the predecessor of
    least accumulated cost is taken; of equal ones (-1, -1) before (0, -1) before (-1, 0). That choice depends on accumulated
    costs alone, so the number of cells on the path is carried forward beside the cost, and nothing is traced back.

    Args:
        cells: (any,) distances between frames, of all pairs.
        row_places, column_places: (longest, pairs) int64: pair p's distance between frame i of its first item and frame j of its
            second is `cells[row_places[i, p] + column_places[j, p]]`. What lies beyond an item's own frames has no influence,
            but must be a place within `cells`. Pairs come last, so that every step works on neighbours in memory.
        rows, columns: (pairs,) int64, frames of both items, at least 1.

    Returns:
        (pairs,) of the type of `cells`.

    Source: Sakoe and Chiba (1978) without slope constraints; normalisation and preference as in Libri-Light's `dtw.pyx`.
    """
    height, width, pairs = len(row_places), len(column_places), len(rows)
    backwards = column_places.flip(0)  # along an anti-diagonal rows ascend and columns descend
    infinite = cells.new_full(
        (3, height + 1, pairs), torch.inf
    )  # the last three anti-diagonals, by row, after a border
    cost, before, earlier = infinite.unbind(0)
    length, length_before, length_earlier = torch.zeros_like(infinite, dtype=torch.int32).unbind(0)
    result = cells.new_empty(pairs)
    last = rows + columns - 2  # the anti-diagonal on which a pair ends
    ends = set(last.unique().tolist())
    for diagonal in range(max(ends) + 1):
        low, high = max(0, diagonal - width + 1), min(height - 1, diagonal)
        here, above = slice(low + 1, high + 2), slice(low, high + 1)
        shift = width - 1 - diagonal
        places = row_places[above] + backwards[shift + low : shift + high + 1]
        local = cells.index_select(0, places.view(-1)).view_as(places)  # much faster than cells[places]
        if diagonal == 0:
            cost[1], length[1] = local[0], 1
        else:
            straight, across, down = earlier[above], before[here], before[above]
            best = torch.minimum(straight, across)
            path = torch.where(across < straight, length_before[here], length_earlier[above])
            torch.add(torch.where(down < best, length_before[above], path), 1, out=length[here])
            torch.add(torch.minimum(best, down), local, out=cost[here])
        if diagonal in ends:
            done = (last == diagonal).nonzero()[:, 0]
            result[done] = cost[rows[done], done] / length[rows[done], done]
        cost, before, earlier = earlier, cost, before
        length, length_before, length_earlier = length_earlier, length, length_before
    return result
