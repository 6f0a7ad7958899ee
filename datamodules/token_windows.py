"""Token batches for the language models: aligned windows of the token store, flattened by the stage's layout."""

from torch.utils.data import Dataset

from audiolm.tokens.layout import StageLayout, TokenBatch, TokenSequence, collate
from audiolm.tokens.windows import Window, Windows
from datamodules.sampling import generator, in_length_buckets

POOL_BATCHES = 16  # batches that are drawn together and sorted by length, so that little is padded


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
        self._pool: tuple[int, list[list[TokenSequence]]] = (
            -1,
            [],
        )  # the pool read last: its batches follow each other

    def __getitem__(self, number: int) -> TokenBatch:
        pool = number // POOL_BATCHES
        if self._pool[0] != pool:
            random = generator(self.seed, pool)
            drawn = self.windows.draw(random, self.batch_size * POOL_BATCHES)
            sequences = [read_sequence(self.windows, self.layout, window) for window in drawn]
            batches = in_length_buckets(sequences, [len(sequence.inputs) for sequence in sequences], self.batch_size)
            self._pool = (pool, [batches[position] for position in random.permutation(POOL_BATCHES)])
        return collate(self._pool[1][number % POOL_BATCHES])


class ValidationWindows(Dataset[TokenBatch]):
    """The whole split as windows side by side, in a fixed shuffled order of batches of similar length."""

    def __init__(self, windows: Windows, layout: StageLayout, *, batch_size: int) -> None:
        self.windows, self.layout = windows, layout
        every = windows.all()
        batches = in_length_buckets(every, [window.blocks for window in every], batch_size)
        self.batches = [batches[position] for position in generator(0).permutation(len(batches))]

    def __len__(self) -> int:
        return len(self.batches)

    def sequences(self, number: int) -> list[TokenSequence]:
        """What batch `number` holds, one by one: for baselines that score the same tokens."""
        return [read_sequence(self.windows, self.layout, window) for window in self.batches[number]]

    def __getitem__(self, number: int) -> TokenBatch:
        if number >= len(self):
            raise IndexError(number)
        return collate(self.sequences(number))
