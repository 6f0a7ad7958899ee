"""The recordings that items lie in: found by their stem, long enough for the items' times."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from audiolm.audio import audio_info
from audiolm.evaluation.abx_items import Item, files_of
from audiolm.recordings import find_recordings

TOLERANCE_SECONDS = Fraction(1, 100)  # times in item files are rounded, or come from frames of 10 ms


def find_by_stem(stems: Sequence[str], paths: Iterable[Path], *, where: Path) -> dict[str, Path]:
    """Which file has which stem; upper and lower case differ, as they do in ZeroSpeech names.

    Raises:
        ValueError: if a stem has no file, or two.
    """
    found: dict[str, list[Path]] = {stem: [] for stem in stems}
    for path in paths:
        if path.stem in found:
            found[path.stem].append(path)
    missing = [stem for stem in stems if not found[stem]]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(stems)} files that the items name are not below {where}; the first is {missing[0]!r}. The "
            "item file belongs to other data, or the folder is not the whole of it."
        )
    for stem in stems:
        if len(found[stem]) > 1:
            raise ValueError(f"two files below {where} are called {stem}: {found[stem][0]} and {found[stem][1]}")
    return {stem: paths[0] for stem, paths in found.items()}


def item_recordings(items: Sequence[Item], folder: Path) -> dict[str, Path]:
    """The audio file of every stem that items name, searched in all folders below `folder`.

    Raises:
        ValueError: if there is none, or two of a name, or items end after their recording does.
    """
    paths = (folder / recording.path for recording in find_recordings(folder))
    found = find_by_stem(files_of(items), paths, where=folder)
    seconds = {stem: _seconds(path) for stem, path in found.items()}
    beyond = [item for item in items if item.offset > seconds[item.file] + TOLERANCE_SECONDS]
    if beyond:
        first = beyond[0]
        raise ValueError(
            f"{len(beyond)} items end after their recording does. The first: {first.phone} of {first.file}, until "
            f"{float(first.offset):.4f} s, but {found[first.file]} lasts {float(seconds[first.file]):.4f} s. The item file "
            "belongs to other recordings, or they were cut."
        )
    return found


def _seconds(path: Path) -> Fraction:
    info = audio_info(path)
    return Fraction(info.samples, info.sample_rate_hz)
