"""Making a listening test: two folders of recordings -> a page for raters and a key for the experimenter."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from audiolm.codec.codec import Codec
from audiolm.evaluation.clips import Clip
from audiolm.evaluation.listening_key import Key, write_key
from audiolm.evaluation.listening_page import listening_page
from audiolm.evaluation.listening_plan import Item, Request, plan_items
from audiolm.evaluation.listening_sounds import encoded_flac, equalised, named_clips, read_sound, with_beeps
from audiolm.files import atomic_path

PAGE, KEY = "listening-test.html", "key.json"
MOST_SECONDS = 3600.0  # of sound in one page: some 80 MB at 16 kHz


@dataclass(frozen=True)
class Made:
    """What was written."""

    page: Path
    key: Path
    items: tuple[Item, ...]
    unused: int  # recordings that no item has
    level_db: float  # of every sound, in dB of full scale
    sample_rate_hz: int


def make_listening_test(
    folders: tuple[Path, Path],
    out: Path,
    request: Request,
    *,
    seconds: float,
    start_seconds: float = 0.0,
    codec: Codec | None = None,
    question: str | None = None,
    about: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Write `out/listening-test.html` and `out/key.json`.

    Every sound lasts `seconds` from `start_seconds`, at one rate (the codec's, else the lowest of the files') and one level.

    Args:
        folders: of human and machine recordings, or the two sides of a preference; the first is whose success is counted.
        codec: what the FIRST folder's recordings are passed through; None takes them as they are.
        about: kept in the key, plain values.

    Raises:
        ValueError: if `out` holds a key already, or the folders do not fit the request (too few, too short, no partner).
        AudioError: for a recording that cannot be read, or is silent.

    Source: AudioLM, subjective evaluation: 50 + 50 samples of 10 s; piano: 15 pairs of 20 s. Equal levels, fades, and that
        each sound must be heard to its end are ours; the paper does not say.
    """
    if (out / KEY).exists():
        raise ValueError(f"{out / KEY} is there: answers to its page would be lost with it. Name another --out.")
    if seconds <= 0 or start_seconds < 0:
        raise ValueError(
            f"seconds must be positive and the start 0 or later, got {seconds:g} s from {start_seconds:g} s"
        )
    clips = dict(
        zip(request.names, (named_clips(folder, seconds=start_seconds + seconds) for folder in folders), strict=True)
    )
    first, second = clips.values()
    items = plan_items(list(first), list(second), request)
    sides = [side for item in items for side in item.sides]
    if len(sides) * seconds > MOST_SECONDS:
        raise ValueError(f"{len(sides)} sounds of {seconds:g} s are more than one page holds (an hour): give --limit")
    rate = _rate([*first.values(), *second.values()], codec)
    sounds = []
    for number, (name, recording) in enumerate(sides, start=1):
        through = codec if name == request.names[0] else None
        clip = clips[name][recording]
        stretch = read_sound(clip, sample_rate_hz=rate, start_seconds=start_seconds, seconds=seconds, codec=through)
        sounds.append(stretch)
        progress(number, len(sides))
    sounds, level = equalised(sounds, sample_rate_hz=rate)
    encoded = _by_item(items, sounds, rate)
    page, digest = listening_page(
        encoded, kind=request.kind, trials=request.trials, attention=request.attention > 0, question=question
    )
    settings = {**asdict(request), **(about or {}), "seconds": seconds, "start_seconds": start_seconds}
    settings |= {"sample_rate_hz": rate, "level_db": round(level, 2), "folders": [str(folder) for folder in folders]}
    write_key(out / KEY, Key(digest, request.kind, request.names, tuple(items)), about=settings)
    with atomic_path(out / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    unused = len(first) + len(second) - len(sides)
    return Made(out / PAGE, out / KEY, tuple(items), unused, level, rate)


def _rate(clips: list[Clip], codec: Codec | None) -> int:
    return codec.sample_rate_hz if codec is not None else min(clip.sample_rate_hz for clip in clips)


def _by_item(items: list[Item], sounds: list[Tensor], rate: int) -> list[list[str]]:
    """The sounds of every item, encoded, beeps where its item has them."""
    rest, encoded = iter(sounds), []
    for item in items:
        own = [next(rest) for _ in item.sides]
        if item.beeps is not None:
            own[item.beeps] = with_beeps(own[item.beeps], sample_rate_hz=rate)
        encoded.append([encoded_flac(sound, sample_rate_hz=rate) for sound in own])
    return encoded
