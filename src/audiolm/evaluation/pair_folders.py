"""Pairs as plain folders: recordings that a number in their names sorts into (right, wrong), (right, wrong), …"""

from pathlib import Path

from audiolm.audio import AUDIO_SUFFIXES
from audiolm.evaluation.spoken_pairs import PairSet, SpokenPair, Task

NUMBER_ENDS_WITH = {"lexical": "_", "syntactic": "+"}


def folder_pairs(folder: Path, task: Task) -> PairSet:
    """Pair the recordings of a folder, or of each of its sub-folders.

    A name begins with a whole number, up to the first `_` (words) or `+` (sentences). Sorted by it, recordings are right,
    wrong, right, wrong, … Sub-folders are told apart as types; stems are paths below `folder`, without the suffix.

    Raises:
        FileNotFoundError: if the folder is not there.
        ValueError: if there is no recording, a name has no number, a number or a stem is there twice, or a recording is
            left over.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of pairs {folder} is not there, or no folder")
    recordings: dict[str, Path] = {}
    pairs: list[SpokenPair] = []
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        kind = "" if place == folder else place.name
        stems = []
        for number, path in _numbered(place, NUMBER_ENDS_WITH[task]):
            stem = str(path.relative_to(folder).with_suffix(""))
            recordings[stem] = path
            stems.append((number, stem))
        if len(stems) % 2:
            raise ValueError(
                f"{place} holds {len(stems)} recordings, which are no pairs: one is missing. The last is {stems[-1][1]}."
            )
        for (number, right), (_, wrong) in zip(stems[::2], stems[1::2], strict=True):
            pairs.append(SpokenPair((kind, number), "", right, wrong, Path(right).name, Path(wrong).name, type=kind))
    if not pairs:
        raise ValueError(f"there is no recording in {folder} or in its sub-folders: name the folder that holds them")
    return PairSet(task, folder.name, recordings, tuple(pairs), official=False)


def _numbered(place: Path, end: str) -> list[tuple[int, Path]]:
    found: dict[int, Path] = {}
    for path in sorted(path for path in place.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES):
        text, mark, _ = path.name.partition(end)
        if not mark or not text.isdecimal():
            raise ValueError(
                f"{path}: a name must begin with a whole number and {end!r}, which says where in the order of pairs it stands"
            )
        number = int(text)
        if number in found:
            raise ValueError(
                f"{found[number]} and {path} have one number, {number}: which of them is the right one cannot be told"
            )
        found[number] = path
    return sorted(found.items())
