"""Audio for the tokenizers: random crops to train on, fixed ones to validate on, whole utterances to tokenize."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiolm.audio import AudioError, is_silent, read_audio
from audiolm.manifest import Manifest, Utterance, Utterances
from datamodules.sampling import generator
from datamodules.sharing import Share
from datamodules.unreadable import Unreadable, first_readable, require_corpus

ALONE = Share()


@dataclass(frozen=True)
class WaveformBatch:
    """Crops of audio.

    Attributes:
        audio: (batch, samples) float32 mono; a crop of an utterance shorter than the window ends in silence.
        samples: (batch,) int64, how many samples of each row are the utterance's own.
        counts: False where another process has these crops too, in a validation that cannot be divided evenly: this one
            goes through the model with them, and measures nothing.
        unreadable: what was drawn and could not be read; other crops stand in its place.
    """

    audio: Tensor
    samples: Tensor
    counts: bool = True
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def weight(self) -> int:
        """Rows that a measure of this batch stands for."""
        return len(self.audio) if self.counts else 0

    def to(self, device: torch.device, non_blocking: bool = False) -> "WaveformBatch":
        """The same batch on another device."""
        return replace(self, audio=self.audio.to(device, non_blocking=non_blocking), samples=self.samples.to(device))

    def pin_memory(self) -> "WaveformBatch":
        """The same batch in page-locked memory."""
        return replace(self, audio=self.audio.pin_memory(), samples=self.samples.pin_memory())


class CropReader:
    """Reads crops of one length at one rate, only the part of the file that is needed.

    Args:
        window_samples: length of a crop at `sample_rate_hz`.
    """

    def __init__(self, manifest: Manifest, *, sample_rate_hz: int, window_samples: int) -> None:
        self.manifest, self.sample_rate_hz, self.window_samples = manifest, sample_rate_hz, window_samples

    def file_samples(self, utterance: Utterance) -> int:
        """Samples of a full window, in the file's own rate."""
        return -(-self.window_samples * utterance.sample_rate_hz // self.sample_rate_hz)

    def read(self, utterance: Utterance, offset: int) -> Tensor:
        """(samples,) at most one window, from `offset` samples (of the file's rate) into the utterance."""
        wanted = min(self.file_samples(utterance), utterance.samples - offset)
        audio = read_audio(
            self.manifest.root / utterance.path,
            sample_rate_hz=self.sample_rate_hz,
            start=utterance.start + offset,
            samples=wanted,
            dc_offset=utterance.dc_offset,
        )
        return audio[: self.window_samples]

    def beginnings(self, utterances: Sequence[Utterance], *, count: int) -> Iterator[tuple[Tensor, list[Unreadable]]]:
        """(samples,) at most one window from the start of `count` utterances, spread evenly, or of all if there are fewer.

        In the place of one that cannot be read stands the next; what could not be read comes with it.
        """
        for first in range(0, len(utterances), max(1, len(utterances) // count))[:count]:

            def draw(attempt: int, first: int = first) -> tuple[Utterance, int]:
                return utterances[(first + attempt) % len(utterances)], 0

            yield first_readable(draw, self.read, root=self.manifest.root)

    def collate(self, crops: Sequence[Tensor], unreadable: Sequence[Unreadable] = ()) -> WaveformBatch:
        """Stack crops; only crops of utterances shorter than the window are completed with silence."""
        audio = torch.zeros(len(crops), self.window_samples)
        for row, crop in zip(audio, crops, strict=True):
            row[: len(crop)] = crop
        return WaveformBatch(audio, torch.tensor([len(crop) for crop in crops]), unreadable=tuple(unreadable))


class TrainingCrops(Dataset[WaveformBatch]):
    """Batch number n: random crops, drawn in proportion to the length of the utterances, the same ones for the same seed.

    In the place of a crop that cannot be read stands another draw, a function of (seed, n, row, attempt).

    All rows of a batch are drawn, and this process's share of them is read.
    """

    def __init__(
        self, reader: CropReader, utterances: Sequence[Utterance], *, batch_size: int, seed: int, share: Share = ALONE
    ) -> None:
        self.reader, self.utterances, self.batch_size, self.seed = reader, utterances, batch_size, seed
        self.share = share
        self._ends = np.cumsum(Utterances.of(utterances).seconds)

    def __getitem__(self, number: int) -> WaveformBatch:
        step, micro_batch = self.share.divide(number)
        random = generator(self.seed, step)
        crops, unreadable = [], []
        picks = random.uniform(0, self._ends[-1], self.batch_size)
        drawn = [self._placed(pick, random) for pick in picks]
        for row in self.share.rows(micro_batch, len(drawn)):

            def draw(attempt: int, row: int = row) -> tuple[Utterance, int]:
                if not attempt:
                    return drawn[row]
                again = generator(self.seed, step, row, attempt)
                return self._placed(again.uniform(0, self._ends[-1]), again)

            crop, failed = first_readable(draw, self.reader.read, root=self.reader.manifest.root)
            crops.append(crop)
            unreadable += failed
        return self.reader.collate(crops, unreadable)

    def _placed(self, pick: float, random: np.random.Generator) -> tuple[Utterance, int]:
        """The utterance at `pick` seconds of all, and where in it a crop begins."""
        at = int(np.searchsorted(self._ends, pick, side="right"))
        utterance = self.utterances[min(at, len(self.utterances) - 1)]
        room = max(0, utterance.samples - self.reader.file_samples(utterance))
        return utterance, int(random.integers(0, room + 1))


class ShuffledCrops(Sequence[tuple[Utterance, int]]):
    """Utterances as crops side by side, in a fixed shuffled order: (utterance, sample of the file's rate where it begins).

    Millions of crops are 4 bytes each; a remainder shorter than half a window is left out, a short utterance is one crop.
    """

    def __init__(self, reader: CropReader, utterances: Sequence[Utterance]) -> None:
        self.utterances = Utterances.of(utterances)
        self._window_samples = -(-reader.window_samples * self.utterances.sample_rates_hz // reader.sample_rate_hz)
        crops = np.maximum(1, np.round(self.utterances.samples / self._window_samples)).astype(np.int64)
        self._ends = np.cumsum(crops)
        self._order = generator(0).permutation(int(crops.sum())).astype(np.uint32)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, position: int) -> tuple[Utterance, int]: ...
    @overload
    def __getitem__(self, position: slice) -> list[tuple[Utterance, int]]: ...

    def __getitem__(self, position: int | slice) -> tuple[Utterance, int] | list[tuple[Utterance, int]]:
        if isinstance(position, slice):
            return [self._at(int(number)) for number in self._order[position]]
        return self._at(int(self._order[position]))

    def _at(self, number: int) -> tuple[Utterance, int]:
        row = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[row - 1]) if row else 0
        return self.utterances[row], (number - before) * int(self._window_samples[row])


class ValidationCrops(Dataset[WaveformBatch]):
    """All utterances as crops side by side, in a fixed shuffled order; a remainder shorter than half a window is left out.

    In the place of a crop that cannot be read stands another one, always the same.

    All processes have equally many batches; where the last rows do not suffice for all, some get crops that count for nothing.
    """

    def __init__(
        self, reader: CropReader, utterances: Sequence[Utterance], *, batch_size: int, share: Share = ALONE
    ) -> None:
        self.reader, self.batch_size, self.share = reader, batch_size, share
        self.crops = ShuffledCrops(reader, utterances)

    def __len__(self) -> int:
        return math.ceil(len(self.crops) / self.batch_size) * self.share.micro_batches

    def __getitem__(self, number: int) -> WaveformBatch:
        if number >= len(self):
            raise IndexError(number)
        step, micro_batch = self.share.divide(number)
        chosen = self.crops[step * self.batch_size : (step + 1) * self.batch_size]
        rows = self.share.rows(micro_batch, len(chosen))
        crops, unreadable = [], []
        for row in rows or [0]:

            def draw(attempt: int, position: int = step * self.batch_size + row) -> tuple[Utterance, int]:
                other = generator(0, position, attempt).integers(len(self.crops))
                return self.crops[int(other) if attempt else position]

            crop, failed = first_readable(draw, self.reader.read, root=self.reader.manifest.root)
            crops.append(crop)
            unreadable += failed
        batch = self.reader.collate(crops, unreadable)
        return batch if rows else replace(batch, counts=False)


@dataclass(frozen=True)
class WholeUtterance:
    """One utterance to tokenize: `audio` is (1, samples), or None with `defect` saying why it cannot be used."""

    utterance: Utterance
    audio: Tensor | None
    defect: str = ""

    def to(self, device: torch.device, non_blocking: bool = False) -> "WholeUtterance":
        """The same utterance on another device."""
        audio = self.audio if self.audio is None else self.audio.to(device, non_blocking=non_blocking)
        return WholeUtterance(self.utterance, audio, self.defect)


class WholeUtterances(Dataset[WholeUtterance]):
    """Whole utterances, one by one; what cannot be read is handed on as a defect, never skipped silently.

    Where others cannot be read either, none of them is defective: the corpus is gone, which is a `CorpusError`.
    """

    def __init__(self, manifest: Manifest, utterances: Sequence[Utterance], *, sample_rate_hz: int) -> None:
        self.manifest, self.utterances, self.sample_rate_hz = manifest, utterances, sample_rate_hz

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, number: int) -> WholeUtterance:
        utterance = self.utterances[number]
        try:
            audio = read_audio(
                self.manifest.root / utterance.path,
                sample_rate_hz=self.sample_rate_hz,
                start=utterance.start,
                samples=utterance.samples,
                dc_offset=utterance.dc_offset,
            )
        except AudioError as error:
            require_corpus(self.manifest, utterance)
            return WholeUtterance(utterance, None, str(error))
        if is_silent(audio):
            return WholeUtterance(utterance, None, "silent from beginning to end")
        return WholeUtterance(utterance, audio[None])
