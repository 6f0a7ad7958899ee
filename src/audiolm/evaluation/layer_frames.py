"""All layers of an encoder in one pass: their statistics over training audio, and the frames of items."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from audiolm.audio import is_silent
from audiolm.evaluation.abx_frames import FrameRule, ItemFrames, _check_ends, _checked, frame_bounds
from audiolm.evaluation.abx_items import Item, files_of
from audiolm.evaluation.clips import Clip
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.moments import FeatureMoments, usable_deviation
from audiolm.semantic.windows import encode_in_windows

Progress = Callable[[str, int, int], None]  # called with what is done, how many of it are, and all


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation (dim,) of a layer's features over training audio."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Features (frames, dim) with zero mean and unit variance, where the training audio's would have them."""
        return (features - self.mean) / self.deviation


@torch.inference_mode()
def states_of(encoder: Encoder, audio: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """The features (frames, dim) of several layers of one recording (samples,), computed where the encoder is, on the CPU."""
    device = next((value.device for value in encoder.state_dict().values()), torch.device("cpu"))
    return [state[0].float().cpu() for state in encode_in_windows(encoder, audio[None].to(device), layers=layers)]


def training_statistics(
    encoder: Encoder, clips: Sequence[Clip], *, layers: Sequence[int], clusters: int, progress: Progress
) -> dict[int, Normalization]:
    """What every layer is normalised by.

    Args:
        clips: training audio.
        clusters: the most that will be made of it.

    Raises:
        ValueError: for less audio than clusters need, silence, or a layer whose features never change.
    """
    moments = {layer: FeatureMoments(encoder.dim) for layer in layers}
    heard = False
    for done, clip in enumerate(clips, start=1):
        audio = clip.read(sample_rate_hz=encoder.sample_rate_hz)
        heard = heard or not is_silent(audio)
        for layer, state in zip(layers, states_of(encoder, audio, layers), strict=True):
            moments[layer].add(state)
        progress("training audio", done, len(clips))
    frames = moments[layers[0]].count
    if frames < clusters:
        raise ValueError(
            f"{len(clips)} training recordings gave {frames} frames, too few for --clusters {clusters}: leave that number out, "
            "raise --train-limit, or name more recordings with --train-audio"
        )
    return {layer: _normalization(moments[layer], layer, heard=heard) for layer in layers}


def _normalization(moments: FeatureMoments, layer: int, *, heard: bool) -> Normalization:
    try:
        deviation = usable_deviation(moments, heard=heard, clusters=1)
    except ValueError as error:
        raise ValueError(f"layer {layer}: {error}") from error
    return Normalization(moments.mean.float(), deviation.float())


def layer_frames(
    items: Sequence[Item],
    states: Callable[[str], Sequence[Tensor]],
    *,
    normalizations: Sequence[Normalization],
    rate_hz: Fraction,
    rule: FrameRule,
    progress: Progress,
) -> list[ItemFrames]:
    """As `abx_frames.item_frames`, of several layers; frames that lie in no item are not kept.

    Args:
        states: from the stem of a recording to each layer's features (frames, dim); asked once per recording.
        normalizations: one per layer.

    Raises:
        ValueError: for features that are not finite or do not fit the items, or items of which none has a frame.
    """
    starts, lengths = torch.zeros(2, len(items), dtype=torch.int64)
    kept: list[list[Tensor]] = [[] for _ in normalizations]
    total, stems = 0, files_of(items)
    places: dict[str, list[int]] = {stem: [] for stem in stems}
    for place, item in enumerate(items):
        places[item.file].append(place)
    for done, stem in enumerate(stems, start=1):
        matrices = [_checked(matrix, stem, dim=None) for matrix in states(stem)]
        _check_ends([items[place] for place in places[stem]], {stem: matrices[0]}, rate_hz)
        inside = torch.zeros(len(matrices[0]), dtype=torch.bool)
        for place in places[stem]:
            item, frames = items[place], len(inside)
            start, end = frame_bounds(item.onset, item.offset, rate_hz=rate_hz, frames=frames, rule=rule)
            inside[start : max(start, end)] = True
            starts[place], lengths[place] = start, max(0, end - start)
        before = inside.cumsum(0) - inside.long() + total  # kept frames ahead of each
        for place in places[stem]:
            if lengths[place]:
                starts[place] = before[starts[place]]
        total += int(inside.sum())
        for rows, matrix, normalize in zip(kept, matrices, normalizations, strict=True):
            rows.append(normalize(matrix[inside]))
        progress("items", done, len(stems))
    has = lengths > 0
    if not bool(has.any()):
        raise ValueError(f"none of {len(items)} items has a frame at {float(rate_hz):g} Hz: they are too short for it")
    found = tuple(item for item, some in zip(items, has.tolist(), strict=True) if some)
    dropped = len(items) - len(found)
    return [ItemFrames(found, frames, starts[has], lengths[has], dropped) for frames in map(_joined, kept)]


def _joined(rows: list[Tensor]) -> Tensor:
    """One tensor; the rows are given up."""
    joined = torch.cat(rows)
    rows.clear()
    return joined


def layer_groups(
    items: Sequence[Item], layers: Sequence[int], *, rate_hz: int, dim: int, memory_bytes: int
) -> Iterator[Sequence[int]]:
    """Layers whose item frames fit the memory together; at least one at a time."""
    seconds: dict[str, tuple[Fraction, Fraction]] = {}  # of a file: in all of its items, and until the last one's end
    for item in items:
        lasting, end = seconds.get(item.file, (Fraction(0), Fraction(0)))
        seconds[item.file] = lasting + item.offset - item.onset, max(end, item.offset)
    frames = float(sum(min(both) for both in seconds.values())) * rate_hz
    at_once = max(1, int(memory_bytes // max(1, frames * dim * 4)))
    for first in range(0, len(layers), at_once):
        yield layers[first : first + at_once]
