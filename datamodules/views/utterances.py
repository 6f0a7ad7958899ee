"""Whole utterances, to tokenize."""

from datamodules.views.recordings import RecordingsView
from datamodules.waveforms import WholeUtterances


class UtterancesView(RecordingsView):
    """`WholeUtterance`s of all splits, one by one."""

    name = "utterances"

    def prediction(self) -> WholeUtterances:
        """The utterances that the stage has not finished."""
        return self._whole(self.data.manifest.utterances.without(self.data.stage.finished_utterances()))
