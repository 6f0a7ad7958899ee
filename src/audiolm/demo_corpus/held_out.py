"""What the demo's test sets share: voices that no demo corpus has, one loudness, a folder that is whole or not there."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from audiolm.audio import AudioError, resample, write_audio
from audiolm.demo_corpus.voices import Voice, demo_voices
from audiolm.demo_corpus.write import SAMPLE_RATE_HZ, DemoCorpusError
from audiolm.files import atomic_path, remove_leftovers

MOST_TRAINING_VOICES, HELD_OUT_VOICES = 202, 8  # all demo voices; those of the test sets are the last
RMS = 10 ** (-23 / 20)  # of full scale: one loudness for all, which tells nothing


def held_out_voices(count: int) -> list[Voice]:
    """The last `count` of the demo voices, at most HELD_OUT_VOICES."""
    return demo_voices(MOST_TRAINING_VOICES + HELD_OUT_VOICES)[MOST_TRAINING_VOICES:][-count:]


def is_complete(out: Path, name: str, settings: dict[str, Any], *, files: Sequence[str]) -> bool:
    """Whether this very set is there already; False where there is nothing yet.

    Args:
        name: of the file in it that holds its settings.
        files: what it must hold besides, by paths below it.

    Raises:
        DemoCorpusError: if anything else is there, or a file is gone.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / name).read_text())
    except (OSError, ValueError):
        found = None
    if found != settings:
        raise DemoCorpusError(
            f"{out} exists, but is not this set (other settings, another corpus, or something else): give another folder, "
            "or remove this one"
        )
    if gone := [file for file in files if not (out / file).is_file()]:
        raise DemoCorpusError(
            f"{len(gone)} of {len(files)} files of {out} are gone, such as {gone[0]}: remove the folder"
        )
    return True


@contextmanager
def complete_set(out: Path, name: str, settings: dict[str, Any]) -> Iterator[Path]:
    """A folder to write into, which appears as `out` with its settings when the block ends well.

    Raises:
        DemoCorpusError: if it cannot be written.
    """
    remove_leftovers(out)
    try:
        with atomic_path(out) as folder:
            folder.mkdir(parents=True)
            yield folder
            (folder / name).write_text(json.dumps(settings) + "\n")
    except (OSError, AudioError) as error:
        raise DemoCorpusError(f"the demo set cannot be written to {out}: {error}") from error


def write_spoken(path: Path, audio: Tensor, *, sample_rate_hz: int) -> None:
    """Write (samples,) of any loudness as 16 kHz mono of the sets' loudness, less where it would be clipped."""
    audio = resample(audio, from_hz=sample_rate_hz, to_hz=SAMPLE_RATE_HZ)
    audio = audio * min(RMS / float(audio.square().mean().sqrt()), 0.99 / float(audio.abs().max()))
    write_audio(path, audio, sample_rate_hz=SAMPLE_RATE_HZ)
