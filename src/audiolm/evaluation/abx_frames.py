"""Which feature frames an item has, and the frames of many items side by side."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor

from audiolm.evaluation.abx_items import Item, files_of

FrameRule = Literal["corrected", "libri-light"]
FRAME_RULES: tuple[FrameRule, ...] = get_args(FrameRule)
SPARE_FRAMES = 2  # encoders without padding give up to two frames less than the audio lasts


def frame_bounds(
    onset: Fraction, offset: Fraction, *, rate_hz: Fraction, frames: int, rule: FrameRule = "corrected"
) -> tuple[int, int]:
    """The frames (start, end) of an item, `end` not included: those whose centre, (i + 1/2) / rate, lies within it.

    In exact arithmetic: binary floats move some bounds by one frame.

    Args:
        onset, offset: seconds.
        frames: how many the recording has.
        rule: "libri-light" leaves out the last frame, as the reference scripts of Libri-Light and ZeroSpeech 2021 do by
            mistake. Published ABX numbers, AudioLM's among them, contain that; slow features suffer most.

    Source: `eval_ABX.py` of Libri-Light.
    """
    start = max(0, math.ceil(rate_hz * onset - Fraction(1, 2)))
    end = math.floor(rate_hz * offset - Fraction(1, 2)) + (1 if rule == "corrected" else 0)
    return start, min(frames, end)


@dataclass(frozen=True)
class ItemFrames:
    """Items and their frames. Item i has `frames[starts[i] : starts[i] + lengths[i]]`.

    Attributes:
        items: those that have at least one frame.
        frames: (frames, dim) float32, the recordings one after another.
        starts, lengths: (items,) int64.
        dropped: how many items had no frame left, because they are shorter than one.
    """

    items: tuple[Item, ...]
    frames: Tensor
    starts: Tensor
    lengths: Tensor
    dropped: int


def item_frames(
    items: Sequence[Item],
    features: Callable[[str], Tensor],
    *,
    rate_hz: Fraction,
    rule: FrameRule = "corrected",
    normalize: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ItemFrames:
    """Collect the features of all recordings that items lie in, and find each item's frames.

    Args:
        features: from the stem of a recording to its (frames, dim) features.
        rate_hz: frames per second.
        normalize: shift and scale every dimension to zero mean and unit variance over all frames of these recordings.
        progress: called with (recordings read, all recordings).

    Raises:
        ValueError: if features are not finite or of different widths, or an item lies beyond the end of its recording.
    """
    stems = files_of(items)
    matrices: dict[str, Tensor] = {}
    for number, stem in enumerate(stems, start=1):
        matrices[stem] = _checked(features(stem), stem, dim=matrices[stems[0]].shape[1] if matrices else None)
        progress(number, len(stems))
    _check_ends(items, matrices, rate_hz)
    offsets = dict(zip(stems, _running([len(matrices[stem]) for stem in stems]), strict=True))
    kept, starts, lengths = [], [], []
    for item in items:
        count = len(matrices[item.file])
        start, end = frame_bounds(item.onset, item.offset, rate_hz=rate_hz, frames=count, rule=rule)
        if start < end:
            kept.append(item)
            starts.append(offsets[item.file] + start)
            lengths.append(end - start)
    frames = torch.cat([matrices.pop(stem) for stem in stems])
    if normalize:
        deviation, mean = torch.std_mean(frames, dim=0, correction=0)
        frames = (frames - mean) / deviation.clamp(min=1e-5)
    return ItemFrames(tuple(kept), frames, torch.tensor(starts), torch.tensor(lengths), len(items) - len(kept))


def _checked(matrix: Tensor, stem: str, *, dim: int | None) -> Tensor:
    if matrix.ndim != 2 or not len(matrix) or not matrix.shape[1] or (dim is not None and matrix.shape[1] != dim):
        raise ValueError(
            f"the features of {stem} have the shape {tuple(matrix.shape)}, expected (frames, {dim or 'dim'}) with at least "
            "one frame: they probably come from another layer or model than the rest"
        )
    if not matrix.isfinite().all():
        raise ValueError(f"the features of {stem} hold NaN or infinity: the recording or the encoder is defective")
    return matrix.float().cpu()


def _check_ends(items: Sequence[Item], matrices: dict[str, Tensor], rate_hz: Fraction) -> None:
    beyond = [item for item in items if item.offset * rate_hz > len(matrices[item.file]) + SPARE_FRAMES]
    if beyond:
        first, frames = beyond[0], len(matrices[beyond[0].file])
        raise ValueError(
            f"{len(beyond)} items end after their features do. The first: {first.phone} of {first.file}, until "
            f"{float(first.offset):.4f} s, but {frames} frames at {float(rate_hz):g} Hz are {float(frames / rate_hz):.4f} s. "
            "The item file belongs to other recordings, or the rate is wrong."
        )


def _running(counts: Sequence[int]) -> list[int]:
    """The sum of all counts before each."""
    sums = [0]
    for count in counts:
        sums.append(sums[-1] + count)
    return sums[:-1]
