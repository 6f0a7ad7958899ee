"""Random crops of audio."""

from datamodules.views.recordings import RecordingsView
from datamodules.waveforms import CropReader, TrainingCrops, ValidationCrops


class WaveformView(RecordingsView):
    """`WaveformBatch`es of crops of `window_seconds`, at the stage's sample rate."""

    name = "waveform"
    trains_on_audio = True

    def training(self) -> TrainingCrops:
        """Random crops of the training split."""
        data = self.data
        utterances = data.manifest.split("train")
        return TrainingCrops(self._reader(), utterances, batch_size=data.batch_size, seed=data.seed, share=data.share)

    def validation(self) -> ValidationCrops:
        """The validation split as crops side by side."""
        utterances = self.data.manifest.split("validation")
        return ValidationCrops(self._reader(), utterances, batch_size=self.data.batch_size, share=self.data.share)

    def windows(self) -> int:
        """As many crops as are as long as the training split."""
        return round(float(self.data.manifest.split("train").seconds.sum()) / self.data.window_seconds)

    def _reader(self) -> CropReader:
        rate = self.data.stage.sample_rate_hz
        window_samples = round(self.data.window_seconds * rate)
        return CropReader(self.data.manifest, sample_rate_hz=rate, window_samples=window_samples)
