"""Recordings that cannot be read any more while a stage trains: replaced, named, listed, counted, and too many stop it."""

import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor

from audiolm.audio import AudioError, audio_info
from audiolm.files import disk_full, found_no_room
from audiolm.manifest import Manifest, Utterance, write_lines
from audiolm.recordings import CorpusError

TRIES = (
    8  # recordings of which none can be read before the corpus counts as gone: by bad luck, 1 % of them, once in 10^16
)


@dataclass(frozen=True)
class Unreadable:
    """An utterance whose recording could not be read, and why."""

    id: str
    path: str
    reason: str


class Recorded(Protocol):
    """A stretch of an audio file."""

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str | Path: ...


Stretch = TypeVar("Stretch", bound=Recorded)


def first_readable(
    draw: Callable[[int], tuple[Stretch, int]], read: Callable[[Stretch, int], Tensor], *, root: Path
) -> tuple[Tensor, list[Unreadable]]:
    """What `read(*draw(0))` gives, or `read(*draw(1))` if that cannot be read, and so on; and what could not be read.

    Raises:
        CorpusError: if `TRIES` different recordings cannot be read (a small corpus: one after the other): it is gone.
    """
    unreadable: dict[str, Unreadable] = {}
    for attempt in range(TRIES**2):
        utterance, offset = draw(attempt)
        try:
            return read(utterance, offset), list(unreadable.values())
        except AudioError as error:
            path = str(utterance.path)
            unreadable[path] = Unreadable(utterance.id, path, str(error))
        if len(unreadable) == TRIES:
            break
    raise _gone(root, [one.reason for one in unreadable.values()])


def require_corpus(manifest: Manifest, unreadable: Utterance) -> None:
    """After an utterance could not be read: is it that one alone?

    Raises:
        CorpusError: if none of `TRIES` others, spread over the manifest, can be opened either.
    """
    utterances = manifest.utterances
    apart = max(1, len(utterances) // (TRIES + 1))
    reasons: list[str] = []
    for other in (other for other in utterances[::apart] if other.path != unreadable.path):
        try:
            audio_info(manifest.root / other.path)
        except AudioError as error:
            reasons.append(str(error))
        else:
            return
    if reasons:
        raise _gone(manifest.root, reasons)


def _gone(root: Path, reasons: Sequence[str]) -> CorpusError:
    return CorpusError(
        f"The corpus in {root} seems to be gone: of {len(reasons)} recordings tried one after the other none can be read "
        f"({reasons[0]}). Is its disk mounted on this machine, and may you read there? Run the same command again afterwards: "
        "it continues. If the corpus has moved, run `audiolm prepare` again."
    )


class UnreadableFiles:
    """The unreadable files of a stage: `unreadable.jsonl`, a line for each, shared by all processes of the run.

    Args:
        path: the list.
        files: how many files the corpus has.
        max_share: of the files that may be unreadable; at least one may, unless the share is 0.
    """

    def __init__(self, path: Path, *, files: int, max_share: float) -> None:
        self.path, self.files, self.most = path, files, math.ceil(max_share * files)
        self._bytes_read = 0
        self._listed: dict[str, Unreadable] = {}

    def __len__(self) -> int:
        """Files that all processes have found so far."""
        self._read_news()
        return len(self._listed)

    def forget_those_that(self, readable: Callable[[Unreadable], bool]) -> None:
        """Take what can be read again off the list: for one process, before the others look at it."""
        self._read_news()
        left = [one for one in self._listed.values() if not readable(one)]
        if len(left) < len(self._listed):
            write_lines(self.path, map(_line, left))
            self._listed, self._bytes_read = {}, 0

    def note(self, found: Iterable[Unreadable]) -> None:
        """Name and list files that are not listed yet.

        Raises:
            CorpusError: if there are more than may be.
            OSError: if the list cannot be written.
        """
        for one in found:
            self._read_news()
            if one.path in self._listed:
                continue
            self._append(one)
            warnings.warn(f"{one.reason}. Another crop was drawn instead; {self.path} lists it.", stacklevel=2)
            if len(self) > self.most:
                raise CorpusError(
                    f"{len(self)} of {self.files} recordings cannot be read any more, and {self.most} may; the last is "
                    f"{one.path}: {one.reason}. All are listed in {self.path}. Copy them again, or mount their disk, and run "
                    "the same command: it continues. More may be missing with data.init_args.max_unreadable_share."
                )

    def _append(self, one: Unreadable) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.path, "ab") as file:  # one write of one line: those of other processes are not torn
                file.write((_line(one) + "\n").encode())
        except OSError as error:
            raise disk_full(self.path) if found_no_room(error, folder=self.path.parent) else error from None

    def _read_news(self) -> None:
        """Read what was appended since, by any process; a torn last line waits for its end."""
        if not self.path.exists() or self.path.stat().st_size == self._bytes_read:
            return
        with open(self.path, "rb") as file:
            file.seek(self._bytes_read)
            whole = file.read().rpartition(b"\n")[0]
        for line in whole.splitlines():
            try:
                one = Unreadable(**json.loads(line))
            except (ValueError, TypeError):
                continue  # a line torn by a kill, then written on: its file will be met again
            self._listed.setdefault(one.path, one)
        self._bytes_read += len(whole) + (1 if whole else 0)


def _line(one: Unreadable) -> str:
    return json.dumps({"id": one.id, "path": one.path, "reason": one.reason})
