"""Score files as ZeroSpeech 2021 wants them: a line `<stem> <score>` for every recording of a set."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from audiolm.files import atomic_path


def write_score_file(path: Path, scores: Mapping[str, float]) -> None:
    """Write scores by stem, sorted; floats keep every digit, so that ties stay ties."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{stem} {score!r}\n" for stem, score in sorted(scores.items())), encoding="utf-8")


def read_score_file(path: Path, *, stems: Collection[str]) -> dict[str, float]:
    """Read a score file as the official scorer does.

    Args:
        stems: of all recordings of the set.

    Raises:
        ValueError: for a line that is not `<stem> <score>` with one space and a finite number; for stems that are missing,
            unknown or there twice.
    """
    scores: dict[str, float] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        stem, _, text = line.partition(" ")
        score = _number(text)
        if not stem or score is None:
            raise ValueError(f"line {number} of {path} is {line[:100]!r}: it must be a stem, one space and a number")
        if stem in scores:
            raise ValueError(f"line {number} of {path}: {stem} has a score already")
        scores[stem] = score
    missing, unknown = set(stems) - set(scores), set(scores) - set(stems)
    if missing or unknown:
        raise ValueError(
            f"{path} scores {len(scores)} recordings of another set: {len(missing)} of {len(stems)} are missing"
            f"{f', such as {min(missing)!r}' if missing else ''}; {len(unknown)} are unknown"
            f"{f', such as {min(unknown)!r}' if unknown else ''}"
        )
    return scores


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and text == text.strip() else None
