"""The speaker stage: who speaks, by one second of audio."""

from pathlib import Path

from audiolm.evaluation.audio_classifier import CHANNELS
from audiolm.evaluation.speaker_clips import SingleUtterance, speaker_clips
from audiolm.stages.classifier import ClassifierStage


class SpeakerStage(ClassifierStage):
    """Trains a classifier of speakers, on nine tenths of the recordings of each.

    Args:
        data: manifests or folders of audio; by default `<root>/manifest.jsonl`, all of its splits.
        single_utterance: speakers of one recording are refused, or ("train") never asked for; see `speaker_clips`.

    The other arguments are `ClassifierStage`'s.

    Source: AudioLM, Table III. There 291 speakers of LibriSpeech (train-clean-100 and test-clean), split 90/10 at random.
    """

    stage = "speaker"

    def __init__(
        self,
        *,
        data: list[str] | None = None,
        single_utterance: SingleUtterance = "refuse",
        sample_rate_hz: int = 16000,
        channels: tuple[int, ...] = CHANNELS,
        learning_rate: float = 1e-3,
        warmup_steps: int = 500,
        weight_decay: float = 0.01,
        gradient_clip: float = 1.0,
        skip_limit: int = 20,
        root: str = "checkpoints",
    ) -> None:
        sources = [Path(root) / "manifest.jsonl"] if data is None else [Path(source) for source in data]
        super().__init__(
            speaker_clips(sources, single_utterance=single_utterance),
            sample_rate_hz=sample_rate_hz,
            channels=channels,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            weight_decay=weight_decay,
            gradient_clip=gradient_clip,
            skip_limit=skip_limit,
            root=root,
        )
