"""What `audiolm prepare` reads of each recording: header, three probes, voice activity; and where it is cut."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from audiolm.audio import SHORTEST_SECONDS, AudioError, header, is_silent, open_audio, read_samples
from audiolm.files import MOST_JSON_BYTES, require_regular_file
from audiolm.manifest import write_lines
from audiolm.recordings import Recording

PROBE_SECONDS = 1.0  # decoded at the start, middle and end of every file
SHORTEST_PAUSE_SECONDS = 0.1  # a shorter gap in the voice activity is no place to cut
EDGE_SILENCE_SECONDS = 1.0  # kept at each side of a cut: of a silence over 2 seconds, the middle is dropped

_FILES_PER_TASK = 64


@dataclass(frozen=True, slots=True)
class Scan:
    """What was learnt of one recording."""

    path: str
    stamp: tuple[int, ...]  # of the Recording it was made from: another stamp asks for another scan
    problem: str | None = None  # why it cannot be used, in words that can be counted; then nothing below means anything
    warning: str | None = None  # what is odd about a usable one
    sample_rate_hz: int = 0
    dc_offset: float = 0.0  # mean over the probes
    cuts: tuple[tuple[int, int, bool], ...] = ()  # see `cut_recording`


def scan_recordings(
    recordings: list[Recording],
    *,
    root: Path,
    log: Path,
    max_seconds: float,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[Scan]:
    """Probe every recording that the log of an earlier run does not hold, appending to the log as results come."""
    settings = {"root": str(root), "max_utterance_seconds": max_seconds, "version": 1}
    stamps = {recording.path: recording.stamp for recording in recordings}
    done = {scan.path: scan for scan in _read_log(log, settings) if stamps.get(scan.path) == scan.stamp}
    left = [recording for recording in recordings if recording.path not in done]
    chunks = [left[at : at + _FILES_PER_TASK] for at in range(0, len(left), _FILES_PER_TASK)]

    def probe_chunk(chunk: list[Recording]) -> list[Scan]:
        return [_probe(root, recording, max_seconds) for recording in chunk]

    write_lines(log, (json.dumps(row) for row in (settings, *map(asdict, done.values()))))
    executor = ThreadPoolExecutor(workers)  # threads: libsndfile and the disk work without the interpreter's lock
    try:
        with open(log, "a", encoding="ascii") as file:
            for scans in executor.map(probe_chunk, chunks):
                file.writelines(json.dumps(asdict(scan)) + "\n" for scan in scans)
                file.flush()
                done |= {scan.path: scan for scan in scans}
                if progress:
                    progress(len(done), len(recordings))
    finally:
        executor.shutdown(cancel_futures=True)
    return [done[recording.path] for recording in recordings]


def _probe(root: Path, recording: Recording, max_seconds: float) -> Scan:
    path = root / recording.path
    try:
        with open_audio(path) as file:
            info = header(file, path)
            if info.seconds < SHORTEST_SECONDS:
                raise AudioError(f"{path} is too short", reason=f"shorter than {SHORTEST_SECONDS} s")
            probe = min(info.samples, int(PROBE_SECONDS * info.sample_rate_hz))
            starts = sorted({0, (info.samples - probe) // 2, info.samples - probe})
            probes = [read_samples(file, path, start=start, samples=probe) for start in starts]
        if all(map(is_silent, probes)):
            raise AudioError(f"{path} is silent", reason="silent")
    except AudioError as error:
        return Scan(recording.path, recording.stamp, problem=error.reason)
    activity, warning = _voice_activity(path.with_suffix(".json"), info.seconds) if recording.has_json else (None, None)
    cuts = cut_recording(
        info.samples, sample_rate_hz=info.sample_rate_hz, max_seconds=max_seconds, voice_activity=activity
    )
    return Scan(
        path=recording.path,
        stamp=recording.stamp,
        warning=warning,
        sample_rate_hz=info.sample_rate_hz,
        dc_offset=round(sum(float(piece.mean()) for piece in probes) / len(probes), 6),
        cuts=tuple(cuts),
    )


def _voice_activity(path: Path, seconds: float) -> tuple[list[tuple[float, float]] | None, str | None]:
    """(voice activity, warning) from the JSON beside a recording of that length. JSON's NaN, as in "snr", is read."""
    try:
        if require_regular_file(path) > MOST_JSON_BYTES:
            raise ValueError("no sidecar is so large")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None, "the JSON beside the recording cannot be read: no voice activity used"
    if not isinstance(content, dict) or not content.get("voice_activity"):
        return None, None  # another kind of JSON, or nothing known
    try:
        activity = [(float(begin), float(end)) for begin, end in content["voice_activity"]]
    except (TypeError, ValueError, OverflowError):
        return None, "voice_activity is not a list of [start, end]: not used"
    if not all(0 <= begin <= end <= seconds + 1 for begin, end in activity):  # NaN fails this too
        return None, "voice_activity does not fit the length of the recording: not used"
    return activity, None


