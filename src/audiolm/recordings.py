"""The audio files below a folder, and who speaks in each."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audiolm.audio import AUDIO_SUFFIXES

Layout = Literal["Libri-Light", "LibriSpeech", "folder"]

_LIBRISPEECH = re.compile(r"(?:^|/)([^/]+)/([^/]+)/\1-\2-[^/]+$")  # <speaker>/<chapter>/<speaker>-<chapter>-<utterance>


class CorpusError(ValueError):
    """Recordings that cannot become a corpus. The message says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Recording:
    """An audio file as the folder listing shows it."""

    path: str  # relative to the root, with /
    stamp: tuple[int, ...]  # sizes and modification times of the file and of its JSON: what a scan was made of
    has_json: bool


def find_recordings(root: Path) -> list[Recording]:
    """List every audio file below `root` by path.

    Raises:
        CorpusError: if `root` is not a folder, cannot be listed, or holds no audio file.
    """
    if not root.exists():
        raise CorpusError(f"the data folder {root} does not exist: check DATA for a typing mistake or a missing mount")
    if not root.is_dir():
        raise CorpusError(f"{root} is a file: DATA must be the folder that holds the recordings")
    found: list[Recording] = []
    other: Counter[str] = Counter()
    folders, visited = [(root, "")], {os.path.realpath(root)}
    while folders:
        folder, prefix = folders.pop()
        try:
            entries = {entry.name: entry for entry in os.scandir(folder) if not entry.name.startswith(".")}
        except OSError as error:
            raise CorpusError(f"the folder {folder} cannot be listed ({error.strerror})") from error
        for name, entry in entries.items():
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in visited:  # else a link to a parent would be walked for ever
                    visited.add(real)
                    folders.append((Path(entry.path), f"{prefix}{name}/"))
                continue
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in AUDIO_SUFFIXES:
                other[suffix.lower() or name] += 1
                continue
            sidecar = entries.get(f"{stem}.json")
            try:
                stats = [member.stat() for member in (entry, sidecar) if member is not None]
                stamp = tuple(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns))
            except OSError:
                stamp = ()  # a dangling link: reading it says so
            found.append(Recording(prefix + name, stamp, has_json=sidecar is not None))
    if not found:
        saw = f" (there are {', '.join(f'{n} x {s}' for s, n in other.most_common(3))})" if other else ""
        known = ", ".join(sorted(suffix[1:] for suffix in AUDIO_SUFFIXES))
        raise CorpusError(f"no audio file below {root}{saw}: give a folder that holds {known} files")
    return sorted(found, key=lambda recording: recording.path)


def speakers_of(recordings: list[Recording], *, root_name: str) -> tuple[Layout, dict[str, str]]:
    """Recognise the layout (see `prepare`) and read the speaker of each path; paths outside the layout are left out."""
    folders = {recording.path: recording.path.split("/")[:-1] for recording in recordings}
    libri_light = {r.path: folders[r.path][-2] for r in recordings if len(folders[r.path]) >= 2}
    if 2 * sum(r.has_json for r in recordings if r.path in libri_light) >= len(recordings):
        return "Libri-Light", libri_light
    named = ((r.path, _LIBRISPEECH.search(os.path.splitext(r.path)[0])) for r in recordings)
    libri_speech = {path: match.group(1) for path, match in named if match}
    if 2 * len(libri_speech) >= len(recordings):
        return "LibriSpeech", libri_speech
    shared = os.path.commonprefix(list(folders.values()))  # noqa: RUF071  (lists, so whole folder names)
    above = shared[-1] if shared else root_name
    depth = len(shared)
    return "folder", {path: levels[depth] if len(levels) > depth else above for path, levels in folders.items()}
