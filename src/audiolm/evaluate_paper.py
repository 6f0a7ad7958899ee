"""`audiolm evaluate paper`: the paper's whole evaluation, of whatever is there, as one page."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from audiolm.errors import TrainingFailedError

_SIGNS = ("chain.json", "manifest.jsonl", "codec", "encoder", "tokenizer", "generator", "evaluation")  # of a chain


def add_paper(commands: Any) -> None:
    """Add the verb and its options to the sub-verbs of `audiolm evaluate`."""
    help = (
        "every table and figure of the paper that the data at hand allow, beside the paper's -> ROOT/report/paper.html"
    )
    paper = commands.add_parser("paper", help=help, description=help)
    paper.set_defaults(run=_paper)
    paper.add_argument("--root", type=Path, default=Path("checkpoints"), help="folder of the chain")
    paper.add_argument(
        "--items",
        type=Path,
        help="an .item file of aligned phones: Table I, figure 3; without it the demo chain has its own recordings",
    )
    paper.add_argument("--audio", type=Path, help="with --items: folder of the recordings that it names")
    paper.add_argument(
        "--zerospeech",
        type=Path,
        help="the ZeroSpeech 2021 set: Table IV; without it the demo chain has its own small one",
    )
    paper.add_argument("--transcripts", type=Path, help="transcribed recordings, LibriSpeech's layout: Table II")
    paper.add_argument("--data", type=Path, help="recordings of unseen speakers; by default the chain's test split")
    paper.add_argument(
        "--acoustic-only",
        type=Path,
        help="continuations of a model without units (ROOT/generate-acoustic): ablation, piano",
    )
    paper.add_argument(
        "--recogniser", "--recognizer", help="Table II: a public recogniser by name or folder; by default ROOT/asr"
    )
    paper.add_argument("--xvector", help="Table III: a public speaker embedding by name or folder, as a second measure")
    paper.add_argument("--only", nargs="+", metavar="TABLE", help="run only these, such as tokens asr pairs")
    paper.add_argument("--limit", type=int, help="no more than so many recordings in what can be limited")
    paper.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    paper.add_argument("--page-only", action="store_true", help="run nothing: the page of what is there")


def _paper(options: argparse.Namespace) -> None:
    from audiolm.verbs import run_verb

    evaluate_paper(options, run=run_verb)


def evaluate_paper(options: argparse.Namespace, *, run: Callable[[list[str]], None]) -> None:
    """Run what can be run, write the page, and fail in the end if anything failed.

    Args:
        run: what runs the arguments of `audiolm`.

    Raises:
        FileNotFoundError: before anything runs, if the chain or something named is not there.
        ValueError: before anything runs, if options do not go together.
        TrainingFailedError: in the end, naming what failed; the page is written all the same.
    """
    from audiolm.evaluation.paper_experiments import plan
    from audiolm.evaluation.paper_page import write_page
    from audiolm.evaluation.paper_runs import FOLDER, run_steps
    from audiolm.evaluation.paper_steps import Given
    from audiolm.lock import only_one

    _check(options)
    given = Given(**{field.name: getattr(options, field.name) for field in fields(Given)})
    chosen = [step for steps in plan(given, options.only).values() for step in steps]
    records = given.at(FOLDER)
    with only_one(records, what="audiolm evaluate paper"):
        if not options.page_only:
            run_steps(chosen, records, run)
        path, found = write_page(given, plan(given), records)  # anew: what lacked something may have it now
    print(f"Wrote {path}")
    errors = list(dict.fromkeys(error for name in options.only or found for error in found[name]))
    if errors:
        raise TrainingFailedError(
            f"{len(errors)} of the results failed or could not be read; {path} has the others:\n" + "\n".join(errors)
        )


def _check(options: argparse.Namespace) -> None:
    if not options.root.is_dir():
        raise FileNotFoundError(
            f"There is no chain at {options.root}. `make train-all` makes one; or name another with --root."
        )
    if not any((options.root / name).exists() for name in _SIGNS):
        raise FileNotFoundError(
            f"{options.root} is no chain: it has none of {', '.join(_SIGNS)}. `make train-all` makes one; or name another with "
            "--root."
        )
    for name in ("items", "audio", "zerospeech", "transcripts", "data", "acoustic_only"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            raise FileNotFoundError(f"--{name.replace('_', '-')} {path} is not there")
    if (options.items is None) != (options.audio is None):
        raise ValueError("--items and --audio go together: the items name stretches of those recordings")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
