"""The views of the corpus, by the name that a stage's YAML gives them."""

from datamodules.views.labelled import LabelledView
from datamodules.views.prompts import PromptsView
from datamodules.views.tokens import TokensView
from datamodules.views.transcribed import TranscribedView
from datamodules.views.utterances import UtterancesView
from datamodules.views.view import View
from datamodules.views.waveform import WaveformView

EVERY: tuple[type[View], ...] = (
    WaveformView,
    UtterancesView,
    TokensView,
    PromptsView,
    LabelledView,
    TranscribedView,
)
VIEWS = {view.name: view for view in EVERY}

__all__ = ["VIEWS", "View"]
