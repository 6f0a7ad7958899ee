"""Crops of one second, with the class of each: for the classifiers."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiolm.audio import AudioError
from audiolm.evaluation.clips import Clip
from audiolm.evaluation.labelled import LabelledClips
from datamodules.sampling import generator
from datamodules.sharing import Share
from datamodules.unreadable import Unreadable, first_readable

ALONE = Share()
Draw = Callable[[int], tuple[Clip, int, int]]  # of an attempt: a clip, where in it a crop begins, its class
ORDERS = 2**20  # sets the streams that classes are ordered by apart from those of second attempts
SAME_CLASS_TRIES = 4  # in the place of a crop that cannot be read; then one of any class


@dataclass(frozen=True)
class LabelledBatch:
    """Crops and what they are.

    Attributes:
        audio: (batch, samples of one second) float32 mono.
        classes: (batch,) int64.
        weights: (batch,) float32, how much each counts in a validation; 0 where another process has these crops too.
        unreadable: what was drawn and could not be read; other crops stand in its place.
    """

    audio: Tensor
    classes: Tensor
    weights: Tensor
    unreadable: tuple[Unreadable, ...] = ()

    def to(self, device: torch.device, non_blocking: bool = False) -> "LabelledBatch":
        """The same batch on another device."""
        audio, classes, weights = (
            tensor.to(device, non_blocking=non_blocking) for tensor in (self.audio, self.classes, self.weights)
        )
        return replace(self, audio=audio, classes=classes, weights=weights)

    def pin_memory(self) -> "LabelledBatch":
        """The same batch in page-locked memory."""
        return replace(self, audio=self.audio.pin_memory())


class _Reader:
    """Reads crops of one second at one rate, only the part of the file that is needed."""

    def __init__(self, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz

    def __call__(self, clip: Clip, offset: int) -> Tensor:
        """(samples,) one second, from `offset` samples (of the file's rate) into the clip."""
        crop = replace(clip, start=clip.start + offset, samples=clip.sample_rate_hz)
        return crop.read(sample_rate_hz=self.sample_rate_hz)

    def batch(self, draws: Iterable[Draw]) -> LabelledBatch:
        """The first readable crop of every draw; weights are 1."""
        crops, classes, unreadable = [], [], []
        for draw in draws:
            drawn: list[int] = []  # classes, the last is that of the crop which could be read

            def placed(attempt: int, draw: Draw = draw, drawn: list[int] = drawn) -> tuple[Clip, int]:
                clip, offset, number = draw(attempt)
                drawn.append(number)
                return clip, offset

            crop, failed = first_readable(placed, self, root=Path("/"))
            crops.append(crop)
            classes.append(drawn[-1])
            unreadable += failed
        return LabelledBatch(torch.stack(crops), torch.tensor(classes), torch.ones(len(crops)), tuple(unreadable))


def is_readable(clip: Clip) -> bool:
    """Whether all of a clip can be read."""
    try:
        clip.read(sample_rate_hz=clip.sample_rate_hz)
    except AudioError:
        return False
    return True


class LabelledTrainingCrops(Dataset[LabelledBatch]):
    """Batch number n: random crops, the same ones for the same seed, of every class equally many.

    Classes take turns, in an order that is drawn anew for every round of all of them, across batches; within a class, crops are
    drawn in proportion to the length of the recordings. So a speaker of hours, in minute-long recordings, is not heard more often
    than one of five short sentences.

    In the place of a crop that cannot be read stands another of the class, or, if its recordings cannot be read either, of any.
    """

    def __init__(
        self, known: LabelledClips, *, sample_rate_hz: int, batch_size: int, seed: int, share: Share = ALONE
    ) -> None:
        self.reader, self.batch_size, self.seed, self.share = _Reader(sample_rate_hz), batch_size, seed, share
        self._clips: list[list[Clip]] = [[] for _ in known.labels]
        for clip, number in known.with_classes():
            self._clips[number].append(clip)
        self._ends = [np.cumsum([clip.samples / clip.sample_rate_hz for clip in clips]) for clips in self._clips]

    def __getitem__(self, number: int) -> LabelledBatch:
        step, micro_batch = self.share.divide(number)
        random = generator(self.seed, step)
        first = [self._placed(class_, random) for class_ in self._classes(step)]

        def draw(attempt: int, row: int) -> tuple[Clip, int, int]:
            if not attempt:
                return first[row]
            again = generator(self.seed, step, row, attempt)
            same = attempt < SAME_CLASS_TRIES
            return self._placed(first[row][2] if same else int(again.integers(len(self._clips))), again)

        rows = self.share.rows(micro_batch, len(first))
        return self.reader.batch([partial(draw, row=row) for row in rows])

    def _classes(self, step: int) -> list[int]:
        """Of every row of a step."""
        positions, count = range(step * self.batch_size, (step + 1) * self.batch_size), len(self._clips)
        rounds = {
            turn: generator(self.seed, turn, 0, ORDERS).permutation(count)
            for turn in {position // count for position in positions}
        }
        return [int(rounds[position // count][position % count]) for position in positions]

    def _placed(self, class_: int, random: np.random.Generator) -> tuple[Clip, int, int]:
        """A clip of a class, where in it a crop begins (samples of the file's rate), and the class."""
        clips, ends = self._clips[class_], self._ends[class_]
        at = int(np.searchsorted(ends, random.uniform(0, ends[-1]), side="right"))
        clip = clips[min(at, len(clips) - 1)]
        return clip, int(random.integers(0, clip.samples - clip.sample_rate_hz + 1)), class_


class LabelledValidationCrops(Dataset[LabelledBatch]):
    """All recordings as crops side by side, in a fixed shuffled order; a remainder shorter than a crop is left out.

    Their weights make every class count alike, however much of it there is. In the place of a crop that cannot be read stands
    another one, always the same. All processes have equally many batches; where the last rows do not suffice for all, some
    get a crop of weight 0.
    """

    def __init__(self, known: LabelledClips, *, sample_rate_hz: int, batch_size: int, share: Share = ALONE) -> None:
        self.reader, self.batch_size, self.share = _Reader(sample_rate_hz), batch_size, share
        self.known = known.with_classes()
        crops = np.array([clip.samples // clip.sample_rate_hz for clip in known.clips])
        self._ends = np.cumsum(crops)
        self._order = generator(0).permutation(int(self._ends[-1])).astype(np.uint32)
        of_class = np.bincount(known.classes, weights=crops, minlength=len(known.labels))
        self._weights = of_class.sum() / np.maximum(1, of_class) / np.count_nonzero(of_class)  # 1 on average

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self.batch_size) * self.share.micro_batches

    def __getitem__(self, number: int) -> LabelledBatch:
        if number >= len(self):
            raise IndexError(number)
        step, micro_batch = self.share.divide(number)
        first = step * self.batch_size
        rows = self.share.rows(micro_batch, min(self.batch_size, len(self._order) - first))

        def draw(attempt: int, position: int) -> tuple[Clip, int, int]:
            return self._at(int(generator(0, position, attempt).integers(len(self._order))) if attempt else position)

        batch = self.reader.batch([partial(draw, position=first + row) for row in rows or [0]])
        weights = torch.tensor(self._weights[batch.classes.numpy()], dtype=torch.float32)
        return replace(batch, weights=weights if rows else torch.zeros_like(weights))

    def _at(self, position: int) -> tuple[Clip, int, int]:
        number = int(self._order[position])
        at = int(np.searchsorted(self._ends, number, side="right"))
        clip, class_ = self.known[at]
        before = int(self._ends[at - 1]) if at else 0
        return clip, (number - before) * clip.sample_rate_hz, class_
