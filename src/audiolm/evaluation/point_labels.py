"""Names beside the points of a picture, none upon another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

Side = Literal["left", "right"]
FONT_SIZE = 7
# where a name may stand: offset in points, and which of its ends is at the point; the first that is free is taken
PLACES: tuple[tuple[tuple[int, int], Side], ...] = (
    ((5, 4), "left"),
    ((5, -10), "left"),
    ((-5, 4), "right"),
    ((-5, -10), "right"),
    ((5, 13), "left"),
    ((5, -19), "left"),
    ((-5, 13), "right"),
    ((-5, -19), "right"),
)


@dataclass(frozen=True)
class Label:
    """A name, where its point is, in the axes' own units, and its colour."""

    text: str
    place: tuple[float, float]
    colour: str


def place_labels(figure: Figure, axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label at the first of PLACES where it covers no earlier one and no point; at the first, if none is free.

    Args:
        figure: of the axes, with everything else drawn and its limits set.
    """
    figure.draw_without_rendering()  # settles the layout
    half = 3 * figure.dpi / 72  # a marker's
    points = [axes.transData.transform(label.place) for label in labels]
    taken = [Bbox.from_bounds(x - half, y - half, 2 * half, 2 * half) for x, y in points]
    for label in labels:
        for offset, side in PLACES:
            written = _write(axes, label, offset, side)
            box = written.get_window_extent()
            if _inside(box, axes.bbox) and not any(box.overlaps(other) for other in taken):
                break
            written.remove()
        else:
            box = _write(axes, label, *PLACES[0]).get_window_extent()
        taken.append(box)


def _write(axes: Axes, label: Label, offset: tuple[int, int], side: Side) -> Annotation:
    return axes.annotate(
        label.text,
        label.place,
        offset,
        textcoords="offset points",
        fontsize=FONT_SIZE,
        color=label.colour,
        horizontalalignment=side,
    )


def _inside(box: Bbox, frame: Bbox) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
