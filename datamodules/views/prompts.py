"""Recordings to be spoken on from."""

from datamodules.prompts import PromptBatches
from datamodules.views.view import View


class PromptsView(View):
    """`PromptBatch`es of the stage's prompts: it says what they are, and may name a folder instead of the manifest."""

    name = "prompts"

    def check(self) -> None:
        """Nothing: the stage lists its prompts."""

    def prediction(self) -> PromptBatches:
        """The batches that hold a prompt which is still to be spoken on from."""
        stage = self.data.stage
        return PromptBatches(
            stage.prompts,
            unfinished=stage.unfinished,
            batch_size=self.data.batch_size,
            sample_rate_hz=stage.sample_rate_hz,
            processes=stage.trainer.world_size,
        )
