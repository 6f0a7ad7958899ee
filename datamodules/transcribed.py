"""Whole utterances with what is said in them, in batches of similar length: what a recogniser learns from."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiolm.manifest import Manifest, Utterance
from audiolm.recognition.alphabet import encode, frames_needed, spelled
from audiolm.recognition.transcripts import Spoken, Transcripts
from datamodules.sampling import generator
from datamodules.sharing import Share
from datamodules.unreadable import Unreadable, first_readable
from datamodules.waveforms import ALONE, CropReader

LENGTH_JITTER = 0.1  # of the lengths that utterances are sorted by: they meet others every epoch
NAMED = 3  # examples of utterances that are left out


@dataclass(frozen=True)
class TranscribedBatch:
    """Utterances and their letters.

    Attributes:
        audio: (batch, samples) float32 mono, silence after each row's own samples.
        samples: (batch,) int64.
        targets: (batch, letters) int64 ids of `recognition.alphabet`, 0 after each row's own.
        letters: (batch,) int64.
        counts: False where another process has these rows too: see `WaveformBatch`.
        unreadable: what was drawn and could not be read; other utterances stand in its place.
    """

    audio: Tensor
    samples: Tensor
    targets: Tensor
    letters: Tensor
    counts: bool = True
    unreadable: tuple[Unreadable, ...] = ()

    def to(self, device: torch.device, non_blocking: bool = False) -> "TranscribedBatch":
        """The same batch on another device."""
        moved = {
            n: getattr(self, n).to(device, non_blocking=non_blocking)
            for n in ("audio", "samples", "targets", "letters")
        }
        return replace(self, **moved)

    def pin_memory(self) -> "TranscribedBatch":
        """The same batch in page-locked memory."""
        return replace(self, **{n: getattr(self, n).pin_memory() for n in ("audio", "samples", "targets", "letters")})


@dataclass(frozen=True)
class Transcribed:
    """The utterances of a split that can be learned from, and how many cannot.

    Attributes:
        utterances: whole ones, or the stretches of longer ones that the transcripts tell.
        texts: spelled, one for each.
        left_out: reason to the ids of the others.
    """

    utterances: list[Utterance] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        hours = sum(utterance.seconds for utterance in self.utterances) / 3600
        lines = [f"{len(self.utterances)} utterances with transcripts, {hours:.2f} hours"]
        for reason, ids in self.left_out.items():
            more = ", …" if len(ids) > NAMED else ""
            lines.append(f"left out: {len(ids)} {reason} ({', '.join(ids[:NAMED])}{more})")
        return "; ".join(lines)


def transcribed(
    utterances: Sequence[Utterance],
    transcripts: Transcripts,
    *,
    longest_seconds: float,
    frames: Callable[[float], int],
) -> Transcribed:
    """Find what is said in utterances.

    A transcript of a whole recording belongs to an utterance that is the whole of it; one with times to a stretch of the
    utterance that holds it.

    Args:
        longest_seconds: longer ones are left out, and counted.
        frames: how many letters at most may be recognised in so many seconds.

    Raises:
        ValueError: if nothing is left, saying what was left out and why; or if two recordings have one transcript.
    """
    found = Transcribed()
    pieces = Counter(utterance.path for utterance in utterances)
    owners: dict[int, str] = {}
    for utterance in utterances:
        spoken = transcripts.of(utterance.path)
        for one in spoken:
            owner = owners.setdefault(id(one), utterance.path)
            if owner != utterance.path:
                raise ValueError(
                    f"{owner} and {utterance.path} have one transcript ({one.where}): give paths in its first column"
                )
        parts = [
            part for one in spoken if (part := _stretch(utterance, one, whole=pieces[utterance.path] == 1)) is not None
        ]
        if not parts:
            reason = (
                "without a transcript" if not spoken else "that are pieces of a recording whose transcript has no times"
            )
            found.left_out.setdefault(reason, []).append(utterance.id)
        for stretch, text in parts:
            _add(found, stretch, text, longest_seconds=longest_seconds, frames=frames)
    if not found.utterances:
        raise ValueError(f"nothing can be learned from {len(utterances)} utterances and {transcripts.source}: {found}")
    return found


def _stretch(utterance: Utterance, spoken: Spoken, *, whole: bool) -> tuple[Utterance, str] | None:
    if spoken.start_seconds is None or spoken.end_seconds is None:
        return (utterance, spoken.text) if whole and not utterance.start else None
    rate = utterance.sample_rate_hz
    start, end = round(spoken.start_seconds * rate), round(spoken.end_seconds * rate)
    if not utterance.start <= start < end <= utterance.start + utterance.samples:
        return None
    return replace(utterance, id=f"{utterance.id}@{start}", start=start, samples=end - start), spoken.text


def _add(
    found: Transcribed, utterance: Utterance, text: str, *, longest_seconds: float, frames: Callable[[float], int]
) -> None:
    try:
        text = spelled(text)
    except ValueError:
        found.left_out.setdefault("whose transcript has other characters than letters", []).append(utterance.id)
        return
    if utterance.seconds > longest_seconds:
        found.left_out.setdefault(f"longer than {longest_seconds:g} s", []).append(utterance.id)
    elif frames_needed(encode(text)) > frames(utterance.seconds):
        reason = f"with more letters than frames, at {frames(1.0)} frames a second"
        found.left_out.setdefault(reason, []).append(utterance.id)
    else:
        found.utterances.append(utterance)
        found.texts.append(text)


class TranscribedReader:
    """Reads rows of a split whole, at one rate, with their letters."""

    def __init__(self, manifest: Manifest, found: Transcribed, *, sample_rate_hz: int) -> None:
        longest = max(utterance.seconds for utterance in found.utterances)
        self.crops = CropReader(
            manifest, sample_rate_hz=sample_rate_hz, window_samples=math.ceil((longest + 1) * sample_rate_hz)
        )
        self.found = found

    def batch(self, draws: Sequence[Callable[[int], int]]) -> TranscribedBatch:
        """Rows side by side; each draw says which utterance to take at the first, second, … attempt."""
        rows: list[tuple[Tensor, list[int]]] = []
        unreadable: list[Unreadable] = []
        for draw in draws:
            drawn: list[int] = []

            def utterance(
                attempt: int, draw: Callable[[int], int] = draw, drawn: list[int] = drawn
            ) -> tuple[Utterance, int]:
                drawn.append(draw(attempt))
                return self.found.utterances[drawn[-1]], 0

            audio, failed = first_readable(utterance, self.crops.read, root=self.crops.manifest.root)
            rows.append((audio, encode(self.found.texts[drawn[-1]])))
            unreadable += failed
        return collated(rows, unreadable)


def collated(rows: Sequence[tuple[Tensor, list[int]]], unreadable: Sequence[Unreadable] = ()) -> TranscribedBatch:
    """Stack (samples,) of audio and ids of letters, as long as the longest."""
    samples, letters = ([len(row[part]) for row in rows] for part in (0, 1))
    audio = torch.zeros(len(rows), max(samples))
    targets = torch.zeros(len(rows), max(letters), dtype=torch.int64)
    for number, (sound, ids) in enumerate(rows):
        audio[number, : len(sound)] = sound
        targets[number, : len(ids)] = torch.tensor(ids)
    return TranscribedBatch(audio, torch.tensor(samples), targets, torch.tensor(letters), unreadable=tuple(unreadable))


class TrainingTranscribed(Dataset[TranscribedBatch]):
    """Batch number n, a function of the seed: every epoch sorts all utterances by length, roughly, and shuffles the batches.

    Where the last batch of an epoch would not be full, some utterances come twice. Of every batch this process's share is read.
    """

    def __init__(self, reader: TranscribedReader, *, batch_size: int, seed: int, share: Share = ALONE) -> None:
        self.reader, self.batch_size, self.seed, self.share = reader, batch_size, seed, share
        self.seconds = np.array([utterance.seconds for utterance in reader.found.utterances])
        self.batches = math.ceil(len(self.seconds) / batch_size)
        self._epoch = lru_cache(maxsize=2)(self._sorted)

    def rows(self, step: int) -> list[int]:
        """The utterances of a step's batch, by number."""
        epoch, number = divmod(step, self.batches)
        return [int(row) for row in self._epoch(epoch)[number]]

    def _sorted(self, epoch: int) -> np.ndarray:
        random = generator(self.seed, epoch)
        everybody = np.resize(random.permutation(len(self.seconds)), self.batches * self.batch_size)
        lengths = self.seconds[everybody] * random.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(everybody))
        return random.permutation(everybody[np.argsort(lengths, kind="stable")].reshape(self.batches, self.batch_size))

    def __getitem__(self, number: int) -> TranscribedBatch:
        step, micro_batch = self.share.divide(number)
        chosen = self.rows(step)

        def draw(attempt: int, row: int) -> int:
            if not attempt:
                return chosen[row]
            return int(generator(self.seed, step, row, attempt).integers(len(self.seconds)))

        rows = self.share.rows(micro_batch, len(chosen))
        return self.reader.batch([lambda attempt, row=row: draw(attempt, row) for row in rows])  # type: ignore[misc]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_epoch"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._epoch = lru_cache(maxsize=2)(self._sorted)


class ValidationTranscribed(Dataset[TranscribedBatch]):
    """All utterances once, by length. Processes have equally many batches, as in `ValidationCrops`."""

    def __init__(self, reader: TranscribedReader, *, batch_size: int, share: Share = ALONE) -> None:
        self.reader, self.batch_size, self.share = reader, batch_size, share
        seconds = [utterance.seconds for utterance in reader.found.utterances]
        self.order = sorted(range(len(seconds)), key=lambda row: (seconds[row], row))

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size) * self.share.micro_batches

    def __getitem__(self, number: int) -> TranscribedBatch:
        if number >= len(self):
            raise IndexError(number)
        step, micro_batch = self.share.divide(number)
        chosen = self.order[step * self.batch_size : (step + 1) * self.batch_size]
        rows = self.share.rows(micro_batch, len(chosen))

        def draw(attempt: int, row: int) -> int:
            return int(generator(0, row, attempt).integers(len(self.order))) if attempt else chosen[row]

        batch = self.reader.batch([lambda attempt, row=row: draw(attempt, row) for row in rows or [0]])  # type: ignore[misc]
        return batch if rows else replace(batch, counts=False)
