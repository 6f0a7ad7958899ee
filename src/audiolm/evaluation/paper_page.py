"""The paper's tables and figures beside ours, as one HTML page."""

import html
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from audiolm.evaluation.paper_claims import CLAIMS, Judged, Verdict, judge
from audiolm.evaluation.paper_experiments import Experiment
from audiolm.evaluation.paper_found import Found, find
from audiolm.evaluation.paper_readers import columns_of
from audiolm.evaluation.paper_runs import Run
from audiolm.evaluation.paper_steps import Given, Lack, Step
from audiolm.evaluation.paper_words import chain_section, explained_section
from audiolm.evaluation.report_page import Html, element, figure, join, page, paragraph, table
from audiolm.files import atomic_path

NONE = "–"
MOST_ROWS = 60  # of a result, shown below its table; the file has all
MOST_CHARACTERS = 6000  # of what is not in rows
MOST_PICTURE_BYTES = 4_000_000
_NUMBERED = re.compile(r"K = \d+")  # rows that stand in the order of their numbers, the paper's among ours
CLASSES: dict[Verdict, str] = dict.fromkeys(get_args(Verdict), "soft") | {"seen": "good", "not seen": "bad"}


def write_page(
    given: Given, experiments: Mapping[Experiment, Sequence[Step]], records: Path
) -> tuple[Path, dict[str, list[str]]]:
    """Write `<root>/report/paper.html` of whatever is there.

    Returns:
        Where it is, and the errors that stand on it by name of the experiment; those of stages' records by "chain".
    """
    all_found = [find(experiment, steps, records) for experiment, steps in experiments.items()]
    judged = [row for found in all_found for row in _judged(found)]
    sections = {"The paper's orderings": _orderings(judged)}
    told: set[str] = set()
    sections |= {found.experiment.title: _section(found, told) for found in all_found}
    chain, damaged = chain_section(given)
    sections |= {"What the chain cost": chain, "How to read this": explained_section(given)}
    lead = paragraph(
        "Each table and figure of “AudioLM: a Language Modeling Approach to Audio Generation” (arXiv 2209.03143, version 2) "
        "beside what this chain gives. A column says whose it is; what was not measured says which command measures it."
    )
    if given.options:
        said = shlex.join(word for option in given.options for word in option)
        lead = join([lead, paragraph("Only results of these options: ", element("code", said), ".")])
    if given.limit is not None:
        lead = join([lead, paragraph(f"What can be limited is measured on no more than {given.limit} recordings.")])
    path = given.root / "report" / "paper.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page("AudioLM: the paper's evaluation", lead, sections), encoding="utf-8")
    return path, {"chain": damaged, **{found.experiment.name: found.errors for found in all_found}}


def _judged(found: Found) -> list[Judged]:
    """The claims of an experiment, by what is of the inputs that are there now."""
    name = found.experiment.name
    current, older = {name: found.current}, {name: found.older}
    return [judge(claim, current, older) for claim in CLAIMS if claim.experiment == name]


def _orderings(judged: Sequence[Judged]) -> Html:
    rows = [
        (
            row.claim.text,
            element("span", row.verdict, class_=CLASSES[row.verdict]),
            _figures(row) or NONE,
        )
        for row in judged
    ]
    return join(
        [
            paragraph(
                "What the paper concludes, judged by the means below alone: no test of significance, equal is not seen."
            ),
            _wrapped(table(("the paper's claim", "here", "figures"), rows)),
        ]
    )


def _figures(row: Judged) -> str:
    """The comparisons that could be made, and what is missing of a claim of which others could."""
    return row.figures + (f"; missing: {'; '.join(row.missing)}" if row.figures and row.missing else "")


def _section(found: Found, told: set[str]) -> Html:
    """One experiment; results in `told` have been shown in whole further up."""
    experiment, paper = found.experiment, found.experiment.paper
    parts: list[Html] = []
    if paper:
        parts.append(paragraph(element("b", f"Paper, {paper.where}: "), paper.protocol))
    parts.append(paragraph(element("b", "Here: "), experiment.differs))
    if found.numbers or (paper and paper.rows):
        parts.append(_beside(found))
    for error in dict.fromkeys(found.errors):
        parts.append(element("p", element("b", "Failed: "), error, class_="missing"))
    parts += [_not_run(step) for step in found.steps if step.lacking and step.name not in found.contents]
    parts += [_left_out(step) for step in found.steps if step.left_out]
    for row in (row for row in _judged(found) if row.figures):
        parts.append(
            paragraph(element("span", row.verdict, class_=CLASSES[row.verdict]), f" {row.claim.text}: {_figures(row)}.")
        )
    for step in (step for step in found.steps if step.name in found.contents):
        parts += [] if step.name in told else _pictures(step)
        parts.append(_cost(step, found.runs.get(step.name), stale=step.name in found.stale))
        parts += [] if step.name in told else [_details(step, found.contents[step.name])]
        told.add(step.name)
    return join(parts)


