"""The files that raters send back: read, and refused where they do not belong to the test or are not whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from audiolm.evaluation.listening_key import Key
from audiolm.files import read_json
from audiolm.untrusted.values import require_number

FORMAT = "audiolm listening answers 1"
MADE_BY = "the page of a listening test"
MOST_ITEM_SECONDS = 1e7  # on one item: a page may stay open for weeks


@dataclass(frozen=True)
class Answers:
    """All answers of one rater."""

    path: Path
    rater: str
    started: str  # ISO 8601, by the rater's clock
    finished: str
    choices: tuple[str, ...]  # one for each item, in order
    seconds: tuple[float, ...]  # from seeing the item to confirming the answer


def read_answers(paths: Sequence[Path], key: Key) -> list[Answers]:
    """Read the files of all raters, in the order of their names.

    Raises:
        FileNotFoundError: if one is not there.
        ValueError: naming the file that is no such file, belongs to another page, is incomplete, has an item twice or an
            answer that nobody could give; and files of one rater, or of the same answers under two names.
    """
    if not paths:
        raise ValueError("there are no answers to score: name the files that raters sent back")
    everyone = sorted((_read(path, key) for path in paths), key=lambda answers: answers.rater.casefold())
    for first, second in pairwise(everyone):
        if first.rater.casefold() == second.rater.casefold():
            raise ValueError(
                f"{first.path} and {second.path} are both of rater {first.rater!r}: every rater counts once. Remove one "
                "of them, or, if two people chose one name, change it in one of the files."
            )
    seen: dict[tuple, Answers] = {}
    for answers in everyone:
        twin = seen.setdefault((answers.started, answers.choices, answers.seconds), answers)
        if twin is not answers:
            raise ValueError(
                f"{twin.path} and {answers.path} hold the same answers, given at the same time: remove one"
            )
    return everyone


def _read(path: Path, key: Key) -> Answers:
    values = read_json(path, made_by=MADE_BY)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{path} holds no answers of a listening test ({FORMAT!r}): remove it from the list")
    if values.get("page") != key.page:
        raise ValueError(
            f"{path} answers another page ({str(values.get('page'))[:12]}…) than the key's ({key.page[:12]}…): name the "
            "key that was made together with that page."
        )
    rater, given = values.get("rater"), values.get("answers")
    if not isinstance(rater, str) or not rater.strip() or len(rater) > 80 or not rater.isprintable():
        raise ValueError(f"{path} does not say who the rater is: `rater` must be a name of 1 to 80 letters")
    if not isinstance(given, list) or not all(isinstance(answer, dict) for answer in given):
        raise ValueError(f"{path} is damaged: `answers` must be a list of items")
    _require_each_item_once(path, [answer.get("item") for answer in given], key)
    ordered = sorted(given, key=lambda answer: answer["item"])
    choices = tuple(_choice(path, answer, key) for answer in ordered)
    times = (
        require_number(
            answer.get("seconds"), low=0, high=MOST_ITEM_SECONDS, what=f"{path}: seconds of item {answer['item']}"
        )
        for answer in ordered
    )
    started, finished = (str(values.get(name))[:40] for name in ("started", "finished"))
    return Answers(path, rater.strip(), started, finished, choices, tuple(times))


def _require_each_item_once(path: Path, numbers: list[Any], key: Key) -> None:
    known = range(1, len(key.items) + 1)
    if strange := [number for number in numbers if type(number) is not int or number not in known]:
        raise ValueError(f"{path} answers item {str(strange[0])[:40]}, but the test has items 1 to {len(key.items)}")
    if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise ValueError(f"{path} answers item {twice[0]} twice: take the file as the page gave it, unchanged")
    if missing := sorted(set(known) - set(numbers)):
        raise ValueError(
            f"{path} is incomplete: {len(missing)} of {len(key.items)} items have no answer ({_few(missing)}). Ask the "
            "rater to open the page again in the same browser and finish; half a test is not scored."
        )


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" …" if len(numbers) > 8 else "")


def _choice(path: Path, answer: dict[str, Any], key: Key) -> str:
    choice = answer.get("answer")
    if choice not in key.answers:
        raise ValueError(
            f"{path} answers item {answer['item']} with {str(choice)[:40]!r}; it must be {' or '.join(key.answers)}"
        )
    return str(choice)
