"""The surface of a recogniser: one recording in, its words out; and the one that the asr stage trained."""

import abc
import math
from pathlib import Path

import torch
from torch import Tensor

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.recognition.alphabet import LETTERS
from audiolm.recognition.network import rebuild_recogniser


class Recogniser(abc.ABC):
    """Writes down what it hears, a recording at a time: nothing depends on other recordings.

    Attributes:
        name: for tables.
        digest: sha256 (hex) of configuration and weights.
        sample_rate_hz: of the audio it hears.
        characters: what it can write, lower case.
        decoding: how words are chosen, in a sentence.
        longest_seconds: it hears no more of a recording than this.
    """

    name: str
    digest: str
    sample_rate_hz: int
    characters: frozenset[str]
    decoding: str
    longest_seconds: float = math.inf

    @abc.abstractmethod
    def transcribe(self, audio: Tensor) -> str:
        """The words of (samples,) float32 audio at `sample_rate_hz`, on one line."""


class TrainedRecogniser(Recogniser):
    """What the asr stage trained.

    Raises:
        FileNotFoundError: if the checkpoint is not there, naming what makes it.
        ValueError: if it is damaged, or of another stage.
    """

    decoding = "the likeliest letter of every frame (greedy CTC), without a language model"

    def __init__(self, path: Path, *, device: str | torch.device = "cpu") -> None:
        checkpoint = load_stage_checkpoint(path, stage="asr")
        self.network = rebuild_recogniser(checkpoint).to(device)
        self.device = torch.device(device)
        self.name, self.digest = f"asr stage, step {checkpoint.step}", checkpoint.digest
        self.sample_rate_hz = self.network.sample_rate_hz
        self.characters = frozenset(LETTERS)

    def transcribe(self, audio: Tensor) -> str:
        """See `Recogniser.transcribe`."""
        return self.network.transcribe(audio[None].to(self.device))[0]


def load_recogniser(name: str, *, device: str | torch.device = "cpu", language: str = "en") -> Recogniser:
    """Load a recogniser.

    Args:
        name: a checkpoint of the asr stage, or its folder; else a public model: a published name, or a folder that
            `save_pretrained` wrote.
        language: that a multilingual model is told.

    Raises:
        FileNotFoundError: if it is neither here nor can be downloaded.
        ValueError: if it is damaged, no recogniser, or does not say at what rate it hears.
    """
    path = Path(name)
    if path.suffix == ".ckpt" or (path / "best.ckpt").exists():
        return TrainedRecogniser(path / "best.ckpt" if path.is_dir() else path, device=device)
    from audiolm.recognition.public import PublicRecogniser

    return PublicRecogniser(name, device=device, language=language)
