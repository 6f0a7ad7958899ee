"""Measure a codec on many clips, continuing where an earlier run stopped: clips to `files.csv` and its summary."""

import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from audiolm.checkpoint import weights_digest
from audiolm.codec.codec import Codec
from audiolm.evaluation.clips import Clip, clips_digest
from audiolm.evaluation.codec_measures import Row, Settings, Task, measure
from audiolm.evaluation.codec_results import Pooled, pool, read_rows, write_results
from audiolm.evaluation.perceptual import PACKAGES, require_packages
from audiolm.evaluation.reconstruction import check_levels, reconstruct
from audiolm.evaluation.row_files import append_rows, claim, start_rows


def measure_codec(
    codec: Codec,
    clips: Sequence[Clip],
    out: Path,
    *,
    settings: Settings,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Pooled]:
    """Reconstruct every clip at several numbers of levels, measure, and write a folder of results.

    The codec runs in this process; measures are computed in `workers` others, each with one thread (1: in this process). A
    clip's rows are on disk before the next clip's, so a run that was killed goes on where it was.

    Args:
        clips: as `folder_clips` or `split_clips` list them.
        out: folder for `settings.json`, `files.csv`, `pooled.json`, `pooled.csv` and `measures.svg`.
        progress: called with (clips measured, all clips).

    Returns:
        Means over clips, one per number of levels and measure.

    Raises:
        ValueError: for levels the codec does not have, packages that are missing, or an `out` that holds measurements of
            another codec, other clips or other settings.
        AudioError: for a file that cannot be read; what was measured before is kept.
    """
    codec.eval()
    check_levels(codec, settings.levels)
    require_packages(settings.measures, mapping=settings.visqol_mapping)
    about = codec_identity(codec, clips, settings)
    claim(out, about, verb="codec")
    table = out / "files.csv"
    rows = read_rows(table, rows_per_file=len(settings.levels) * len(settings.columns))
    start_rows(table, rows, kind=Row)
    measured = {row.file for row in rows}
    left = [clip for clip in clips if clip.id not in measured]
    progress(len(measured), len(clips))
    for number, new in enumerate(_measured(codec, left, settings, workers), start=len(measured) + 1):
        append_rows(table, new)
        rows += new
        progress(number, len(clips))
    pooled = pool(rows)
    write_results(out, pooled, settings=settings, about=about)
    return pooled


def _measured(codec: Codec, clips: Sequence[Clip], settings: Settings, workers: int) -> Iterator[list[Row]]:
    """The rows of each clip, in the order of the clips."""
    tasks = (_reconstructed(codec, clip, settings) for clip in clips)
    if workers <= 1:
        yield from (measure(task, settings) for task in tasks)
        return
    pending: deque[tuple[str, Future[list[Row]]]] = deque()  # bounded: reconstructions wait in memory
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    executor = ProcessPoolExecutor(workers, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for task in tasks:
            pending.append((task.id, executor.submit(measure, task, settings)))
            if len(pending) >= 2 * workers:
                yield pending.popleft()[1].result()
        while pending:
            yield pending.popleft()[1].result()
    except BrokenProcessPool as error:
        raise ValueError(
            f"a measuring process died near {pending[0][0] if pending else 'the last clip'}: memory ran out, or a package "
            "crashed on it (PESQ does on clips of many utterances: try --max-seconds 20). What was measured is kept."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _reconstructed(codec: Codec, clip: Clip, settings: Settings) -> Task:
    audio = clip.read(sample_rate_hz=codec.sample_rate_hz)
    results = reconstruct(codec, audio, levels=settings.levels)
    if not all(estimate.isfinite().all() for estimate, _ in results.values()):
        raise ValueError(f"the codec's reconstruction of {clip.path} holds NaN or infinity: its training has diverged")
    return Task(
        id=clip.id,
        sample_rate_hz=codec.sample_rate_hz,
        reference=audio.numpy(),
        estimates={levels: estimate.numpy() for levels, (estimate, _) in results.items()},
        bitrates_bps={levels: codec.bitrate_bps(levels) for levels in results},
        codec_seconds={levels: seconds for levels, (_, seconds) in results.items()},
    )


def codec_identity(codec: Codec, clips: Sequence[Clip], settings: Settings) -> dict[str, Any]:
    """Everything the numbers depend on, as plain JSON values."""
    config = codec.config_dict()
    versions = {PACKAGES[name]: _version(PACKAGES[name]) for name in settings.measures if name in PACKAGES}
    about = {
        "codec": config,
        "codec_digest": weights_digest(config, codec.state_dict()),
        "codec_sample_rate_hz": codec.sample_rate_hz,
        "clips": len(clips),
        "clips_digest": clips_digest(clips),
        "packages": versions,
        **asdict(settings),
    }
    return json.loads(json.dumps(about))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
