"""Utterances in columns: millions of them in a few hundred megabytes, an object only for the one that is asked for."""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from audiolm.strings import CHUNK, Strings

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

NUMBERS = {"start": "<i8", "samples": "<i8", "sample_rate_hz": "<i8", "true_end": "?", "dc_offset": "<f8"}
NAMES = ("path", "speaker", "split")  # columns of numbers into a list of different strings


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of one audio file."""

    id: str  # unique in the manifest: path without suffix, and @start if the recording was cut
    path: str  # relative to the corpus root, with /
    speaker: str
    split: Split
    start: int  # first sample, at the file's own rate
    samples: int  # at the file's own rate
    sample_rate_hz: int  # the file's own
    true_end: bool  # False where a long recording was cut at no pause: nobody stopped speaking there
    dc_offset: float  # constant to subtract from every sample

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate_hz


@dataclass(frozen=True)
class Columns:
    """The fields of all utterances of a corpus, one array each; in memory, or mapped from files."""

    ids: Strings
    names: dict[str, Strings]  # the different paths and speakers
    numbers: dict[str, NDArray[Any]]  # `NUMBERS`, and for each of `NAMES` a position in its list

    @cached_property
    def speakers(self) -> list[str]:
        """The different speakers, as strings that utterances share."""
        return list(self.names["speaker"])

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> "Columns":
        """The columns of utterances that need not all exist at a time."""
        known: dict[str, dict[str, int]] = {name: {} for name in NAMES}
        known["split"] = {split: number for number, split in enumerate(SPLITS)}
        types = NUMBERS | dict.fromkeys(NAMES, "<u4")
        chunks: dict[str, list[NDArray[Any]]] = {name: [np.empty(0, type_)] for name, type_ in types.items()}

        def ids() -> Iterator[str]:
            rest = iter(utterances)
            while chunk := list(islice(rest, CHUNK)):
                for name in NAMES:
                    numbers = [known[name].setdefault(getattr(u, name), len(known[name])) for u in chunk]
                    chunks[name].append(np.array(numbers, "<u4"))
                for name, type_ in NUMBERS.items():
                    chunks[name].append(np.array([getattr(u, name) for u in chunk], type_))
                yield from (utterance.id for utterance in chunk)

        strings = Strings.of(ids())
        if len(known["split"]) > len(SPLITS):
            raise ValueError(f"a split is one of {', '.join(SPLITS)}, got {[*known['split']][len(SPLITS)]!r}")
        numbers = {name: np.concatenate(arrays) for name, arrays in chunks.items()}
        return cls(strings, {name: Strings.of(known[name]) for name in ("path", "speaker")}, numbers)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by name, to be written to files."""
        strings = {"id": self.ids, **self.names}
        parts = {
            f"{name}.{part}": getattr(column, part) for name, column in strings.items() for part in ("bytes", "ends")
        }
        return {**self.numbers, **parts}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> "Columns":
        """The inverse of `arrays`."""
        strings = {name: Strings(arrays[f"{name}.bytes"], arrays[f"{name}.ends"]) for name in ("id", "path", "speaker")}
        return cls(strings.pop("id"), strings, {name: arrays[name] for name in (*NAMES, *NUMBERS)})


class Utterances(Sequence[Utterance]):
    """Some or all utterances of a corpus: a sequence that makes `Utterance` objects when they are asked for.

    Args:
        rows: positions in the columns, by default all.
    """

    def __init__(self, columns: Columns, rows: NDArray[np.integer[Any]] | None = None) -> None:
        self._columns = columns
        self._rows = np.arange(len(columns.ids), dtype=np.uint32) if rows is None else rows

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> "Utterances":
        """All of these; a column store is left as it is."""
        return utterances if isinstance(utterances, cls) else cls(Columns.of(utterances))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> Utterance: ...
    @overload
    def __getitem__(self, position: slice) -> "Utterances": ...

    def __getitem__(self, position: int | slice) -> "Utterance | Utterances":
        if isinstance(position, slice):
            return self._of_rows(self._rows[position])
        return self._made(np.atleast_1d(self._rows[position]))[0]

    def __iter__(self) -> Iterator[Utterance]:
        for first in range(0, len(self), CHUNK):
            yield from self._made(self._rows[first : first + CHUNK])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def split(self, name: Split) -> "Utterances":
        """Those of one split, in the same order."""
        return self._of_rows(self._rows[self._number("split") == SPLITS.index(name)])

    def without(self, ids: AbstractSet[str]) -> "Utterances":
        """Those whose id is not among these, in the same order."""
        if not ids:
            return self
        return self._of_rows(self._rows[np.fromiter((id_ not in ids for id_ in self.ids()), bool, len(self))])

    def ids(self) -> Iterator[str]:
        """Their ids, one after the other."""
        for first in range(0, len(self), CHUNK):
            yield from self._columns.ids.take(self._rows[first : first + CHUNK])

    @property
    def columns(self) -> Columns:
        """The columns that this is a view of; after `compact`, they hold these utterances and no others."""
        return self._columns

    def compact(self) -> "Utterances":
        """The same utterances in columns of their own; itself if it is a view of all."""
        whole = len(self) == len(self._columns.ids) and bool((self._rows[1:] > self._rows[:-1]).all())
        return self if whole else Utterances(Columns.of(self))

    @property
    def seconds(self) -> NDArray[np.float64]:
        """How long each lasts."""
        return self.samples / self.sample_rates_hz

    @property
    def samples(self) -> NDArray[np.int64]:
        """Samples of each, at its file's own rate."""
        return self._number("samples")

    @property
    def sample_rates_hz(self) -> NDArray[np.int64]:
        """Rate of each one's file."""
        return self._number("sample_rate_hz")

    @property
    def speakers(self) -> set[str]:
        """Who speaks."""
        return {self._columns.speakers[number] for number in np.unique(self._number("speaker")).tolist()}

    @property
    def files(self) -> int:
        """How many files they are from."""
        return len(np.unique(self._number("path")))

    def of_file(self, path: str) -> "Utterances":
        """Those of one file, by its path in the corpus."""
        numbers = [number for number, name in enumerate(self._columns.names["path"]) if name == path]
        return self._of_rows(self._rows[np.isin(self._number("path"), numbers)])

    def _number(self, name: str) -> NDArray[Any]:
        return self._columns.numbers[name][self._rows]

    def _of_rows(self, rows: NDArray[np.integer[Any]]) -> "Utterances":
        return Utterances(self._columns, rows)

    def _made(self, rows: NDArray[np.integer[Any]]) -> list[Utterance]:
        columns = self._columns
        path, speaker, split = (columns.numbers[name][rows] for name in NAMES)
        numbers = (columns.numbers[name][rows].tolist() for name in NUMBERS)
        speakers = [self._columns.speakers[number] for number in speaker.tolist()]
        splits = [SPLITS[number] for number in split.tolist()]
        fields = zip(columns.ids.take(rows), columns.names["path"].take(path), speakers, splits, *numbers, strict=True)
        return [Utterance(*row) for row in fields]
