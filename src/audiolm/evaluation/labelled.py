"""Recordings of which it is known what they are: who speaks, or whether a machine does; and which of them are held out."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

from audiolm.evaluation.clips import Clip, clips_digest

CROP_SECONDS = 1.0  # what a classifier hears at once


@dataclass(frozen=True)
class LabelledClips:
    """Clips, the class of each, and which are held out.

    Attributes:
        labels: the classes' names.
        clips: each lasts at least one second.
        classes: of each clip, a position in `labels`.
        held_out: whether each clip is kept from training.
        too_short: ids of what is left out, because it lasts less than one second.
    """

    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    classes: tuple[int, ...]
    held_out: tuple[bool, ...]
    too_short: tuple[str, ...] = ()

    def part(self, *, held_out: bool) -> Self:
        """Only what is held out, or only what is trained on; with all labels."""
        chosen = [number for number, is_held in enumerate(self.held_out) if is_held == held_out]
        return type(self)(
            self.labels,
            tuple(self.clips[number] for number in chosen),
            tuple(self.classes[number] for number in chosen),
            (held_out,) * len(chosen),
        )

    @property
    def seconds(self) -> float:
        """Of all clips."""
        return sum(clip.samples / clip.sample_rate_hz for clip in self.clips)

    @property
    def digest(self) -> str:
        """sha256 (hex) over which clips these are, of which class and part; the folders they lie in are no part of it."""
        text = repr((self.labels, self.classes, self.held_out)) + clips_digest(self.clips)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file: the digest; which ids are trained on and which are held out, by class."""
        ids: dict[str, dict[str, list[str]]] = {}
        for name, part in (("trained", self.part(held_out=False)), ("held_out", self.part(held_out=True))):
            ids[name] = {label: [] for label in self.labels}
            for clip, number in part.with_classes():
                ids[name][self.labels[number]].append(clip.id)
        return {"digest": self.digest, "labels": list(self.labels), **ids, "too_short": list(self.too_short)}

    def with_classes(self) -> list[tuple[Clip, int]]:
        """Every clip with its class."""
        return list(zip(self.clips, self.classes, strict=True))


def labelled(clips: Sequence[tuple[Clip, str, str]], *, held_out: Collection[str]) -> LabelledClips:
    """Put clips in order, and leave out those of less than one second.

    Args:
        clips: each with its label, and the key that says whether it is held out.
        held_out: keys.

    Raises:
        ValueError: if fewer than two labels remain, or nothing is held out or left to train on.
    """
    ordered = sorted(clips, key=lambda known: (known[1], known[0].id, str(known[0].path)))
    whole = [known for known in ordered if is_long_enough(known[0])]
    labels = tuple(sorted({label for _, label, _ in whole}))
    if len(labels) < 2:
        raise ValueError(
            f"There must be two classes or more to tell apart; of {len(clips)} recordings {len(whole)} last one second or "
            f"longer, and they are of {len(labels)}: {', '.join(labels) or 'none'}."
        )
    numbers = {label: number for number, label in enumerate(labels)}
    found = LabelledClips(
        labels,
        tuple(clip for clip, _, _ in whole),
        tuple(numbers[label] for _, label, _ in whole),
        tuple(key in held_out for _, _, key in whole),
        tuple(clip.id for clip, _, _ in ordered if not is_long_enough(clip)),
    )
    untrained = [labels[number] for number in range(len(labels)) if number not in found.part(held_out=False).classes]
    if untrained or not any(found.held_out):
        what = f"of {', '.join(untrained[:5])} nothing is left to train on" if untrained else "nothing can be held out"
        raise ValueError(f"Of {len(whole)} recordings of {len(labels)} classes, {what}: more recordings are needed.")
    return found


def is_long_enough(clip: Clip) -> bool:
    """Whether a classifier can hear a clip at all."""
    return clip.samples >= CROP_SECONDS * clip.sample_rate_hz
