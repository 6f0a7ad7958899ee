"""From a folder of recordings to a manifest: what `audiolm prepare` does."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audiolm.manifest import (
    SPLITS,
    Manifest,
    ManifestError,
    Split,
    Utterance,
    Utterances,
    split_speakers,
    write_lines,
    write_manifest,
)
from audiolm.recordings import CorpusError, Layout, find_recordings, speakers_of
from audiolm.scan import Scan, scan_recordings


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found and wrote. `str(report)` is for the screen."""

    layout: Layout
    files: int  # audio files found, rejected ones included
    utterances: dict[Split, int]
    hours: dict[Split, float]
    speakers: dict[Split, int]
    cut_files: int  # recordings longer than the maximum
    rejected: dict[str, int]  # reason -> files, most frequent first
    warnings: dict[str, int]  # what was odd but usable -> files
    split_by: Literal["speaker", "file", "utterance"]
    manifest: Path

    def lines(self) -> list[str]:
        """The report, a line each."""
        lines = [f"{self.files} audio files, {self.layout} layout; {self.cut_files} cut because of their length"]
        for split in SPLITS:
            counts = f"{self.utterances[split]:8d} utterances  {self.hours[split]:10.2f} hours"
            lines.append(f"  {split:<10} {counts}  {self.speakers[split]:6d} speakers")
        if self.split_by != "speaker":
            lines.append(
                f"fewer than 3 speakers: the splits are made by {self.split_by}, so validation and test hold voices "
                "that were trained on"
            )
        if self.rejected:
            lines.append(
                f"{sum(self.rejected.values())} files rejected, listed in {self.manifest.parent}/rejected.jsonl:"
            )
            lines += [f"  {count:6d} x {reason}" for reason, count in self.rejected.items()]
        lines += [f"note: {warning} ({count} files)" for warning, count in self.warnings.items()]
        return [*lines, f"wrote {self.manifest}"]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def prepare(
    data: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    max_utterance_seconds: float = 60.0,
    max_rejected_share: float = 0.01,
    validation_share: float = 0.05,
    test_share: float = 0.05,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Scan recordings and write `out/manifest.jsonl` and `out/rejected.jsonl`.

    Of every file only the header, the JSON beside it and three probes of a second are read, by `workers` threads
    (about 1 ms of computing a file, most of it in libsndfile, outside the interpreter's lock).
    Files that cannot be decoded there, hold NaN, are silent, empty, or shorter than 0.1 s are rejected. What has been
    scanned is kept in `out/scan.jsonl` until the manifest is there, so a killed run continues where it stopped.

    Who speaks is read from the folders (hidden ones are ignored, links are followed):

    - Libri-Light, `[<any>/]<speaker>/<book>/<name>.flac` with a `<name>.json` beside at least half of the files;
    - LibriSpeech, `[<any>/]<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac` for at least half of the files;
      in both, files that lie elsewhere are rejected, because nothing says who speaks in them;
    - any other folder: leading folders that hold everything are skipped, the next folder level is the speaker. Files
      that lie above that level belong to one speaker, named after the folder they lie in.

    A recording longer than `max_utterance_seconds` is cut by `audiolm.scan.cut_recording`; others stay whole. Voice
    activity is used from any JSON beside a recording; a JSON that cannot be parsed, or whose voice activity makes no
    sense, is counted as a warning and the recording is treated as if it had none.

    Splits are made by speaker (see `split_speakers`); with fewer than 3 speakers by file, with fewer than 3 files by
    utterance, and the report says so.

    Args:
        data: the folder with the recordings.
        out: the folder to write to; made if missing.
        workers: threads; None takes one per CPU. Slow network disks deserve more.
        max_rejected_share: stop if more than this share of the files is rejected.
        progress: called with (files done, files in all) from time to time.

    Raises:
        CorpusError: if `data` is no folder or holds no audio, if too much is rejected, if there are fewer than 3
            utterances, or if `out` cannot be written.
    """
    if not max_utterance_seconds >= 1:
        raise CorpusError(f"max_utterance_seconds must be at least 1, got {max_utterance_seconds}")
    data, out = Path(data).resolve(), Path(out)
    recordings = find_recordings(data)
    layout, speakers = speakers_of(recordings, root_name=data.name or "root")
    try:
        out.mkdir(parents=True, exist_ok=True)
        scans = scan_recordings(
            [recording for recording in recordings if recording.path in speakers],
            root=data,
            log=out / "scan.jsonl",
            max_seconds=max_utterance_seconds,
            workers=workers or os.cpu_count() or 1,
            progress=progress,
        )
        rejected = {scan.path: scan.problem for scan in scans if scan.problem}
        outside = f"outside the {layout} layout: no folder says who speaks"
        rejected |= {recording.path: outside for recording in recordings if recording.path not in speakers}
        rows = ({"path": path, "reason": rejected[path]} for path in sorted(rejected))
        write_lines(out / "rejected.jsonl", map(json.dumps, rows))
        if len(rejected) > max_rejected_share * len(recordings):
            raise _too_many_rejected(rejected, files=len(recordings), allowed=max_rejected_share, data=data, out=out)
        usable = [scan for scan in scans if not scan.problem]
        split_by, utterances = _utterances(usable, speakers, validation=validation_share, test=test_share)
        manifest = Manifest(root=data, utterances=utterances)
        write_manifest(manifest, out / "manifest.jsonl")
        (out / "scan.jsonl").unlink(missing_ok=True)
    except OSError as error:
        raise CorpusError(
            f"cannot write to {out} ({error.strerror or error}): is there space, may you write?"
        ) from error
    except ManifestError as error:
        raise CorpusError(str(error)) from error
    splits = {split: manifest.split(split) for split in SPLITS}
    return PrepareReport(
        layout=layout,
        files=len(recordings),
        utterances={split: len(splits[split]) for split in SPLITS},
        hours={split: manifest.hours(split) for split in SPLITS},
        speakers={split: len(splits[split].speakers) for split in SPLITS},
        cut_files=sum(len(scan.cuts) > 1 for scan in usable),
        rejected=dict(Counter(rejected.values()).most_common()),
        warnings=dict(Counter(scan.warning for scan in usable if scan.warning).most_common()),
        split_by=split_by,
        manifest=out / "manifest.jsonl",
    )


def _utterances(
    scans: list[Scan], speakers: dict[str, str], *, validation: float, test: float
) -> tuple[Literal["speaker", "file", "utterance"], Utterances]:
    stems = Counter(os.path.splitext(scan.path)[0] for scan in scans)
    count = sum(len(scan.cuts) for scan in scans)
    if count < 3:
        raise CorpusError(
            f"only {count} utterances can be used; training, validation and test need one each. Add recordings, "
            "or cut long ones into more pieces with a smaller max_utterance_seconds."
        )
    split_by: Literal["speaker", "file", "utterance"] = "utterance"
    if len({speakers[scan.path] for scan in scans}) >= 3:
        split_by = "speaker"
    elif len(scans) >= 3:
        split_by = "file"

    def pieces() -> Iterator[tuple[str, str, Scan, tuple[int, int, bool]]]:
        """What decides the split, the id, the recording and where it is cut: of each utterance."""
        for scan in scans:
            stem = os.path.splitext(scan.path)[0]
            name = stem if stems[stem] == 1 else scan.path  # a.wav beside a.flac keeps its suffix
            for cut in scan.cuts:
                id_ = f"{name}@{cut[0]}" if len(scan.cuts) > 1 else name
                yield {"speaker": speakers[scan.path], "file": scan.path, "utterance": id_}[split_by], id_, scan, cut

    splits = split_speakers({key for key, *_ in pieces()}, validation=validation, test=test)
    return split_by, Utterances.of(
        Utterance(
            id=id_, path=scan.path, speaker=speakers[scan.path], split=splits[key], start=start, samples=samples,
            sample_rate_hz=scan.sample_rate_hz, true_end=true_end, dc_offset=scan.dc_offset,
        )
        for key, id_, scan, (start, samples, true_end) in pieces()
    )  # fmt: skip


def _too_many_rejected(rejected: dict[str, str], *, files: int, allowed: float, data: Path, out: Path) -> CorpusError:
    reasons = Counter(rejected.values()).most_common(3)
    shown = []
    for reason, count in reasons:
        names = [path for path in sorted(rejected) if rejected[path] == reason][:3]
        shown.append(f"  {count} x {reason}, such as {', '.join(names)}")
    share = len(rejected) / files
    return CorpusError(
        f"{len(rejected)} of {files} audio files in {data} cannot be used ({share:.1%}; at most {allowed:.1%} may):\n"
        + "\n".join(shown)
        + f"\nAll are listed in {out / 'rejected.jsonl'}. Repair or remove them, or allow more with "
        f"--max-rejected-share {math.ceil(share * 100) / 100:g}."
    )
