"""Which stretches of audio are measured: those of a folder, or of one split of a chain's manifest."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from audiolm.audio import AudioError, audio_info, read_audio
from audiolm.manifest import Split, read_manifest
from audiolm.recordings import find_recordings

T = TypeVar("T")


@dataclass(frozen=True)
class Clip:
    """A stretch of one audio file. Only its header was read so far."""

    id: str  # the path below the folder, or the utterance's id
    path: Path
    start: int  # first sample, at the file's own rate
    samples: int  # at the file's own rate
    sample_rate_hz: int  # the file's own
    dc_offset: float = 0.0
    stamp: tuple[int, ...] = ()  # size and time of the file, where they were looked at

    def read(self, *, sample_rate_hz: int) -> Tensor:
        """(samples,) float32 at that rate.

        Raises:
            AudioError: naming the file and what is wrong with it.
        """
        return read_audio(
            self.path,
            sample_rate_hz=sample_rate_hz,
            start=self.start,
            samples=self.samples,
            dc_offset=self.dc_offset,
        )


def folder_clips(folder: Path, *, limit: int | None = None, max_seconds: float | None = None) -> list[Clip]:
    """The audio files below a folder, by path.

    Args:
        limit: no more than so many, spread evenly over all.
        max_seconds: no more than so much of each, from its beginning.

    Raises:
        ValueError: if the folder is missing or holds no audio, or a file has no sample.
        AudioError: for a file whose header cannot be read.
    """
    clips = []
    for recording in spread(find_recordings(folder), limit):
        path = folder / recording.path
        info = audio_info(path)
        if info.samples == 0:
            raise AudioError(f"{path} holds no sample: remove it from the folder", reason="no sample")
        samples = _cut(info.samples, info.sample_rate_hz, max_seconds)
        clips.append(Clip(recording.path, path, 0, samples, info.sample_rate_hz, stamp=recording.stamp))
    return clips


def split_clips(
    manifest_path: Path, split: Split, *, limit: int | None = None, max_seconds: float | None = None
) -> list[Clip]:
    """The utterances of one split, by id; `limit` and `max_seconds` as in `folder_clips`.

    Raises:
        ManifestError: if the manifest is missing or damaged.
        ValueError: if the split is empty.
    """
    manifest = read_manifest(manifest_path)
    utterances = sorted(manifest.split(split), key=lambda utterance: utterance.id)
    if not utterances:
        raise ValueError(f"the {split} split of {manifest_path} is empty: name another with --split, or give --data")
    clips = []
    for u in spread(utterances, limit):
        samples = _cut(u.samples, u.sample_rate_hz, max_seconds)
        clips.append(Clip(u.id, manifest.root / u.path, u.start, samples, u.sample_rate_hz, u.dc_offset))
    return stamped(clips)


def stamped(clips: Sequence[Clip]) -> list[Clip]:
    """The same clips with size and time of their files, where they have none: audio may be replaced by as much of another."""
    of_file = cache(_stamp)
    return [clip if clip.stamp else replace(clip, stamp=of_file(clip.path)) for clip in clips]


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        stat = os.stat(path)
    except OSError:
        return ()  # reading it says so
    return stat.st_size, stat.st_mtime_ns


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` of the items, evenly spread, in their order."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[number * len(items) // limit] for number in range(limit)]


def clips_digest(clips: Sequence[Clip]) -> str:
    """sha256 (hex) over which clips these are; the folder they lie in is not part of it."""
    text = "".join(repr((c.id, c.start, c.samples, c.sample_rate_hz, c.dc_offset, c.stamp)) for c in clips)
    return hashlib.sha256(text.encode()).hexdigest()


def _cut(samples: int, rate: int, max_seconds: float | None) -> int:
    return samples if max_seconds is None else min(samples, round(max_seconds * rate))
