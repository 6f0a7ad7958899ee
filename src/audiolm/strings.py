"""Strings by the million: their bytes one after the other, and where each ends."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK = 2**14  # strings that are decoded together


def encoded(text: str) -> bytes:
    """UTF-8, in which a file name that is not UTF-8 survives."""
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Strings:
    """A column of strings that takes their bytes and 8 more for each, in memory or mapped from a file."""

    bytes: NDArray[np.uint8]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Strings":
        """A column of these."""
        content, ends = bytearray(), []
        for text in texts:
            content += encoded(text)
            ends.append(len(content))
        return cls(np.frombuffer(content, np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        return self.bytes[start : self.ends[row]].tobytes().decode("utf-8", "surrogatepass")

    def take(self, rows: NDArray[np.integer]) -> list[str]:
        """The strings of some rows, which are cheapest in ascending order."""
        starts = np.where(rows > 0, self.ends[np.maximum(rows, 1) - 1], 0)
        pairs = zip(starts.tolist(), self.ends[rows].tolist(), strict=True)
        return [self.bytes[start:end].tobytes().decode("utf-8", "surrogatepass") for start, end in pairs]

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), CHUNK):
            yield from self.take(np.arange(first, min(first + CHUNK, len(self))))
