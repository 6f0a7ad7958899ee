"""ABX of every layer of an encoder, and which is best: the left of AudioLM's figure 3."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from audiolm.audio import read_audio
from audiolm.evaluation.abx import AbxResult, AbxSettings, compare_items
from audiolm.evaluation.abx_frames import ItemFrames
from audiolm.evaluation.abx_items import CONTEXTS, Context, Item
from audiolm.evaluation.abx_tasks import SPEAKERS, Speakers
from audiolm.evaluation.clips import Clip
from audiolm.evaluation.layer_frames import (
    Normalization,
    Progress,
    layer_frames,
    layer_groups,
    states_of,
    training_statistics,
)
from audiolm.semantic.encoder import Encoder


@dataclass(frozen=True)
class Rule:
    """Which of the four ABX figures decides; the lowest wins, of equal ones the first."""

    speakers: Speakers = "across"
    context: Context = "any"

    @classmethod
    def named(cls, name: str) -> "Rule":
        """From "across-any" and the like.

        Raises:
            ValueError: naming those there are.
        """
        rules = {str(rule): rule for rule in (cls(speakers, context) for speakers in SPEAKERS for context in CONTEXTS)}
        if name not in rules:
            raise ValueError(f"there is no rule {name!r} to choose by: take one of {', '.join(rules)}")
        return rules[name]

    def __str__(self) -> str:
        return f"{self.speakers}-{self.context}"

    @property
    def words(self) -> str:
        return f"ABX error {self.speakers} speakers, {self.context} context"

    def error(self, result: AbxResult) -> float:
        """The figure that decides.

        Raises:
            ValueError: if the items have nothing to compare in this way.
        """
        error = result.score(self.context, self.speakers).error
        if error is None:
            raise ValueError(
                f"no two items can be compared {self.speakers} speakers in {self.context} context, so there is nothing to "
                f"choose by: {result.items} items are too few, have one speaker or one phone. Choose by another figure "
                "with --by, or raise --limit."
            )
        return error


@dataclass(frozen=True)
class LayerSweep:
    """ABX of normalised, unquantised features.

    Attributes:
        results: by layer.
        best: the winning layer.
        normalization: that of the winner.
        frames: its items' frames, normalised.
    """

    results: dict[int, AbxResult]
    best: int
    normalization: Normalization
    frames: ItemFrames


def sweep_layers(
    encoder: Encoder,
    items: Sequence[Item],
    recordings: Mapping[str, Path],
    clips: Sequence[Clip],
    *,
    layers: Sequence[int],
    rule: Rule,
    settings: AbxSettings,
    device: str = "cpu",
    clusters: int = 1,
    memory_bytes: int = 2**32,
    progress: Progress = lambda what, done, total: None,
) -> LayerSweep:
    """Measure layers; each recording goes through the encoder once for as many layers as fit the memory.

    Args:
        recordings: the audio file of every stem that items name.
        clips: training audio: every layer is normalised by its statistics, never by those of the items.
        layers: which ones.
        clusters: the most that will be made of the training audio later; too little of it is said before the sweep.
        memory_bytes: for frames of items; one layer's are always kept, and those of the best one so far.

    Raises:
        ValueError: for layers that do not exist, unusable training audio, or items with nothing to compare.

    Source: AudioLM, section IV-B: layer 7 was chosen by ABX error across speakers.
    """
    encoder.check_layers(layers)
    encoder = encoder.eval().to(device)
    statistics = training_statistics(encoder, clips, layers=layers, clusters=clusters, progress=progress)
    results: dict[int, AbxResult] = {}
    best: LayerSweep | None = None
    for group in layer_groups(items, layers, rate_hz=encoder.rate_hz, dim=encoder.dim, memory_bytes=memory_bytes):

        def states(stem: str, group: Sequence[int] = group) -> list[Tensor]:
            audio = read_audio(recordings[stem], sample_rate_hz=encoder.sample_rate_hz)
            return states_of(encoder, audio, group)

        normalizations = [statistics[layer] for layer in group]
        frames_of = layer_frames(
            items,
            states,
            normalizations=normalizations,
            rate_hz=Fraction(encoder.rate_hz),
            rule=settings.frames,
            progress=progress,
        )
        for layer, frames in zip(group, frames_of, strict=True):
            results[layer] = compare_items(frames, settings=settings, device=device)
            if best is None or rule.error(results[layer]) < rule.error(results[best.best]):
                best = LayerSweep(results, layer, statistics[layer], frames)
            progress("layers", len(results), len(layers))
    assert best is not None, "check_layers refuses an empty choice"
    return best
