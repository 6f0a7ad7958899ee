"""What is measured of a codec, and the measuring of one clip."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiolm.audio import is_silent, resample
from audiolm.evaluation import perceptual
from audiolm.evaluation.perceptual import VISQOL_MAPPINGS, NotMeasurableError, VisqolMapping
from audiolm.evaluation.reconstruction import mel_distance, si_sdr

MeasureName = Literal["visqol", "pesq", "stoi", "si_sdr", "mel"]
MEASURES: tuple[MeasureName, ...] = get_args(MeasureName)
REAL_TIME = "real_time_factor"  # always there: seconds of encoding all and decoding some levels, per second of audio


@dataclass(frozen=True)
class Settings:
    """What is measured, and how. Numbers of different settings are never mixed."""

    levels: tuple[int, ...]
    measures: tuple[MeasureName, ...] = MEASURES
    visqol_mapping: VisqolMapping = "polynomial"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.measures) - set(MEASURES)):
            raise ValueError(f"there is no measure {', '.join(unknown)}: choose among {', '.join(MEASURES)}")
        if self.visqol_mapping not in VISQOL_MAPPINGS:
            raise ValueError(
                f"there is no ViSQOL mapping {self.visqol_mapping!r}: choose one of {', '.join(VISQOL_MAPPINGS)}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The measures of every clip at every number of levels, in the order of the table."""
        return (*self.measures, REAL_TIME)

    def titles(self) -> dict[str, str]:
        """The heading of each column, with its unit."""
        titles = {
            "visqol": f"ViSQOL ({self.visqol_mapping})",
            "pesq": "PESQ (wide band)",
            "stoi": "STOI",
            "si_sdr": "SI-SDR (dB)",
            "mel": "mel distance (nats)",
            REAL_TIME: "real-time factor",
        }
        return {name: titles[name] for name in self.columns}


@dataclass(frozen=True)
class Task:
    """One clip and its reconstructions: all that a measuring process is given. Arrays, because tensors would travel through
    shared memory, which containers keep small."""

    id: str
    sample_rate_hz: int
    reference: NDArray[np.float32]  # (samples,)
    estimates: dict[int, NDArray[np.float32]]  # number of levels to (samples,)
    bitrates_bps: dict[int, float]
    codec_seconds: dict[int, float]


@dataclass(frozen=True)
class Row:
    """One number, or the reason why there is none: a line of `files.csv`."""

    file: str
    seconds: float
    levels: int
    bitrate_bps: float
    measure: str
    value: float | None
    why_empty: str = ""


def measure(task: Task, settings: Settings) -> list[Row]:
    """Every measure of one clip at every number of levels.

    ViSQOL, PESQ and STOI compare reference and reconstruction at 16 kHz, both resampled from the codec's rate; SI-SDR and mel
    distance at the codec's rate. A silent reference gives no value but the real-time factor; where a measure is not
    defined (see `audiolm.evaluation.perceptual`) the row says why.
    """
    at_codec_rate = torch.from_numpy(task.reference)
    at_16k = _at_16k(at_codec_rate, task.sample_rate_hz)
    seconds = len(at_codec_rate) / task.sample_rate_hz
    rows = []
    for levels, array in task.estimates.items():
        estimate = torch.from_numpy(array)
        estimate_16k = _at_16k(estimate, task.sample_rate_hz)
        values: dict[str, float | str] = {}
        for name in settings.measures:
            pair = (estimate, at_codec_rate) if name in ("si_sdr", "mel") else (estimate_16k, at_16k)
            try:
                values[name] = _value(name, *pair, task.sample_rate_hz, settings.visqol_mapping)
            except NotMeasurableError as error:
                values[name] = str(error)
        values[REAL_TIME] = task.codec_seconds[levels] / seconds
        for column, value in values.items():
            number, why = (None, value) if isinstance(value, str) else (value, "")
            rows.append(Row(task.id, seconds, levels, task.bitrates_bps[levels], column, number, why))
    return rows


def _value(
    name: MeasureName, estimate: Tensor, reference: Tensor, sample_rate_hz: int, mapping: VisqolMapping
) -> float:
    if is_silent(reference):
        raise NotMeasurableError("the reference is silent")
    match name:
        case "visqol":
            return perceptual.visqol(estimate, reference, mapping=mapping)
        case "pesq":
            return perceptual.pesq(estimate, reference)
        case "stoi":
            return perceptual.stoi(estimate, reference)
        case "si_sdr":
            return float(si_sdr(estimate[None], reference[None]))
        case "mel":
            return float(mel_distance(estimate[None], reference[None], sample_rate_hz=sample_rate_hz))


def _at_16k(audio: Tensor, sample_rate_hz: int) -> Tensor:
    return resample(audio, from_hz=sample_rate_hz, to_hz=perceptual.RATE_HZ)
