"""Prompts: the recordings of a folder or of a manifest's split, listed and looked at before anything is generated."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from audiolm.audio import AudioError, audio_info, read_prompt, resampled_length
from audiolm.generator.outputs import LONGEST_ID_BYTES
from audiolm.manifest import Manifest, Split
from audiolm.recordings import find_recordings

FILES_AT_ONCE = 8  # threads: libsndfile, hashing and the disk work without the interpreter's lock


@dataclass(frozen=True)
class Prompt:
    """A stretch of a recording to speak on from, or to say again; without a path, nothing: to speak freely."""

    id: str  # names its random stream and its file
    path: str = ""
    start: int = 0  # first sample, at the file's own rate
    samples: int = 0  # at the file's own rate
    sample_rate_hz: int = 0  # the file's own

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.samples / self.sample_rate_hz if self.sample_rate_hz else 0.0

    def made_of(self, *, sha256: str) -> dict[str, str | int]:
        """What is noted beside the audio that is made of it, its file's `sha256` included."""
        return {
            "prompt": self.path,
            "prompt_start": self.start,
            "prompt_file_samples": self.samples,
            "prompt_sha256": sha256,
        }

    def read(self, *, sample_rate_hz: int) -> Tensor:
        """(samples,) at `sample_rate_hz`; see `audio.read_prompt`."""
        if not self.path:
            return torch.zeros(0)
        return read_prompt(self.path, sample_rate_hz=sample_rate_hz, start=self.start, samples=self.samples)


def prompts_in(folder: Path, *, most_seconds: float | None = None) -> list[Prompt]:
    """Every recording below a folder, in the order of its paths; the path without its suffix is the prompt's id.

    Args:
        most_seconds: use the beginning of each only; None uses all of it.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is a file, holds no recording, or two whose paths differ in their suffix only.
    """
    if folder.is_file():
        raise ValueError(
            f"the prompts {folder} are a file; a folder of recordings is wanted. `audiolm generate --prompt` takes files."
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of prompts {folder} is not there: name a folder of recordings")
    paths: dict[str, str] = {}
    for recording in find_recordings(folder):
        id_ = os.path.splitext(recording.path)[0]
        if id_ in paths:
            raise ValueError(
                f"{folder} holds both {paths[id_]} and {recording.path}: what is generated from them would have one name. "
                "Rename or remove one."
            )
        paths[id_] = recording.path
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        return list(threads.map(lambda item: _listed(item[0], folder / item[1], most_seconds), paths.items()))


def prompts_of(manifest: Manifest, split: Split, *, most_seconds: float | None = None) -> list[Prompt]:
    """The utterances of one split of a manifest; `most_seconds` as in `prompts_in`.

    Raises:
        ValueError: if the split is empty.
    """
    utterances = manifest.split(split)
    if not utterances:
        raise ValueError(f"the {split} split of the manifest is empty: name another, or a folder of recordings")
    return [
        Prompt(
            utterance.id,
            str(manifest.root / utterance.path),
            utterance.start,
            _at_most(utterance.samples, utterance.sample_rate_hz, most_seconds),
            utterance.sample_rate_hz,
        )
        for utterance in utterances
    ]


def free_prompts(count: int) -> list[Prompt]:
    """`count` utterances without a prompt."""
    return [Prompt(f"free-{number}") for number in range(count)]


def defects(prompts: Sequence[Prompt], *, sample_rate_hz: int, shortest_samples: int) -> dict[str, str]:
    """Why prompts cannot be used, by id: unreadable, silent, shorter than `shortest_samples` at `sample_rate_hz`, or of a
    name that is not UTF-8, or too long for the names of the files made of it.

    Every sample that would be used is decoded.
    """

    def defect(prompt: Prompt) -> str:
        name_bytes = len(os.fsencode(os.path.basename(prompt.id)))
        if name_bytes > LONGEST_ID_BYTES:
            return (
                f"{prompt.path}: without its suffix the name has {name_bytes} bytes; at most {LONGEST_ID_BYTES} leave room "
                "for the names of the files made of it: rename it"
            )
        try:
            prompt.read(sample_rate_hz=prompt.sample_rate_hz)
        except AudioError as error:
            return str(error)
        samples = resampled_length(prompt.samples, prompt.sample_rate_hz, sample_rate_hz)
        if samples < shortest_samples:
            return f"{prompt.path} has {samples} samples at {sample_rate_hz} Hz; at least {shortest_samples} are needed"
        return ""

    recorded = [prompt for prompt in prompts if prompt.path]
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        found = zip(recorded, threads.map(defect, recorded), strict=True)
        return {prompt.id: reason for prompt, reason in found if reason}


def digests(prompts: Sequence[Prompt]) -> dict[str, str]:
    """sha256 of each prompt's file, by id: a recording that was changed is not continued as the one before."""
    paths = sorted({prompt.path for prompt in prompts if prompt.path})
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        of_path = dict(zip(paths, threads.map(_sha256, paths), strict=True))
    return {prompt.id: of_path.get(prompt.path, "") for prompt in prompts}


def _listed(id_: str, path: Path, most_seconds: float | None) -> Prompt:
    try:
        info = audio_info(path)
    except AudioError:
        return Prompt(id_, str(path))  # `defects` says why
    return Prompt(id_, str(path), 0, _at_most(info.samples, info.sample_rate_hz, most_seconds), info.sample_rate_hz)


def _at_most(samples: int, sample_rate_hz: int, seconds: float | None) -> int:
    return samples if seconds is None else min(samples, round(seconds * sample_rate_hz))


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
