"""How alike voices are by speaker vectors: generated and original, beside the same speaker twice and two speakers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiolm.evaluation.bootstrap import bootstrap_interval
from audiolm.evaluation.classified import Case
from audiolm.evaluation.clips import Clip, clips_digest
from audiolm.evaluation.roc import roc
from audiolm.evaluation.row_files import claim, unreadable, whole_json_lines
from audiolm.files import write_json

PROMPT, WHOLE = "prompt", "original"
CONDITIONS = ("reconstruction", "acoustic", "continuation")
MOST_PAIRS = 200_000  # of two recordings, of each kind
PROTOCOL = {
    "reconstruction": "with its recording",
    "acoustic": "with its recording, whose units it says",
    "continuation": "with its prompt, as it was recorded",
    "same speaker": "two different whole recordings of one speaker",
    "different speakers": "whole recordings of two",
    "accepted": "share at or above the similarity at which same and different speakers are confused equally often",
    "interval": "95 %, bootstrap over speakers",
}
NOTE = (
    "Cosine of speaker vectors. A prompt is shorter than a recording, so a perfect continuation may stay below `same speaker`. "
    "The paper has no such measure."
)


class Voices(Protocol):
    """What turns audio into vectors: `xvectors.SpeakerVectors`."""

    sample_rate_hz: int

    @property
    def shortest_samples(self) -> int:
        """Of audio."""
        ...

    def embed(self, audio: Tensor) -> Tensor:
        """(samples,) to (dim,) of unit length."""
        ...


@dataclass(frozen=True)
class Similarity:
    """Pairs of one kind."""

    pairs: str  # a condition, "same speaker" or "different speakers"
    count: int
    mean: float
    low: float | None
    high: float | None
    deviation: float
    accepted: float | None  # share at the threshold of the equal error rate; None without both kinds of pairs


@dataclass(frozen=True)
class Similarities:
    """All of them, and how well the vectors tell speakers apart at all."""

    rows: list[Similarity]
    equal_error_rate: float | None  # None without both kinds of pairs
    threshold: float | None


def measure_similarity(
    voices: Voices,
    cases: Sequence[Case],
    originals: Sequence[Clip],
    speakers: Mapping[str, str],
    out: Path,
    *,
    about: Mapping[str, Any],
    prompt_seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Similarities:
    """Embed everything and compare.

    Args:
        cases: generated clips; those of the originals are passed over.
        originals: whole recordings, of which `cases` were made.
        speakers: of the originals, by id.
        out: folder for `settings.json`, `xvectors.jsonl`, `summary.json`; a killed run goes on from it.
        about: what the numbers depend on besides the clips: digests of vectors and generator.
        prompt_seconds: of continuations.

    Raises:
        ValueError: for clips too short for a vector, before the first is embedded; for an `out` that holds measurements of other
            things, or is damaged.
    """
    clips = {(WHOLE, 0, clip.id): clip for clip in originals}
    generated = [case for case in cases if case.condition in CONDITIONS]
    clips |= {(case.condition, case.sampling, case.clip.id): case.clip for case in generated}
    if any(case.condition == "continuation" for case in generated):
        clips |= {(PROMPT, 0, clip.id): _beginning(clip, prompt_seconds) for clip in originals}
    _require_long_enough(voices, clips)
    settings = {**about, "prompt_seconds": prompt_seconds, "clips_digest": clips_digest([*clips.values()])}
    claim(out, settings, verb="speaker", files=("xvectors.jsonl",))
    vectors = _embedded(voices, clips, out / "xvectors.jsonl", progress)
    compared: dict[str, list[tuple[str, float]]] = {}
    for case in generated:
        reference = vectors[PROMPT if case.condition == "continuation" else WHOLE, 0, case.clip.id]
        likeness = float(reference @ vectors[case.condition, case.sampling, case.clip.id])
        compared.setdefault(case.condition, []).append((speakers[case.clip.id], likeness))
    ids = [clip.id for clip in originals]
    whole = np.stack([vectors[WHOLE, 0, id_] for id_ in ids])
    found = _summary(compared, *pairs_of(whole, [speakers[id_] for id_ in ids]))
    rates = {"equal_error_rate": found.equal_error_rate, "threshold": found.threshold}
    rows = [asdict(row) for row in found.rows]
    write_json(out / "summary.json", {"rows": rows, **rates, "protocol": PROTOCOL, "settings": settings, "note": NOTE})
    return found


Pairs = list[tuple[str, float]]


def pairs_of(vectors: NDArray[np.float64], speakers: Sequence[str], *, seed: int = 0) -> tuple[Pairs, Pairs]:
    """Similarities of two different recordings: of one speaker, and of two; each with the (first) speaker.

    Args:
        vectors: (recordings, dim) of unit length.
    """
    first, second = np.triu_indices(len(vectors), k=1)
    names = np.array([list(dict.fromkeys(speakers)).index(name) for name in speakers])
    same = names[first] == names[second]
    random, found = np.random.default_rng(seed), []
    for chosen in (np.flatnonzero(same), np.flatnonzero(~same)):
        if len(chosen) > MOST_PAIRS:
            chosen = np.sort(random.choice(chosen, MOST_PAIRS, replace=False))
        likeness = (vectors[first[chosen]] * vectors[second[chosen]]).sum(1)
        found.append([(speakers[at], float(value)) for at, value in zip(first[chosen], likeness, strict=True)])
    return found[0], found[1]


def _summary(compared: Mapping[str, Pairs], same: Pairs, different: Pairs) -> Similarities:
    rate = threshold = None
    if same and different:
        curve = roc([value for _, value in same], [value for _, value in different])
        rate, threshold = curve.equal_error_rate, curve.equal_error_threshold
    kinds = {**compared, "same speaker": same, "different speakers": different}
    return Similarities([_row(name, pairs, threshold) for name, pairs in kinds.items() if pairs], rate, threshold)


def _row(name: str, pairs: Pairs, threshold: float | None) -> Similarity:
    values = np.array([value for _, value in pairs])
    interval = bootstrap_interval([speaker for speaker, _ in pairs], lambda at: float(values[at].mean()))
    low, high = interval or (None, None)
    accepted = None if threshold is None else float((values >= threshold).mean())
    return Similarity(name, len(values), float(values.mean()), low, high, float(values.std()), accepted)


Key = tuple[str, int, str]


def _embedded(
    voices: Voices, clips: Mapping[Key, Clip], file: Path, progress: Callable[[int, int], None]
) -> dict[Key, NDArray[np.float64]]:
    vectors = _read(file)
    vectors = {key: vector for key, vector in vectors.items() if key in clips}
    text = "".join(_line(key, vector) for key, vector in vectors.items())
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    with open(file, "a", encoding="utf-8", errors="surrogateescape") as lines:
        for key, clip in clips.items():
            if key not in vectors:
                vector = voices.embed(clip.read(sample_rate_hz=voices.sample_rate_hz)).double().numpy()
                vectors[key] = vector
                lines.write(_line(key, vector))
                lines.flush()
            progress(len(vectors), len(clips))
    return vectors


def _require_long_enough(voices: Voices, clips: Mapping[Key, Clip]) -> None:
    short = [
        (key, clip)
        for key, clip in clips.items()
        if clip.samples * voices.sample_rate_hz < voices.shortest_samples * clip.sample_rate_hz
    ]
    if short:
        (condition, _, id_), clip = short[0]
        raise ValueError(
            f"{len(short)} of {len(clips)} clips are too short for a speaker vector, such as {id_} ({condition}: "
            f"{clip.samples / clip.sample_rate_hz:.2f} s of {voices.shortest_samples / voices.sample_rate_hz:.2f} s). Choose "
            "longer recordings with --least-seconds, or a longer --prompt-seconds."
        )


def _line(key: Key, vector: NDArray[np.float64]) -> str:
    return json.dumps([*key, vector.tolist()], ensure_ascii=False) + "\n"


def _read(file: Path) -> dict[Key, NDArray[np.float64]]:
    found = {}
    for number, row in whole_json_lines(file):
        try:
            condition, sampling, id_, vector = row
            found[str(condition), int(sampling), str(id_)] = np.array(vector, dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise unreadable(file, number) from error
    return found


def _beginning(clip: Clip, seconds: float) -> Clip:
    return replace(clip, samples=min(clip.samples, round(seconds * clip.sample_rate_hz)))
