"""Lay the demo corpus out as Libri-Light does, with LibriSpeech's transcripts beside it."""

import json
import math
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from audiolm.audio import AudioError, resample, write_audio
from audiolm.demo_corpus.grammar import sentence, transcript
from audiolm.demo_corpus.voices import Voice, demo_voices, synthesize
from audiolm.files import atomic_path, remove_leftovers

SAMPLE_RATE_HZ = 16000
SHORTEST_SENTENCE_SECONDS, LONGEST_SENTENCE_SECONDS = 2.0, 8.0
ACTIVITY_FRAME_SAMPLES = 1280  # Libri-Light's voice activity counts in frames of 0.08 s

_SETTINGS = "demo-corpus.json"
_VERSION = 1  # of everything that decides the bytes: grammar, voices, layout


class DemoCorpusError(ValueError):
    """A demo corpus that cannot be written where it was asked for."""


@dataclass(frozen=True)
class DemoCorpusReport:
    """What stands in the folder. `str(report)` is for the screen."""

    folder: Path
    voices: int
    utterances: int
    hours: float
    already_there: bool  # written by an earlier run with the same settings, and left alone

    def __str__(self) -> str:
        what = f"{self.voices} synthetic voices, {self.utterances} sentences, {self.hours:.2f} hours in {self.folder}"
        return f"{what} (already there)" if self.already_there else what