def _beside(found: Found) -> Html:
    """A row for each of the paper's and of ours; a pair of columns where both can have a number."""
    paper = found.experiment.paper
    shared = [] if paper is None or not paper.rows else list(paper.columns)
    own = [name for name in columns_of([found.numbers]) if name not in shared]
    labels = list(dict.fromkeys([*(paper.rows if paper else ()), *found.numbers]))
    labels.sort(key=lambda label: int(label.split()[-1]) if _NUMBERED.fullmatch(label) else math.inf)
    head = [
        "",
        *(f"{name}, {whose}" for name in shared for whose in ("paper", "ours")),
        *(f"{name}, ours" for name in own),
    ]
    rows = []
    for label in labels:
        theirs = paper.rows.get(label, (None,) * len(shared)) if paper else ()
        ours = found.numbers.get(label, {})
        cells = [
            cell
            for name, value in zip(shared, theirs, strict=True)
            for cell in (_soft(number(value)), number(ours.get(name)))
        ]
        rows.append([label, *cells, *(number(ours.get(name)) for name in own)])
    return table(head, rows)


def _soft(text: str) -> Html:
    return element("span", text, class_="soft")


def number(value: object) -> str:
    """Four digits; a dash where there is none; text as it is."""
    if value is None:
        return NONE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _not_run(step: Step) -> Html:
    """Why, and what would change it."""
    said = (element("b", "Not run: "), element("code", step.command), ", for lack of")
    return element("div", *said, _lacks(step.lacking), class_="missing")


def _left_out(step: Step) -> Html:
    said = element("b", f"Rows of {step.name} left out"), ", for lack of"
    return element("div", *said, _lacks(step.left_out), class_="missing")


def _lacks(lacks: Sequence[Lack]) -> Html:
    """What is missing, and the commands that make it."""
    return element("ul", *(element("li", f"{lack.what}: ", element("code", lack.remedy)) for lack in lacks))


def _pictures(step: Step) -> list[Html]:
    """Those that lie beside its result."""
    paths = [
        path
        for path in sorted(step.result.parent.glob("*.svg"))
        if path.is_file() and path.stat().st_size <= MOST_PICTURE_BYTES
    ]
    names = {path: step.name if path.stem == step.name else f"{step.name}: {path.stem}" for path in paths}
    return [figure(path.read_bytes(), alt=name, caption=name) for path, name in names.items()]


def _cost(step: Step, run: Run | None, *, stale: bool) -> Html:
    """The command, what it took, and whether it is what would be run now."""
    words = f"{run.seconds:.1f} s on {run.machine}." if run else "Run by hand: its time was not kept."
    if run and run.arguments != step.arguments:
        words += f" With other options than now: audiolm {shlex.join(run.arguments)}."
    elif stale:
        words += (
            " What it was made of has changed since, so it is not a result of the models and data that are there now."
        )
    if step.lacking:
        more = f" and {len(step.lacking) - 1} more" if len(step.lacking) > 1 else ""
        words += f" It could not be run again now, for lack of {step.lacking[0].what}{more}."
    return element("p", element("code", step.command), f" {words}", class_="soft")


def _details(step: Step, content: Any) -> Html:
    """The file itself, folded: protocol, note, settings, rows."""
    inside: list[Html] = []
    if isinstance(content, dict):
        protocol = content.get("protocol")
        if isinstance(protocol, dict):
            inside += [paragraph(element("b", f"{name}: "), said) for name, said in protocol.items()]
        if content.get("note"):
            inside.append(paragraph(content["note"]))
        rows = content.get("rows")
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            inside.append(_whole_table(rows))
        others = {name: value for name, value in content.items() if name not in ("rows", "protocol", "note")}
        written = json.dumps(others, indent=1, ensure_ascii=False)
        end = "\n… the file has the rest" if len(written) > MOST_CHARACTERS else ""
        inside.append(element("pre", element("code", written[:MOST_CHARACTERS] + end)))
    summary = Html(f"<summary>Protocol, settings and all rows of {html.escape(str(step.result))}</summary>")
    return element("details", summary, *inside)


def _whole_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    head = list(dict.fromkeys(name for row in rows for name in row))
    shown = [[number(row.get(name)) for name in head] for row in rows[:MOST_ROWS]]
    more = [paragraph(f"{len(rows) - MOST_ROWS} more rows are in the file.")] if len(rows) > MOST_ROWS else []
    return join([table(head, shown), *more])


def _wrapped(content: Html) -> Html:
    """A table whose cells are sentences: they break into lines."""
    return Html(content.replace('class="scroll"', 'class="scroll sentences"', 1))
