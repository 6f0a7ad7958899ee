"""The ABX test: is X, an item of phone A, nearer to another A than to a B? Items and features to errors."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from audiolm.evaluation.abx_cells import cell_errors
from audiolm.evaluation.abx_distances import DISTANCES, Distance
from audiolm.evaluation.abx_frames import FRAME_RULES, FrameRule, ItemFrames, item_frames
from audiolm.evaluation.abx_items import CONTEXTS, Context, Item
from audiolm.evaluation.abx_pairs import ItemDistances
from audiolm.evaluation.abx_scores import AbxScore, pool_cells
from audiolm.evaluation.abx_tasks import SPEAKERS, Speakers, comparisons, group_items


@dataclass(frozen=True)
class AbxSettings:
    """How items are compared. Figures of different settings are never mixed.

    Args:
        contexts: "within": A, B and X between the same two phones, as Libri-Light; "any": whatever surrounds them, as newer
            ZeroSpeech.
        speakers: X of the speaker of A and B, or of another one.
        max_size_group: of a larger group so many items are drawn. 10 is what the command of Libri-Light passes.
        max_x_across: of more other speakers so many are drawn.
        normalize: bring every dimension to zero mean and unit variance over the recordings of the items.
        seed: of the draws and of the bootstrap; 3459 is the ZeroSpeech toolbox's.
    """

    contexts: tuple[Context, ...] = CONTEXTS
    speakers: tuple[Speakers, ...] = SPEAKERS
    distance: Distance = "cosine"
    frames: FrameRule = "corrected"
    max_size_group: int = 10
    max_x_across: int = 5
    normalize: bool = False
    seed: int = 3459

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("distance", (self.distance,), DISTANCES),
            ("rule for frames", (self.frames,), FRAME_RULES),
            ("context", self.contexts, CONTEXTS),
            ("choice of speakers", self.speakers, SPEAKERS),
        ):
            if not value or set(value) - set(choices):
                raise ValueError(
                    f"there is no {name} {', '.join(map(str, value))!r}: choose among {', '.join(choices)}"
                )
        if self.max_size_group < 2 or self.max_x_across < 1:
            raise ValueError(
                "a group needs 2 items at least (X and A) and X one speaker, got max_size_group "
                f"{self.max_size_group} and max_x_across {self.max_x_across}"
            )
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative, got {self.seed}")


@dataclass(frozen=True)
class AbxResult:
    """ABX figures of one source of features, and what they were computed from.

    Attributes:
        scores: one per context and choice of speakers.
        items: how many the item file has.
        dropped: how many of them are too short to have a frame.
        frames: the mean of frames per item.
        seconds: spent on comparing, features not counted.
    """

    scores: tuple[AbxScore, ...]
    items: int
    dropped: int
    frames: float
    seconds: float

    @property
    def triples_per_s(self) -> float:
        return sum(score.triples for score in self.scores) / self.seconds

    def score(self, context: Context, speakers: Speakers) -> AbxScore:
        """The figure of one context and choice of speakers."""
        return next(score for score in self.scores if (score.context, score.speakers) == (context, speakers))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what is told per pair of phones is left out."""
        plain = asdict(self)
        for score in plain["scores"]:
            del score["pairs"]
        return {**plain, "triples_per_s": self.triples_per_s}


def measure_abx(
    items: Sequence[Item],
    features: Callable[[str], Tensor],
    *,
    rate_hz: Fraction | int,
    settings: AbxSettings | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> AbxResult:
    """Measure how well features keep phones apart.

    Args:
        items: as `read_items` reads them.
        features: from the stem of a recording to its features (frames, dim); asked once per recording.
        rate_hz: frames per second.
        device: where distances are computed, in float64.
        progress: called with (recordings read, all recordings).

    Raises:
        ValueError: for features that are not finite or do not fit the items, or items of which none has a frame.

    Source: Schatz et al., "Evaluating speech features with the minimal-pair ABX task" (2013), with the sampling and averaging of
        the Libri-Light script, with these differences: draws are seeded, and a group that is too large is drawn from
        once, not anew for every cell.
    """
    settings = settings or AbxSettings()
    found = item_frames(
        items,
        features,
        rate_hz=Fraction(rate_hz),
        rule=settings.frames,
        normalize=settings.normalize,
        progress=progress,
    )
    if not found.items:
        raise ValueError(
            f"none of {len(items)} items has a frame at {float(rate_hz):g} Hz: frames are too far apart for such short "
            "items, or the rate is wrong"
        )
    return compare_items(found, settings=settings, device=device)


def compare_items(found: ItemFrames, *, settings: AbxSettings, device: str = "cpu") -> AbxResult:
    """`measure_abx` of items whose frames are there already, as they are: `settings.frames` and `normalize` come before."""
    began = time.perf_counter()
    scores = [score for context in settings.contexts for score in _scores(found, context, settings, device)]
    seconds = time.perf_counter() - began
    mean_frames = float(found.lengths.double().mean())
    return AbxResult(tuple(scores), len(found.items) + found.dropped, found.dropped, mean_frames, seconds)


def _scores(found: ItemFrames, context: Context, settings: AbxSettings, device: str) -> list[AbxScore]:
    groups = group_items(found.items, context=context, max_size_group=settings.max_size_group, seed=settings.seed)
    order = torch.tensor(groups.order)
    distances = ItemDistances(
        found.frames, found.starts[order], found.lengths[order], distance=settings.distance, device=device
    )
    scores = []
    for speakers in settings.speakers:
        compared = comparisons(groups, speakers, max_x_across=settings.max_x_across, seed=settings.seed)
        cells = cell_errors(groups, compared, distances)
        scores.append(pool_cells(cells, groups.groups, context=context, speakers=speakers, seed=settings.seed))
    return scores
