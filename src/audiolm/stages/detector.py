"""The detector stage: whether a machine speaks, by one second of audio."""

from pathlib import Path

from audiolm.evaluation.audio_classifier import CHANNELS
from audiolm.evaluation.detector_clips import codec_doubts, detector_clips, generator_of
from audiolm.stages.classifier import ClassifierStage

MADE_IN = Path("evaluation") / "audio-train"


class DetectorStage(ClassifierStage):
    """Trains a classifier of "human" and "machine", on nine tenths of the recordings and what was spoken on from them.

    A detector hears what differs, be it speech or not. What could give a side away here, and what is done about it: loudness
    and constant offset (taken from every crop by the network); length (crops are of one second); the codec's noise and its
    rate (the human side goes through the codec, too; without that the task is the paper's trivial control); the same words
    and voices on both sides of the split (a recording is held out together with what was spoken on from it); more of one side
    (every batch has as many crops of each). What stays: recordings begin and end with pauses, continuations rarely do
    (`human_start_seconds` leaves out beginnings); and a detector knows one generator, with the samplings that it was trained on.

    Args:
        human: folders of recordings; by default `<root>/evaluation/audio-train/reconstruction`.
        machine: folders of continuations, whose prompts are excluded; by default `…/continuation-0`.
        human_start_seconds: so much of the beginning of each human recording is left out.

    The other arguments are `ClassifierStage`'s.

    Source: AudioLM's detector of synthesized speech: the speaker classifier's network on continuations and originals that
    went through SoundStream.
    """

    stage = "detector"

    def __init__(
        self,
        *,
        human: list[str] | None = None,
        machine: list[str] | None = None,
        human_start_seconds: float = 0.0,
        sample_rate_hz: int = 16000,
        channels: tuple[int, ...] = CHANNELS,
        learning_rate: float = 1e-3,
        warmup_steps: int = 500,
        weight_decay: float = 0.01,
        gradient_clip: float = 1.0,
        skip_limit: int = 20,
        root: str = "checkpoints",
    ) -> None:
        made_in = Path(root) / MADE_IN
        humans = [made_in / "reconstruction"] if human is None else [Path(folder) for folder in human]
        machines = [made_in / "continuation-0"] if machine is None else [Path(folder) for folder in machine]
        self.generator = generator_of([folder for folder in machines if folder.is_dir()])
        super().__init__(
            detector_clips(humans, machines, human_start_seconds=human_start_seconds),
            sample_rate_hz=sample_rate_hz,
            channels=channels,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            weight_decay=weight_decay,
            gradient_clip=gradient_clip,
            skip_limit=skip_limit,
            root=root,
        )

        self.doubts = codec_doubts(humans, self.generator)

    def on_fit_start(self) -> None:
        """See `ClassifierStage.on_fit_start`; and say where the human side may not have passed the codec."""
        super().on_fit_start()
        for doubt in self.doubts:
            self.print(f"Warning: {doubt}")

    def sources(self) -> dict[str, str]:
        """See `ClassifierStage.sources`; and whose continuations it learnt, so that it ships with that generator only."""
        return {**super().sources(), **({"generator": self.generator} if self.generator else {})}
