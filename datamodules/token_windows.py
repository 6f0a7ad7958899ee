"""Token batches for the language models: aligned windows of the token store, flattened by the stage's layout."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch.utils.data import Dataset

from audiolm.tokens.layout import StageLayout, TokenBatch, TokenSequence, collate
from audiolm.tokens.windows import Window, Windows
from datamodules.sampling import generator, in_length_buckets
from datamodules.sharing import Share

POOL_BATCHES = 32  # batches that are drawn together and sorted by length: with 16 up to 4.4 % was padding, now 2.3 %
ALONE = Share()


@dataclass(frozen=True)
class _Pool:
    """Batches of windows of a similar number of tokens, in random order; and the targets that each batch holds."""

    number: int
    batches: list[list[Window]]
    targets: list[int]


class _WindowBatches(abc.ABC):
    """Batches of windows, pool by pool; a process reads the lengths of all and the tokens of its own rows."""

    def __init__(self, windows: Windows, layout: StageLayout, *, batch_size: int, share: Share) -> None:
        self.windows, self.layout, self.batch_size, self.share = windows, layout, batch_size, share
        self._read = _Pool(-1, [], [])  # the last one: its batches follow each other

    def _pool(self, number: int) -> _Pool:
        """The pool `number`, drawn and sorted."""
        if self._read.number != number:
            drawn, random = self._draw(number)
            sizes = [self._size(window) for window in drawn]
            rows = in_length_buckets(range(len(drawn)), [tokens for tokens, _ in sizes], self.batch_size)
            rows = [rows[position] for position in random.permutation(len(rows))]
            batches = [[drawn[row] for row in batch] for batch in rows]
            self._read = _Pool(number, batches, [sum(sizes[row][1] for row in batch) for batch in rows])
        return self._read

    @abc.abstractmethod
    def _draw(self, number: int) -> tuple[Sequence[Window], Generator]:
        """The windows of a pool, and the generator that its batches are shuffled with."""

    def _size(self, window: Window) -> tuple[int, int]:
        units = self.windows.units(window) if self.layout.reads_units else None
        return self.layout.size(units, self.windows.frames(window), true_end=self.windows.truly_ends(window))

    def _sequence(self, window: Window) -> TokenSequence:
        """One window as the stage's sequence; only the streams that the stage uses are read."""
        units = self.windows.units(window) if self.layout.reads_units else None
        codes = self.windows.codes(window) if self.layout.reads_codes else None
        return self.layout.sequence(units, codes, true_end=self.windows.truly_ends(window))

    def _batch(self, number: int) -> TokenBatch:
        """The `number`-th batch of this process: its rows of one piece of a step."""
        step, micro_batch = self.share.divide(number)
        pool = self._pool(step // POOL_BATCHES)
        windows, targets = pool.batches[step % POOL_BATCHES], pool.targets[step % POOL_BATCHES]
        rows = self.share.rows(micro_batch, len(windows))
        if rows:
            return collate([self._sequence(windows[row]) for row in rows], step_targets=targets)
        return _counting_nothing(self._sequence(windows[0]), step_targets=targets)


def _counting_nothing(sequence: TokenSequence, *, step_targets: int) -> TokenBatch:
    """A sequence that another process counts: processes that share a model go through it equally often."""
    silent = TokenSequence(sequence.inputs, sequence.targets, torch.full_like(sequence.phases, -1))
    return collate([silent], step_targets=step_targets)


class TrainingWindows(_WindowBatches, Dataset[TokenBatch]):
    """Batch number n of an endless run, the same one for the same seed, of which a process reads its share.

    `POOL_BATCHES` batches are drawn at once, sorted by their number of tokens and cut into batches of similar length, which come
    in random order.
    """

    def __init__(
        self, windows: Windows, layout: StageLayout, *, batch_size: int, seed: int, share: Share = ALONE
    ) -> None:
        super().__init__(windows, layout, batch_size=batch_size, share=share)
        self.seed = seed

    def _draw(self, number: int) -> tuple[Sequence[Window], Generator]:
        random = generator(self.seed, number)
        return self.windows.draw(random, self.batch_size * POOL_BATCHES), random

    def __getitem__(self, number: int) -> TokenBatch:
        return self._batch(number)


class ValidationWindows(_WindowBatches, Dataset[TokenBatch]):
    """The whole split as windows side by side, in a fixed shuffled order, of which a process reads its share.

    All processes have equally many batches; where the last rows do not suffice for all, some get a batch that counts nothing.
    """

    def __init__(self, windows: Windows, layout: StageLayout, *, batch_size: int, share: Share = ALONE) -> None:
        super().__init__(windows, layout, batch_size=batch_size, share=share)
        every = windows.all()
        self._every = every.in_order(generator(0).permutation(len(every)).astype(np.uint32))

    @property
    def batches(self) -> int:
        """Batches of the whole split, whoever reads them."""
        return math.ceil(len(self._every) / self.batch_size)

    def __len__(self) -> int:
        return self.batches * self.share.micro_batches

    def sequences(self, number: int) -> list[TokenSequence]:
        """What batch `number` of the split holds, one by one: for baselines that score the same tokens."""
        windows = self._pool(number // POOL_BATCHES).batches[number % POOL_BATCHES]
        return [self._sequence(window) for window in windows]

    def _draw(self, number: int) -> tuple[Sequence[Window], Generator]:
        size = self.batch_size * POOL_BATCHES
        return self._every[number * size : (number + 1) * size], generator(0, number)

    def __getitem__(self, number: int) -> TokenBatch:
        if number >= len(self):
            raise IndexError(number)
        return self._batch(number)
