"""ABX of units by their number: the right of AudioLM's figure 3. And what the units have to do with phones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiolm.audio import read_audio
from audiolm.evaluation.abx import AbxResult, AbxSettings, compare_items
from audiolm.evaluation.alignments import SILENCES, Interval, frame_phones, require_within
from audiolm.evaluation.clips import Clip
from audiolm.evaluation.layer_frames import Progress, states_of
from audiolm.evaluation.layer_sweep import LayerSweep
from audiolm.evaluation.unit_measures import PhoneMeasures, phone_measures
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.kmeans import fit_kmeans
from audiolm.semantic.reservoir import FeatureReservoir
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.semantic.unit_use import UnitUse, unit_use


@dataclass(frozen=True)
class ClusterResult:
    """Units of one number of clusters.

    Attributes:
        clusters: K.
        abx: of the units, each stood for by its centroid.
        distortion: mean square per dimension that the centroids leave of normalised training frames; 1: no better than the mean.
        use: of the units, on training frames.
        phones: over all labelled frames; None without aligned phones.
        speech: the same without silence.
    """

    clusters: int
    abx: AbxResult
    distortion: float
    use: UnitUse
    phones: PhoneMeasures | None = None
    speech: PhoneMeasures | None = None


def sweep_clusters(
    encoder: Encoder,
    sweep: LayerSweep,
    clips: Sequence[Clip],
    *,
    clusters: Sequence[int],
    settings: AbxSettings,
    max_frames: int,
    aligned: Mapping[Path, list[Interval]] | None = None,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> list[ClusterResult]:
    """Cluster training features of the winning layer, and measure the units of the items.

    Args:
        encoder: the one that was swept.
        clips: training audio; k-means sees a uniform sample of at most `max_frames` of its frames.
        clusters: the numbers to try.
        aligned: phones of recordings, for purity and mutual information.

    Raises:
        ValueError: for fewer frames than clusters, or phones beyond the end of their recording.
    """
    if not clusters:
        return []
    sample = _training_frames(encoder, sweep, clips, max_frames=max_frames, seed=settings.seed, progress=progress)
    tokenizers, results = [], []
    for done, count in enumerate(clusters, start=1):
        found = fit_kmeans(sample, clusters=count, seed=settings.seed)
        tokenizer = SemanticTokenizer(encoder, clusters=count)  # its centroids on the CPU, wherever the encoder is
        tokenizer.centroids[0] = found.centroids
        units = tokenizer.quantize(sweep.frames.frames)
        abx = compare_items(replace(sweep.frames, frames=tokenizer.embed(units)), settings=settings, device=device)
        use = unit_use(torch.bincount(found.nearest, minlength=count), rate_hz=encoder.rate_hz)
        results.append(ClusterResult(count, abx, found.distortion / encoder.dim, use))
        tokenizers.append(tokenizer)
        progress("clusters", done, len(clusters))
    if not aligned:
        return results
    measured = _phones(encoder, sweep, tokenizers, aligned, progress=progress)
    return [
        replace(result, phones=all_, speech=speech) for result, (all_, speech) in zip(results, measured, strict=True)
    ]


def _training_frames(
    encoder: Encoder, sweep: LayerSweep, clips: Sequence[Clip], *, max_frames: int, seed: int, progress: Progress
) -> Tensor:
    reservoir = FeatureReservoir(max_frames, seed=seed)
    for done, clip in enumerate(clips, start=1):
        audio = clip.read(sample_rate_hz=encoder.sample_rate_hz)
        reservoir.add(sweep.normalization(states_of(encoder, audio, [sweep.best])[0]), example=done)
        progress("frames to cluster", done, len(clips))
    return reservoir.sample()


def _phones(
    encoder: Encoder,
    sweep: LayerSweep,
    tokenizers: Sequence[SemanticTokenizer],
    aligned: Mapping[Path, list[Interval]],
    *,
    progress: Progress,
) -> list[tuple[PhoneMeasures, PhoneMeasures | None]]:
    """Per tokenizer: over all frames inside a phone, and over those that are not silence."""
    names = sorted({interval.phone for intervals in aligned.values() for interval in intervals})
    number = {name: place for place, name in enumerate(names)}
    counts = [np.zeros((len(names), tokenizer.clusters), dtype=np.int64) for tokenizer in tokenizers]
    for done, (path, intervals) in enumerate(aligned.items(), start=1):
        audio = read_audio(path, sample_rate_hz=encoder.sample_rate_hz)
        require_within(intervals, seconds=len(audio) / encoder.sample_rate_hz, file=str(path))
        features = sweep.normalization(states_of(encoder, audio, [sweep.best])[0])
        labels = frame_phones(intervals, frames=len(features), rate_hz=encoder.rate_hz)
        inside = [place for place, label in enumerate(labels) if label is not None]
        phones = np.array([number[label] for label in labels if label is not None], dtype=np.int64)
        for count, tokenizer in zip(counts, tokenizers, strict=True):
            np.add.at(count, (phones, tokenizer.quantize(features[inside])[0].numpy()), 1)
        progress("phones", done, len(aligned))
    spoken = [name not in SILENCES for name in names]
    return [(phone_measures(count), _of_speech(count[spoken])) for count in counts]


def _of_speech(counts: NDArray[np.int64]) -> PhoneMeasures | None:
    return phone_measures(counts) if counts.sum() else None