def write_demo_corpus(
    out: str | Path,
    *,
    voices: int = 32,
    seconds_per_voice: float = 60.0,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DemoCorpusReport:
    """Write a small corpus of synthetic speech: the default where no recordings are given.

    Layout: `<speaker>/<book>/<speaker>-<book>-<number>.flac` (16 kHz mono), a Libri-Light JSON beside each (speaker,
    book_meta, snr, voice_activity, file_length_sec) and `<speaker>-<book>.trans.txt` with the words in upper case. One
    file is one sentence of 2 to 8 seconds. The same settings give the same bytes, with any number of workers.

    The folder appears under its name only when it is complete; `demo-corpus.json` in it holds the settings. A complete
    folder with the same settings is left alone.

    Args:
        out: the folder to write; it must not exist, or be empty, or hold this very corpus.
        voices: speakers, at most 210; the first ones are the same for any number.
        seconds_per_voice: each speaker stops with the sentence that reaches this.
        seed: of the sentences.
        workers: threads; None takes one per CPU.
        progress: called with (speakers done, speakers in all).

    Raises:
        DemoCorpusError: if `out` holds anything else, or cannot be written.
        VoiceError: if there are not so many voices, or espeak-ng cannot be used.
    """
    out = Path(out)
    if not 0 < seconds_per_voice < math.inf:
        raise DemoCorpusError(f"seconds_per_voice must be above 0, got {seconds_per_voice}")
    if seed < 0:
        raise DemoCorpusError(f"seed must be 0 or more, got {seed}")
    cast = demo_voices(voices)
    settings = {"version": _VERSION, "voices": voices, "seconds_per_voice": float(seconds_per_voice), "seed": seed}
    if (found := _complete(out, settings)) is not None:
        return DemoCorpusReport(out, voices, found["utterances"], found["hours"], already_there=True)
    remove_leftovers(out)
    executor = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    seconds: list[list[float]] = []
    try:
        with atomic_path(out) as folder:
            folder.mkdir()
            speak = partial(_write_speaker, folder, cast, seconds_per_voice=seconds_per_voice, seed=seed)
            try:
                for lengths in executor.map(speak, range(voices)):
                    seconds.append(lengths)
                    if progress:
                        progress(len(seconds), voices)
            finally:  # nobody may write any more when the folder is renamed or removed
                executor.shutdown(cancel_futures=True)
            totals = {"utterances": sum(map(len, seconds)), "hours": round(sum(map(sum, seconds)) / 3600, 4)}
            _write_json(folder / _SETTINGS, settings | totals)
    except (OSError, AudioError) as error:
        raise DemoCorpusError(f"the demo corpus cannot be written to {out}: {error}") from error
    return DemoCorpusReport(out, voices, int(totals["utterances"]), totals["hours"], already_there=False)


def _complete(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The settings file of a folder that holds this very corpus; None where there is nothing yet."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = json.loads((out / _SETTINGS).read_text())
        differing = [
            f"{name} {found.get(name)}, not {value}" for name, value in settings.items() if found.get(name) != value
        ]
    except (OSError, ValueError, AttributeError):
        raise DemoCorpusError(
            f"{out} exists but is not a demo corpus (no readable {_SETTINGS}): give another folder, or remove this one"
        ) from None
    if differing:
        raise DemoCorpusError(
            f"{out} holds a demo corpus with other settings ({'; '.join(differing)}): give another folder, ask for the "
            "same settings, or remove this one"
        )
    return found


def _write_speaker(folder: Path, cast: list[Voice], index: int, *, seconds_per_voice: float, seed: int) -> list[float]:
    """Write all sentences of one voice; returns their lengths in seconds."""
    voice, speaker, book = cast[index], str(101 + index), str(1 + seed)
    draw = random.Random(f"demo corpus {seed} {index}")
    target_rms = 10 ** (draw.uniform(-26, -20) / 20)  # people do not speak equally loud
    place = folder / speaker / book
    place.mkdir(parents=True)
    lengths: list[float] = []
    words: list[str] = []
    while sum(lengths) < seconds_per_voice:
        text = sentence(draw)
        spoken, rate = synthesize(text, voice, seed=draw.getrandbits(31))
        audio = resample(spoken, from_hz=rate, to_hz=SAMPLE_RATE_HZ)
        seconds = len(audio) / SAMPLE_RATE_HZ
        if not SHORTEST_SENTENCE_SECONDS <= seconds <= LONGEST_SENTENCE_SECONDS:
            continue
        audio = audio * min(target_rms / float(audio.square().mean().sqrt()), 0.99 / float(audio.abs().max()))
        stem = f"{speaker}-{book}-{len(lengths):04d}"
        write_audio(place / f"{stem}.flac", audio, sample_rate_hz=SAMPLE_RATE_HZ)
        _write_json(place / f"{stem}.json", _metadata(audio, voice=voice, speaker=speaker, book=book))
        words.append(f"{stem} {transcript(text)}\n")
        lengths.append(seconds)
    (place / f"{speaker}-{book}.trans.txt").write_text("".join(words))
    return lengths


def _metadata(audio: Tensor, *, voice: Voice, speaker: str, book: str) -> dict[str, Any]:
    frames = F.pad(audio, (0, -len(audio) % ACTIVITY_FRAME_SAMPLES)).view(-1, ACTIVITY_FRAME_SAMPLES)
    power = frames.square().mean(dim=1)
    active = power > 1e-4 * power.max()  # 40 dB below the loudest frame: synthetic speech has no noise to speak of
    noise = float(power[~active].mean()) if not active.all() else 0.0
    rounding = 2.0**-30 / 12  # noise of 16-bit audio: a floor, where pauses are digital silence
    return {
        "speaker": speaker,
        "book_meta": {
            "id": book,
            "title": "Sentences from a grammar",
            "language": "English",
            "reader": f"espeak-ng {voice.name}",
            "reader_gender": voice.gender,
            "voice": asdict(voice),
        },
        "snr": round(10 * math.log10(float(power[active].mean()) / (noise + rounding)), 2),
        "voice_activity": voice_activity(active),
        "file_length_sec": len(audio) / SAMPLE_RATE_HZ,
    }


def voice_activity(active: Tensor) -> list[list[float]]:
    """[start, end] in seconds of each run of speech in (frames,) bool; gaps of one or two frames are part of speech."""
    frame_seconds = ACTIVITY_FRAME_SAMPLES / SAMPLE_RATE_HZ
    runs: list[list[int]] = []
    for frame in torch.nonzero(active).flatten().tolist():
        if runs and frame - runs[-1][1] <= 2:
            runs[-1][1] = frame + 1
        else:
            runs.append([frame, frame + 1])
    return [[round(start * frame_seconds, 2), round(end * frame_seconds, 2)] for start, end in runs]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content) + "\n")
