"""The page that raters open: one HTML file with its sounds inside. It knows items by number, never what they are."""

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from audiolm.evaluation.listening_plan import SINGLE, Kind
from audiolm.evaluation.report_page import Html, element, join

DIGEST_PLACE = "THE-DIGEST-OF-THIS-PAGE"
NOTHING_FROM_OUTSIDE = (
    "default-src 'none'; media-src blob:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
)
QUESTIONS: dict[Kind, str] = {
    "human-or-machine": "Is this a human speaking, or is part of it made by a machine?",
    "which-is-human": "Which of the two is the human?",
    "preference": "Which of the two do you prefer?",
}
LABELS: dict[Kind, tuple[str, str]] = {
    "human-or-machine": ("Human", "Machine"),
    "which-is-human": ("A is human", "B is human"),
    "preference": ("I prefer A", "I prefer B"),
}


def listening_page(
    sounds: Sequence[Sequence[str]], *, kind: Kind, trials: int, attention: bool, question: str | None = None
) -> tuple[str, str]:
    """Build the page.

    Args:
        sounds: for every item, in order, one or two FLAC files as base64.
        trials: how many items at the beginning do not count.
        attention: whether some items have beeps, so that the page explains them.
        question: what is asked of each item; by default that of the kind.

    Returns:
        The HTML, and its digest: the sha256 (hex) of the HTML with `DIGEST_PLACE` where the digest stands.
    """
    question = question or QUESTIONS[kind]
    single = kind == SINGLE
    codes = ("human", "machine") if single else ("A", "B")
    about: dict[str, Any] = {"digest": DIGEST_PLACE, "question": question, "trials": trials, "codes": codes}
    about["labels"], about["keys"] = LABELS[kind], [code[0].upper() for code in codes]
    about["sounds"] = sounds
    own = files("audiolm.evaluation")
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{NOTHING_FROM_OUTSIDE}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", "Listening test"),
            element("style", Html(own.joinpath("listening.css").read_text(encoding="utf-8"))),
        ]
    )
    data = Html(json.dumps(about, separators=(",", ":")).replace("<", "\\u003c"))
    body = join(
        [
            element("main", _welcome(kind, question, items=len(sounds), trials=trials, attention=attention), id="page"),
            element("noscript", "This page needs JavaScript. It loads nothing and sends nothing."),
            element("script", data, type="application/json", id="test"),
            element("script", Html(own.joinpath("listening.js").read_text(encoding="utf-8"))),
        ]
    )
    page = f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    digest = hashlib.sha256(page.encode()).hexdigest()
    return page.replace(DIGEST_PLACE, digest), digest


def _welcome(kind: Kind, question: str, *, items: int, trials: int, attention: bool) -> Html:
    single = kind == SINGLE
    steps = [
        f"You will hear {items} {'recordings, one at a time' if single else 'pairs of recordings, A and B'}. "
        f"For each: {question} If you cannot tell, guess.",
        "Use headphones, in a quiet place. Each recording must be heard to its end once; you may hear it again.",
        "When all are done, the page gives you a file with your answers: send that file to whoever gave you this page.",
    ]
    if trials:
        first = "The first is" if trials == 1 else f"The first {trials} are"
        steps.insert(1, f"{first} for trying out and will not be counted.")
    if attention:
        steps.insert(
            -1, f"A few have three beeps in them: then choose {_without_beeps(single)}, whatever else you hear."
        )
    keys = "space plays and pauses, " + ("" if single else "← plays A, → plays B, ")
    keys += ("H is human, M is machine" if single else "A and B choose") + ", Enter goes on."
    return join(
        [
            element("h1", "Listening test"),
            element("ol", *(element("li", step) for step in steps)),
            element("p", f"Keys: {keys}", class_="soft"),
            element(
                "form",
                element("label", "Your name or number", for_="rater"),
                Html('<input id="rater" autocomplete="name" maxlength="80" required autofocus>'),
                element("button", "Begin", class_="main"),
                id="begin",
            ),
        ]
    )


def _without_beeps(single: bool) -> str:
    return "“Machine”" if single else "the one without beeps"
