"""Whole utterances and their letters."""

from functools import cached_property

from audiolm.manifest import Split
from audiolm.recognition.transcripts import Transcripts, find_transcripts, read_transcripts
from datamodules.transcribed import (
    TrainingTranscribed,
    Transcribed,
    TranscribedReader,
    ValidationTranscribed,
    transcribed,
)
from datamodules.views.recordings import RecordingsView


class TranscribedView(RecordingsView):
    """`TranscribedBatch`es of the utterances whose words are known, none longer than `window_seconds`."""

    name = "transcribed"
    trains_on_audio = True

    def check(self) -> None:
        """Read the manifest and the transcripts, and say what can be learned from."""
        super().check()
        _ = self._train, self._validation

    def sources(self) -> dict[str, str]:
        """The recordings, and what is said in them."""
        return {**super().sources(), "transcripts": self._transcripts.digest}

    def training(self) -> TrainingTranscribed:
        """Batches of similar length of the training split, epoch by epoch."""
        data, reader = self.data, self._reader(self._train)
        return TrainingTranscribed(reader, batch_size=data.batch_size, seed=data.seed, share=data.share)

    def validation(self) -> ValidationTranscribed:
        """The utterances of the validation split, by length."""
        reader = self._reader(self._validation)
        return ValidationTranscribed(reader, batch_size=self.data.batch_size, share=self.data.share)

    def windows(self) -> int:
        """Utterances of the training split whose words are known."""
        return len(self._train.utterances)

    @cached_property
    def _transcripts(self) -> Transcripts:
        given = self.data.transcripts_path
        return read_transcripts(given) if given else find_transcripts(self.data.manifest.root)

    @cached_property
    def _train(self) -> Transcribed:
        return self._told("train")

    @cached_property
    def _validation(self) -> Transcribed:
        return self._told("validation")

    def _told(self, split: Split) -> Transcribed:
        stage = self.data.stage
        found = transcribed(
            self.data.manifest.split(split),
            self._transcripts,
            longest_seconds=self.data.window_seconds,
            frames=lambda seconds: stage.model.frames(round(seconds * stage.sample_rate_hz)),
        )
        stage.print(f"{split}: {found}")
        return found

    def _reader(self, found: Transcribed) -> TranscribedReader:
        return TranscribedReader(self.data.manifest, found, sample_rate_hz=self.data.stage.sample_rate_hz)
