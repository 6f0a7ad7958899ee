"""Crops of the stage's own recordings, whose class is known."""

from typing import cast

from audiolm.evaluation.labelled import CROP_SECONDS, LabelledClips
from datamodules.labelled import LabelledTrainingCrops, LabelledValidationCrops, is_readable
from datamodules.unreadable import Unreadable
from datamodules.views.view import View


class LabelledView(View):
    """`LabelledBatch`es of the recordings that the stage holds, with their digest."""

    name = "labelled"
    trains_on_audio = True

    def check(self) -> None:
        """Refuse other windows than the classifier's."""
        if self.data.window_seconds != CROP_SECONDS:
            raise ValueError(
                f"A classifier hears {CROP_SECONDS:g} s at once: window_seconds is {self.data.window_seconds}"
            )

    def training(self) -> LabelledTrainingCrops:
        """Random crops of what is not held out, of every class equally many."""
        data = self.data
        return LabelledTrainingCrops(
            self._clips.part(held_out=False),
            sample_rate_hz=data.stage.sample_rate_hz,
            batch_size=data.batch_size,
            seed=data.seed,
            share=data.share,
        )

    def validation(self) -> LabelledValidationCrops:
        """What is held out, as crops side by side."""
        data, held_out = self.data, self._clips.part(held_out=True)
        rate = data.stage.sample_rate_hz
        return LabelledValidationCrops(held_out, sample_rate_hz=rate, batch_size=data.batch_size, share=data.share)

    def windows(self) -> int:
        """As many crops as are as long as what is not held out."""
        return round(self._clips.part(held_out=False).seconds / self.data.window_seconds)

    def files(self) -> int:
        """Files that the clips lie in."""
        return len({clip.path for clip in self._clips.clips})

    def is_readable(self, one: Unreadable) -> bool:
        """Whether every clip of the file can be read."""
        return all(is_readable(clip) for clip in self._clips.clips if str(clip.path) == one.path)

    @property
    def _clips(self) -> LabelledClips:
        return cast(LabelledClips, self.data.stage.labelled)
