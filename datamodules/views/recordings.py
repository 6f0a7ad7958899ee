"""What the views of the manifest's recordings share."""

from collections.abc import Sequence

from audiolm.manifest import Utterance
from datamodules.unreadable import Unreadable
from datamodules.views.view import View
from datamodules.waveforms import WholeUtterances


class RecordingsView(View):
    """A view of the recordings that `audiolm prepare` listed."""

    def check(self) -> None:
        """Read the manifest."""
        _ = self.data.manifest

    def sources(self) -> dict[str, str]:
        """The recordings, by the manifest."""
        return {"audio": self.data.manifest.digest}

    def files(self) -> int:
        """Files of the whole manifest."""
        return self.data.manifest.utterances.files

    def is_readable(self, one: Unreadable) -> bool:
        """Whether every utterance of the file can be read."""
        whole = self._whole(self.data.manifest.utterances.of_file(one.path))
        return all(not whole[number].defect for number in range(len(whole)))

    def _whole(self, utterances: Sequence[Utterance]) -> WholeUtterances:
        return WholeUtterances(self.data.manifest, utterances, sample_rate_hz=self.data.stage.sample_rate_hz)
