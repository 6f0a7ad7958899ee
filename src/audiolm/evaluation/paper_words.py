"""The end of the paper's page: what the chain cost to train, and how the page is read and made again."""

from audiolm.evaluation.paper_steps import Given
from audiolm.evaluation.report_page import Html, element, join, missing, paragraph, table
from audiolm.files import read_json

PAPER_COST = "The paper's language models: 1 million steps of 256 crops on 16 TPUv4 each, three times, on 60,000 hours."


def chain_section(given: Given) -> tuple[Html, list[str]]:
    """Every stage with a record, those outside `make train-all` too; and the errors of damaged records."""
    rows, errors = [], []
    for path in sorted(given.root.glob("*/done.json")):
        try:
            record = read_json(path, made_by=f"The {path.parent.name} stage")
            rows.append(
                (
                    path.parent.name,
                    f"{record['steps'] or 0:,}",
                    f"{float(record['parameters'] or 0) / 1e6:.2f} M",
                    f"{float(record['seconds']) / 60:.1f}",
                    f"{record['device']}, {record['processes']} × {record['threads']}, {record['precision']}",
                )
            )
        except (KeyError, TypeError, ValueError, OSError) as error:
            errors.append(f"{path} is no record of a stage ({error}): train the stage again.")
    data = given.chain.get("data")
    learnt = (
        "the demo corpus (synthetic speech)"
        if data == ""
        else data.rpartition("/")[2]
        if data
        else "data without a record"
    )
    parts = [
        paragraph(f"Learnt from {learnt}, preset “{given.chain.get('preset', 'unknown')}”. {PAPER_COST}"),
        table(("stage", "steps", "parameters", "minutes", "device, processes × threads, precision"), rows)
        if rows
        else missing("No stage has a record.", given.make("train-all")),
    ]
    return join([*parts, *(missing(error, None) for error in errors)]), errors


def explained_section(given: Given) -> Html:
    """What words on the page mean, and the commands."""
    words = {
        "Paper and ours": "Two columns of one name measure the same thing, each by its own protocol, and never of the same data "
        "unless the settings below a table say so. A dash: no number.",
        "Seen, not seen": "Whether every comparison of a claim goes the way it does in the paper; in part: whether those "
        "do that could be made. Results of inputs that have changed since are not compared. A small "
        "chain may well show some and not others.",
        "Seconds": "Of the command as this page ran it, over its attempts, without starting Python. Audio of conditions, "
        "which several tables share, counts where it was first made.",
        "Shares": "Accuracies and errors in the tables are in percent; the folded rows are as the file has them, shares from "
        "0 to 1.",
    }
    commands = "\n".join(
        (
            f"{given.again()}   # again: what is done is not done again",
            f"{given.again('--page-only')}   # this page of what is there",
            f"{given.again('--items', 'phoneme.item', '--audio', 'AUDIO', '--zerospeech', 'sLM21-dataset')}   # benchmark data",
        )
    )
    entries = [part for word, said in words.items() for part in (element("dt", word), element("dd", said))]
    return join([element("dl", *entries, class_="words"), element("pre", element("code", commands))])
