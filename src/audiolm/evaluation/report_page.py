"""The report's HTML: a page that needs no other file. Whatever is not `Html` is escaped."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

import numpy as np
import soundfile
from numpy.typing import NDArray


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def join(parts: Iterable[object]) -> Html:
    """Parts one after the other, each escaped unless it is `Html`."""
    return Html("\n".join(part if isinstance(part, Html) else html.escape(str(part)) for part in parts))


def element(tag: str, *content: object, **attributes: str) -> Html:
    """`<tag attributes>content</tag>`; `class_` is the class."""
    written = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{written}>{join(content)}</{tag}>")


def paragraph(*content: object) -> Html:
    return element("p", *content)


def missing(what: str, command: str | None) -> Html:
    """What the page would show here, and the command that makes it."""
    remedy = (" Make it with ", element("code", command)) if command else ()
    return element("p", what, *remedy, class_="missing")


def tiles(values: Mapping[str, str]) -> Html:
    """Key numbers: name to value."""
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in values.items()),
        class_="tiles",
    )


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """A table that scrolls sideways where the screen is narrow."""
    header = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element(
        "div", element("table", element("thead", header), element("tbody", *body)), class_="scroll", tabindex="0"
    )


def grid(*figures: Html) -> Html:
    """Figures side by side where there is room, else below one another."""
    return element("div", *figures, class_="grid")


def figure(svg: bytes, *, alt: str, caption: object = None, player: Html | None = None) -> Html:
    """A picture with a caption above and an audio player below."""
    image = Html(f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">')
    parts = [element("figcaption", caption) if caption else None, image, player]
    return element("figure", *(part for part in parts if part is not None))


def player(audio: NDArray[np.int16], *, sample_rate_hz: int, label: str) -> Html:
    """An audio player that carries its sound: FLAC, exactly these samples."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, sample_rate_hz, format="FLAC", subtype="PCM_16", compression_level=1.0)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Html(
        f'<audio controls preload="metadata" aria-label="{html.escape(label)}" '
        f'src="data:audio/flac;base64,{encoded}"></audio>'
    )


def page(title: str, lead: Html, sections: Mapping[str, Html]) -> str:
    """The whole document: a title, a lead, links to the sections, the sections in order."""
    anchors = {heading: f"part-{number}" for number, heading in enumerate(sections, start=1)}
    links = element("nav", *(element("a", heading, href=f"#{anchor}") for heading, anchor in anchors.items()))
    body = (
        element("section", element("h2", heading, id=anchors[heading]), content)
        for heading, content in sections.items()
    )
    style = files("audiolm.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", title),
            element("style", Html(style)),
        ]
    )
    content = element("main", element("h1", title), lead, links, *body)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{content}\n</body>\n</html>\n'
