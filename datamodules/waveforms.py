"""Audio for the tokenizers: random crops to train on, fixed ones to validate on, whole utterances to tokenize."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiolm.audio import AudioError, is_silent, read_audio
from audiolm.manifest import Manifest, Utterance
from datamodules.sampling import generator
from datamodules.sharing import Share

ALONE = Share()


@dataclass(frozen=True)
class WaveformBatch:
    """Crops of audio.

    Attributes:
        audio: (batch, samples) float32 mono; a crop of an utterance shorter than the window ends in silence.
        samples: (batch,) int64, how many samples of each row are the utterance's own.
        counts: False where another process has these crops too, in a validation that cannot be divided evenly: this one
            goes through the model with them, and measures nothing.
    """

    audio: Tensor
    samples: Tensor
    counts: bool = True

    @property
    def weight(self) -> int:
        """Rows that a measure of this batch stands for."""
        return len(self.audio) if self.counts else 0

    def to(self, device: torch.device, non_blocking: bool = False) -> "WaveformBatch":
        """The same batch on another device."""
        audio = self.audio.to(device, non_blocking=non_blocking)
        return WaveformBatch(audio, self.samples.to(device), self.counts)

    def pin_memory(self) -> "WaveformBatch":
        """The same batch in page-locked memory."""
        return WaveformBatch(self.audio.pin_memory(), self.samples.pin_memory(), self.counts)


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

    def collate(self, crops: Sequence[Tensor]) -> WaveformBatch:
        """Stack crops; only crops of utterances shorter than the window are completed with silence."""
        audio = torch.zeros(len(crops), self.window_samples)
        for row, crop in zip(audio, crops, strict=True):
            row[: len(crop)] = crop
        return WaveformBatch(audio, torch.tensor([len(crop) for crop in crops]))


class TrainingCrops(Dataset[WaveformBatch]):
    """Batch number n: random crops, drawn in proportion to the length of the utterances, the same ones for the same seed.

    All rows of a batch are drawn, and this process's share of them is read.
    """

    def __init__(
        self, reader: CropReader, utterances: Sequence[Utterance], *, batch_size: int, seed: int, share: Share = ALONE
    ) -> None:
        self.reader, self.utterances, self.batch_size, self.seed = reader, utterances, batch_size, seed
        self.share = share
        self._ends = np.cumsum([utterance.seconds for utterance in utterances])

    def __getitem__(self, number: int) -> WaveformBatch:
        step, micro_batch = self.share.divide(number)
        random = generator(self.seed, step)
        picks = np.searchsorted(self._ends, random.uniform(0, self._ends[-1], self.batch_size), side="right")
        drawn = []
        for pick in picks:
            utterance = self.utterances[min(int(pick), len(self.utterances) - 1)]
            room = max(0, utterance.samples - self.reader.file_samples(utterance))
            drawn.append((utterance, int(random.integers(0, room + 1))))
        rows = self.share.rows(micro_batch, len(drawn))
        return self.reader.collate([self.reader.read(*drawn[row]) for row in rows])


class ValidationCrops(Dataset[WaveformBatch]):
    """All utterances as crops side by side, in a fixed shuffled order; a remainder shorter than half a window is left out.

    All processes have equally many batches; where the last rows do not suffice for all, some get crops that count for nothing.
    """

    def __init__(
        self, reader: CropReader, utterances: Sequence[Utterance], *, batch_size: int, share: Share = ALONE
    ) -> None:
        self.reader, self.batch_size, self.share = reader, batch_size, share
        crops = []
        for utterance in utterances:
            window = reader.file_samples(utterance)
            last = max(1, round(utterance.samples / window))
            crops += [(utterance, number * window) for number in range(last)]
        order = generator(0).permutation(len(crops))
        self.crops = [crops[position] for position in order]

    def __len__(self) -> int:
        return math.ceil(len(self.crops) / self.batch_size) * self.share.micro_batches

    def __getitem__(self, number: int) -> WaveformBatch:
        if number >= len(self):
            raise IndexError(number)
        step, micro_batch = self.share.divide(number)
        chosen = self.crops[step * self.batch_size : (step + 1) * self.batch_size]
        rows = self.share.rows(micro_batch, len(chosen))
        batch = self.reader.collate([self.reader.read(*chosen[row]) for row in rows or [0]])
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
    """Whole utterances, one by one; what cannot be read is handed on as a defect, never skipped silently."""

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
            return WholeUtterance(utterance, None, str(error))
        if is_silent(audio):
            return WholeUtterance(utterance, None, "silent from beginning to end")
        return WholeUtterance(utterance, audio[None])
