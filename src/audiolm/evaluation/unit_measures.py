"""What units have to do with phones, and with themselves: tables of counts in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PhoneMeasures:
    """How well units and phones determine each other, over frames.

    Attributes:
        phone_purity: accuracy of a transcription that gives each unit its most frequent phone.
        cluster_purity: accuracy of one that gives each phone its most frequent unit.
        pnmi: mutual information of phone and unit over the phones' entropy: the share of what is uncertain about the phone
            that the unit settles. nan if there is one phone only.
        frames: how many were counted.

    Source: HuBERT (arXiv 2106.07447), section IV-C. Purity and PNMI rise with the number of clusters by themselves, so
    compare at one K only; there they were measured on LibriSpeech dev with Kaldi's alignments.
    """

    phone_purity: float
    cluster_purity: float
    pnmi: float
    frames: int


def phone_measures(counts: NDArray[np.int64]) -> PhoneMeasures:
    """Measure from how often each phone meets each unit.

    Args:
        counts: (phones, clusters) frames.

    Raises:
        ValueError: if there are no frames.
    """
    frames = int(counts.sum())
    if not frames:
        raise ValueError("no frame lies inside a phone: check that --phones and --audio are of one data set")
    joint = counts / frames
    phones, units = joint.sum(1), joint.sum(0)
    met = joint > 0
    information = float((joint[met] * np.log(joint[met] / np.outer(phones, units)[met])).sum())
    entropy = float(-(phones[phones > 0] * np.log(phones[phones > 0])).sum())
    pnmi = information / entropy if entropy > 0 else float("nan")
    return PhoneMeasures(float(joint.max(0).sum()), float(joint.max(1).sum()), pnmi, frames)


@dataclass(frozen=True)
class RepeatMeasures:
    """How often a unit follows itself within an utterance.

    Attributes:
        mean_run_frames: frames until the unit changes.
        repeat_share: frames that repeat the one before and are removed for the language model, of all frames.
        units_per_second: what is left of a second once repeats are removed.
    """

    mean_run_frames: float
    repeat_share: float
    units_per_second: float


def repeat_measures(utterances: Sequence[NDArray[np.int64]], *, rate_hz: float) -> RepeatMeasures:
    """Measure units (frames,) of each utterance; runs end with their utterance.

    Raises:
        ValueError: if there are no frames.
    """
    frames = sum(len(units) for units in utterances)
    if not frames:
        raise ValueError("there are no units to measure")
    runs = sum(1 + int((units[1:] != units[:-1]).sum()) for units in utterances if len(units))
    return RepeatMeasures(frames / runs, 1 - runs / frames, runs / frames * rate_hz)
