"""The report: one HTML page that holds everything a chain has to show, and needs no other file."""

from pathlib import Path

from audiolm.evaluation.report_facts import ChainFacts, read_facts, speakers
from audiolm.evaluation.report_listening import (
    continuations_section,
    read_samples,
    reconstruction_section,
    unconditional_section,
)
from audiolm.evaluation.report_page import Html, page, paragraph
from audiolm.evaluation.report_training import curves_section, data_section, stages_section
from audiolm.evaluation.report_words import how_made_section, how_to_repeat_section
from audiolm.files import atomic_path


def write_report(root: Path) -> Path:
    """Write `<root>/report/index.html`: data, stages, curves, reconstructions, continuations, what the numbers mean.

    Pictures and sounds are part of the page, which runs no script and asks for nothing from anywhere. A chain need not
    be finished: the page says what is missing and which command makes it.

    Args:
        root: the chain's folder.

    Returns:
        Where the page is.

    Raises:
        FileNotFoundError: if `root` is not a folder.
        ValueError: if a file of the chain is damaged; the message names it.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no chain at {root}. `make train-all` makes one; or name another with --root."
        )
    facts, samples = read_facts(root), read_samples(root)
    sections = {
        "Data": data_section(facts),
        "Stages": stages_section(facts),
        "Curves": curves_section(facts),
        "Reconstructions": reconstruction_section(facts, samples),
        "Continuations": continuations_section(facts, samples),
        "Without a prompt": unconditional_section(facts, samples),
        "How the numbers were made": how_made_section(),
        "How to repeat this": how_to_repeat_section(facts),
    }
    path = root / "report" / "index.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page("AudioLM: what this chain learnt", _lead(facts), sections), encoding="utf-8")
    return path


def _lead(facts: ChainFacts) -> Html:
    if facts.data is None and facts.manifest is None:
        return paragraph("Nothing has been learnt in this folder yet.")
    data = facts.data or ("the demo corpus (synthetic speech)" if facts.data == "" else "data without a record")
    size = ""
    if facts.manifest is not None:
        size = f": {facts.manifest.hours():.2f} hours of {speakers(facts.manifest)} speakers"
    return paragraph(
        f"A language model of raw audio, learnt from {data}{size}, with the preset “{facts.preset or 'unknown'}”. It "
        "has seen no text and no labels. The recordings and prompts on this page are of speakers it was not trained on."
    )
