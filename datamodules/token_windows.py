"""Token batches for the language models: aligned windows of the token store, flattened by the stage's layout."""

import math

import numpy as np
from numpy.random import Generator
from torch.utils.data import Dataset

from audiolm.tokens.layout import StageLayout, TokenBatch, TokenSequence, collate
from audiolm.tokens.windows import Window, Windows
from datamodules.sampling import generator, in_length_buckets

POOL_BATCHES = 32  # batches that are read together and sorted by length: with 16 up to 4.4 % was padding, now 2.3 %


def read_sequence(windows: Windows, layout: StageLayout, window: Window) -> TokenSequence:
    """One window as the stage's sequence."""
    tokens = windows.read(window)
    return layout.sequence(tokens.units, tokens.codes, true_end=tokens.true_end)


class TrainingWindows(Dataset[TokenBatch]):
    """Batch number n of an endless run, the same one for the same seed.

    `POOL_BATCHES` batches are drawn and read at once, sorted by their number of tokens and cut into batches of similar
    length, which come in random order.
    """

    def __init__(self, windows: Windows, layout: StageLayout, *, batch_size: int, seed: int) -> None:
        self.windows, self.layout, self.batch_size, self.seed = windows, layout, batch_size, seed
        self._pool: tuple[int, list[list[TokenSequence]]] = (-1, [])  # read last: its batches follow each other

    def __getitem__(self, number: int) -> TokenBatch:
        pool = number // POOL_BATCHES
        if self._pool[0] != pool:
            random = generator(self.seed, pool)
            drawn = self.windows.draw(random, self.batch_size * POOL_BATCHES)
            self._pool = (pool, _batches(self.windows, self.layout, drawn, batch_size=self.batch_size, random=random))
        return collate(self._pool[1][number % POOL_BATCHES])


class ValidationWindows(Dataset[TokenBatch]):
    """The whole split as windows side by side, in a fixed shuffled order; read in pools of batches of similar length."""

    def __init__(self, windows: Windows, layout: StageLayout, *, batch_size: int) -> None:
        self.windows, self.layout, self.batch_size = windows, layout, batch_size
        every = windows.all()
        self._every = every.in_order(generator(0).permutation(len(every)).astype(np.uint32))
        self._pool: tuple[int, list[list[TokenSequence]]] = (-1, [])

    def __len__(self) -> int:
        return math.ceil(len(self._every) / self.batch_size)

    def sequences(self, number: int) -> list[TokenSequence]:
        """What batch `number` holds, one by one: for baselines that score the same tokens."""
        pool, windows = number // POOL_BATCHES, self.batch_size * POOL_BATCHES
        if self._pool[0] != pool:
            drawn = self._every[pool * windows : (pool + 1) * windows]
            random = generator(0, pool)
            self._pool = (pool, _batches(self.windows, self.layout, drawn, batch_size=self.batch_size, random=random))
        return self._pool[1][number % POOL_BATCHES]

    def __getitem__(self, number: int) -> TokenBatch:
        if number >= len(self):
            raise IndexError(number)
        return collate(self.sequences(number))


def _batches(
    windows: Windows, layout: StageLayout, drawn: list[Window], *, batch_size: int, random: Generator
) -> list[list[TokenSequence]]:
    """A pool: batches of a similar number of tokens, in random order."""
    sequences = [read_sequence(windows, layout, window) for window in drawn]
    batches = in_length_buckets(sequences, [len(sequence.inputs) for sequence in sequences], batch_size)
    return [batches[position] for position in random.permutation(len(batches))]
