"""How likely a file is a generator's own: its detector, on anyone's audio."""

from dataclasses import dataclass
from pathlib import Path

import torch

from audiolm.audio import audio_info, read_prompt
from audiolm.checkpoint import StageCheckpoint, load_stage_checkpoint
from audiolm.evaluation.audio_classifier import AudioClassifier
from audiolm.evaluation.detector_clips import HUMAN, MACHINE
from audiolm.evaluation.windowed import aggregate, window_log_probabilities, window_starts
from audiolm.generator.detector_file import FILE, read_detector

SHORTEST_SECONDS = 1.0
LIMITS = (
    "It knows the continuations of one generator, and recordings that passed the same codec. Of other generators' speech, and of "
    "the same after another codec, mp3, a telephone or added noise, it may say anything.",
    "A low figure is no proof that a recording is real, a high one no proof against a person: it is right on average, and how "
    "often was measured on recordings like those that it was trained on (`audiolm evaluate detector`).",
    "The figure for a file averages all its windows: where speech follows a real prompt, look at the curve.",
)


@dataclass(frozen=True)
class Detector:
    """A detector and where it comes from."""

    model: AudioClassifier
    checkpoint: StageCheckpoint


@dataclass(frozen=True)
class Detection:
    """What a detector says of one file."""

    file: str
    seconds: float
    probability: float  # that the generator made it
    starts: tuple[float, ...]  # of the windows of one second, in seconds
    curve: tuple[float, ...]  # their probabilities


def load_detector(path: Path) -> Detector:
    """Read a detector: a generator folder that has one, its `detector.safetensors`, or a checkpoint of the detector stage.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, of another stage, or does not tell a machine from a human.
    """
    shipped = path.is_dir() or path.name == FILE
    checkpoint = read_detector(path) if shipped else load_stage_checkpoint(path, stage="detector")
    try:
        model = AudioClassifier.from_checkpoint(checkpoint)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is no detector that can be used: {error}") from error
    if set(model.labels) != {HUMAN, MACHINE}:
        raise ValueError(f"{path} tells {model.labels[:5]} apart, a detector {HUMAN!r} and {MACHINE!r}: name another.")
    if not bool(model.temperature.isfinite()) or float(model.temperature) <= 0:
        raise ValueError(f"{path} has a calibration temperature of {float(model.temperature)}: it is damaged.")
    return Detector(model, checkpoint)


def with_prior(probability: float, prior: float) -> float:
    """A probability found for as many of either kind, if one of them is as frequent as `prior`: Bayes' rule."""
    ours, theirs = probability * prior, (1 - probability) * (1 - prior)
    return ours / (ours + theirs) if ours + theirs else probability


def require_files(paths: list[Path]) -> None:
    """Look at all files before the first is judged.

    Raises:
        AudioError: for a file that is no audio.
        ValueError: for one shorter than a second.
    """
    for path in paths:
        seconds = audio_info(path).seconds
        if seconds < SHORTEST_SECONDS:
            raise ValueError(
                f"{path} lasts {seconds:.2f} s: the detector hears one second at a time, and of less nothing can be said. Give "
                "a longer stretch of it."
            )


def detect(model: AudioClassifier, path: Path, *, prior: float = 0.5, device: str | torch.device = "cpu") -> Detection:
    """Judge one file of any format and rate.

    Args:
        model: of `load_detector`, on `device`.
        prior: how many of such files are the generator's, in (0, 1).

    Raises:
        AudioError: if it is no audio, or silent.
        ValueError: if it is shorter than one second, or `prior` is out of range.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior must lie between 0 and 1, got {prior}: at either end no file would change your mind")
    require_files([path])
    audio = read_prompt(path, sample_rate_hz=model.sample_rate_hz)
    windows = window_log_probabilities(model, audio.to(device)).double().cpu()
    machine = model.labels.index(MACHINE)
    return Detection(
        file=str(path),
        seconds=len(audio) / model.sample_rate_hz,
        probability=with_prior(float(aggregate(windows)[machine]), prior),
        starts=tuple(
            at / model.sample_rate_hz for at in window_starts(len(audio), sample_rate_hz=model.sample_rate_hz)
        ),
        curve=tuple(with_prior(value, prior) for value in windows.exp()[:, machine].tolist()),
    )
