"""Which recordings a classifier was trained on, and which were held out: the `split.json` beside its checkpoint."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from audiolm.audio import AUDIO_SUFFIXES
from audiolm.checkpoint import StageCheckpoint
from audiolm.evaluation.clips import Clip
from audiolm.files import read_json


@dataclass(frozen=True)
class Split:
    """Ids of recordings.

    Attributes:
        is_matched: whether file and checkpoint say of which recordings they are; files of older versions do not.
    """

    trained: frozenset[str]
    held_out: frozenset[str]
    is_matched: bool = True


def read_split(path: Path, checkpoint: StageCheckpoint) -> Split:
    """Read the file beside a checkpoint.

    Args:
        path: the checkpoint's, of the speaker or the detector stage.
        checkpoint: what was read from it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or of a training on other recordings than the checkpoint's.
    """
    file, stage = path.parent / "split.json", checkpoint.stage
    content = read_json(file, made_by=f"The {stage} stage")
    trained, held_out = (_ids(content, name, file) for name in ("trained", "held_out"))
    ours, theirs = checkpoint.sources.get("clips"), content.get("digest")
    if ours and theirs and ours != theirs:
        raise ValueError(
            f"{file} is not of {path}: it lists other recordings ({str(theirs)[:12]}…) than those that this checkpoint was "
            f"trained on ({ours[:12]}…). The {stage} stage was probably started again on another corpus and has written no "
            f"checkpoint yet, or one of both was copied alone: let the stage finish (`lightning fit -c stages/{stage}.yaml`), or "
            "name a checkpoint with the split.json of its own training beside it."
        )
    return Split(trained, held_out, is_matched=bool(ours and theirs))


def _ids(content: object, name: str, path: Path) -> frozenset[str]:
    part = content.get(name) if isinstance(content, dict) else None
    if not isinstance(part, dict) or not all(isinstance(ids, list) for ids in part.values()):
        raise ValueError(
            f"{path} does not say what was {name.replace('_', ' ')}: copy it again, or train the stage again."
        )
    return frozenset(str(id_) for ids in part.values() for id_ in ids)


class RecordingNames:
    """Recordings by name, however they are listed: as files of a folder, of a part of it, utterances of a manifest, pieces.

    Of two paths as much as both have must agree, suffixes and the places of cuts aside; so a doubtful one is taken for known.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._of_stem: dict[str, list[list[str]]] = {}
        for id_ in ids:
            parts = _parts(id_)
            self._of_stem.setdefault(parts[-1], []).append(parts)

    def __contains__(self, id_: str) -> bool:
        parts = _parts(id_)
        return any(
            all(mine == other for mine, other in zip(reversed(parts), reversed(others), strict=False))
            for others in self._of_stem.get(parts[-1], [])
        )


def _parts(id_: str) -> list[str]:
    name = _without_suffix(re.sub(r"@\d+$", "", _without_suffix(id_)))  # "a@800.wav" as well as "a.wav@800"
    return name.split("/")


def _without_suffix(path: str) -> str:
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in AUDIO_SUFFIXES else path


def require_untrained(clips: Sequence[Clip], split: Split) -> None:
    """Stop where a detector would be asked about recordings that it was trained on, or on whose continuations it was.

    Args:
        clips: whole recordings; they are compared by name, as the audio that was made of them has other bytes.

    Raises:
        ValueError: naming some.
    """
    trained = RecordingNames(split.trained)
    known = [clip.id for clip in clips if clip.id in trained]
    if known:
        raise ValueError(
            f"by their names, the detector was trained on {len(known)} of {len(clips)} of these recordings, such as "
            f"{', '.join(known[:3])}, or on their continuations: it would recognise them. Name others: --split test, or --data "
            "with a folder whose recordings have other names; or, if they are others, the folder above, so that paths tell."
        )