def _read_log(path: Path, settings: dict[str, Any]) -> Iterator[Scan]:
    """What an earlier run with the same settings scanned; the torn last line of a killed run is dropped."""
    if not path.exists():
        return
    with open(path, encoding="ascii", errors="replace") as file:
        try:
            if json.loads(file.readline()) != settings:
                return
            for line in file:
                row = json.loads(line)
                cuts = tuple((start, samples, true_end) for start, samples, true_end in row["cuts"])
                yield Scan(**row | {"stamp": tuple(row["stamp"]), "cuts": cuts})
        except (ValueError, TypeError, KeyError, RecursionError):
            return


def cut_recording(
    samples: int, *, sample_rate_hz: int, max_seconds: float, voice_activity: list[tuple[float, float]] | None = None
) -> list[tuple[int, int, bool]]:
    """Cut a recording into utterances of at most `max_seconds`.

    With voice activity, speech is gathered greedily and cut in the middle of a pause (a gap of at least 0.1 s). At each
    side of a cut, and at both ends of the recording, at most one second of silence stays: of a silence over 2 s the
    middle is dropped, speech never. Speech that goes on for longer than the maximum without a pause, and recordings
    without voice activity, are cut into equal pieces.

    Args:
        samples: length of the recording at `sample_rate_hz`.
        voice_activity: (start, end) of speech in seconds, in any order; None or empty if unknown.

    Returns:
        (start, samples, true_end) of each utterance in order, at `sample_rate_hz`; true_end is False where the next one
        continues without a pause.
    """
    most = max(1, int(max_seconds * sample_rate_hz))
    if samples <= most:
        return [(0, samples, True)]
    speech = _merged(voice_activity or [], samples, sample_rate_hz)
    if not speech:
        return _equal_pieces(0, samples, most)
    edge = int(EDGE_SILENCE_SECONDS * sample_rate_hz)
    gaps = [second[0] - first[1] for first, second in pairwise(speech)]
    before = [min(edge, speech[0][0]), *(min(edge, gap // 2) for gap in gaps)]
    after = [*(min(edge, gap - gap // 2) for gap in gaps), min(edge, samples - speech[-1][1])]
    pieces: list[tuple[int, int, bool]] = []
    first = 0
    while first < len(speech):
        start, stop = speech[first][0] - before[first], speech[first][1] + after[first]
        if stop - start > most:  # silence gives way first; if that is not enough, there is no pause to cut at
            room = most - (speech[first][1] - speech[first][0])
            if room > 0:
                left = max(room - after[first], min(before[first], room // 2))
                start, stop = speech[first][0] - left, speech[first][1] + room - left
            pieces += _equal_pieces(start, stop, most)
            first += 1
            continue
        last = first
        while last + 1 < len(speech) and speech[last + 1][1] + after[last + 1] - start <= most:
            last += 1
        pieces.append((start, speech[last][1] + after[last] - start, True))
        first = last + 1
    return pieces


def _merged(voice_activity: Iterable[tuple[float, float]], samples: int, rate: int) -> list[tuple[int, int]]:
    """Speech in samples, inside the recording, in order, without overlaps and without gaps too short to cut at."""
    shortest_pause = math.ceil(SHORTEST_PAUSE_SECONDS * rate)
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(voice_activity):
        start, stop = max(0, math.floor(begin * rate)), min(samples, math.ceil(end * rate))
        if stop <= start:
            continue
        if merged and start - merged[-1][1] < shortest_pause:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _equal_pieces(start: int, stop: int, most: int) -> list[tuple[int, int, bool]]:
    count = -(-(stop - start) // most)
    edges = [start + (stop - start) * index // count for index in range(count + 1)]
    return [(a, b - a, b == stop) for a, b in pairwise(edges)]
