"""What a recogniser hears in every recording of every condition, kept in a file that a killed run goes on from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from audiolm.evaluation.clips import Clip, clips_digest
from audiolm.evaluation.error_rates import Spelling, edits_of, normaliser
from audiolm.evaluation.row_files import append_rows, claim, start_rows, whole_lines
from audiolm.recognition.recogniser import Recogniser

AGAIN = "remove its folder and run the same command again"
SHOWN = 80  # characters of an excerpt


@dataclass(frozen=True)
class Heard:
    """One recording under one condition: what is said, what was heard, and the edits between them."""

    file: str
    condition: str
    sampling: int
    reference: str  # in the spelling that is scored
    hypothesis: str  # too
    raw_hypothesis: str  # as the recogniser wrote it
    word_edits: int
    words: int
    character_edits: int
    characters: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What is unique in a table."""
        return self.file, self.condition, self.sampling


def normalised_references(texts: Mapping[str, str], spelling: Spelling) -> dict[str, str]:
    """Texts by file in the spelling that is scored.

    Raises:
        ValueError: naming those of which nothing is left: an error rate divides by their length.
    """
    normalise = normaliser(spelling)
    references = {file: normalise(text) for file, text in texts.items()}
    empty = [file for file, text in references.items() if not text]
    if empty:
        named = ", ".join(f"{file} ({texts[file][:SHOWN]!r})" for file in empty[:5])
        raise ValueError(
            f"{len(empty)} of {len(texts)} references are empty in the {spelling} spelling, so that they have no error rate: "
            f"{named}. Correct their transcripts, or leave these recordings out of the folder."
        )
    return references


def require_letters(recogniser: Recogniser, references: Mapping[str, str]) -> None:
    """Stop before anything is generated if a recogniser cannot write the references at all.

    Raises:
        ValueError: if they share no letter, with an excerpt of both.
    """
    letters = {letter for text in references.values() for letter in text if letter.isalpha()}
    if not letters & recogniser.characters:
        excerpt = next(iter(references.values()))[:SHOWN]
        theirs = "".join(sorted(recogniser.characters))[:SHOWN]
        raise ValueError(
            f"The recogniser {recogniser.name} writes none of the letters of these transcripts: it writes {theirs!r}, they have "
            f"such as {excerpt!r}. It is for another language or script, or writes phones: choose another with --recogniser."
        )


def measure_asr(
    recogniser: Recogniser,
    conditions: Mapping[str, Sequence[Sequence[Clip]]],
    references: Mapping[str, str],
    out: Path,
    *,
    spelling: Spelling,
    about: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Heard]:
    """Recognise every clip; `out` gets `settings.json` and `files.csv`, a row per recording, condition and sampling.

    A clip of another rate is resampled to the recogniser's.

    Args:
        conditions: by name, for every sampling the clips.
        references: normalised texts by the clips' ids.
        about: settings that the clips do not show by themselves.
        progress: called with (recognised, all).

    Raises:
        ValueError: for clips longer than the recogniser hears, or an `out` that holds measurements of other things.
    """
    jobs = [
        (clip, name, number)
        for name, samplings in conditions.items()
        for number, clips in enumerate(samplings)
        for clip in clips
    ]
    require_short(recogniser, [clip for clip, _, _ in jobs])
    claim(out, _settings(recogniser, conditions, references, spelling=spelling, about=about), verb="asr")
    table = out / "files.csv"
    rows = {row.key: row for row in read_heard(table)}
    start_rows(table, rows.values(), kind=Heard)
    normalise = normaliser(spelling)
    progress(len(rows), len(jobs))
    for clip, name, number in jobs:
        if (clip.id, name, number) in rows:
            continue
        raw = recogniser.transcribe(clip.read(sample_rate_hz=recogniser.sample_rate_hz))
        reference, hypothesis = references[clip.id], normalise(raw)
        edits = edits_of(reference, hypothesis)
        row = Heard(clip.id, name, number, reference, hypothesis, raw, **vars(edits))
        append_rows(table, [row])
        rows[row.key] = row
        progress(len(rows), len(jobs))
    return [rows[clip.id, name, number] for clip, name, number in jobs]


def _settings(
    recogniser: Recogniser,
    conditions: Mapping[str, Sequence[Sequence[Clip]]],
    references: Mapping[str, str],
    *,
    spelling: Spelling,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    used = {clip.id: references[clip.id] for samplings in conditions.values() for clips in samplings for clip in clips}
    known = known_settings(recogniser, used, spelling=spelling, about=about)
    return known | {
        "clips": {name: [clips_digest(clips) for clips in samplings] for name, samplings in conditions.items()}
    }


def known_settings(
    recogniser: Recogniser, references: Mapping[str, str], *, spelling: Spelling, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What stands in `settings.json` besides the clips' digests: all that is known before audio is generated."""
    return {
        **about,
        "recogniser": recogniser.name,
        "recogniser_digest": recogniser.digest,
        "decoding": recogniser.decoding,
        "spelling": spelling,
        "references": [[file, references[file]] for file in sorted(references)],
    }


def require_short(recogniser: Recogniser, clips: Sequence[Clip]) -> None:
    """Stop where a recogniser would drop the end of a recording.

    Raises:
        ValueError: naming the longest.
    """
    longest = max(clips, key=lambda clip: clip.samples / clip.sample_rate_hz)
    seconds = longest.samples / longest.sample_rate_hz
    if seconds > recogniser.longest_seconds:
        raise ValueError(
            f"{longest.id} lasts {seconds:.1f} s; the recogniser {recogniser.name} hears {recogniser.longest_seconds:g} s and "
            "would drop the rest. Leave longer recordings out with --most-seconds, or choose another recogniser."
        )


def read_heard(path: Path) -> list[Heard]:
    """The rows so far; a last line that a killed run left behind in part is dropped.

    Raises:
        ValueError: if a whole line is not one of ours, naming it.
    """
    rows: list[Heard] = []
    numbers = {field.name for field in fields(Heard) if field.type is int}
    for line, values in whole_lines(path):
        try:
            cells: Any = {f.name: int(values[f.name]) if f.name in numbers else values[f.name] for f in fields(Heard)}
            row = Heard(**cells)
            if row.words < 1 or row.characters < 1 or min(row.word_edits, row.character_edits, row.sampling) < 0:
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {line} of {path} cannot be read: it was edited or damaged; {AGAIN}") from error
        rows.append(row)
    return rows
