"""`audiolm evaluate listening-test make | score`: what people hear, and whether they could tell."""

import argparse
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiolm.evaluation.listening_key import Key
    from audiolm.evaluation.listening_plan import Kind
    from audiolm.evaluation.listening_score import ScoreRow, Scores

NO_CODEC = "none"


def add_listening(commands: Any) -> None:
    """Add the verb, its two sub-verbs and their options to the sub-verbs of `audiolm evaluate`."""
    help = "a blind listening test as one HTML page, and the exact binomial test of its answers"
    verbs = commands.add_parser("listening-test", help=help, description=help).add_subparsers(
        required=True, metavar="make|score"
    )
    _add_make(verbs)
    help = "answers and key -> scores.csv, scores.json, ratings.csv"
    scoring = verbs.add_parser("score", help=help, description=help)
    scoring.set_defaults(run=_score)
    scoring.add_argument("answers", type=Path, nargs="+", help="the files that raters sent back")
    scoring.add_argument("--key", type=Path, required=True, help="the key.json that was made with the page")
    scoring.add_argument("--most-missed", type=int, help="leave out raters who missed more attention items than this")
    scoring.add_argument("--out", type=Path, help="folder of the results; by default the key's")


def _add_make(verbs: Any) -> None:
    help = "two folders of audio -> listening-test.html (for raters) and key.json (not for them)"
    make = verbs.add_parser("make", help=help, description=help)
    make.set_defaults(run=_make)
    make.add_argument("--human", type=Path, help="folder of originals; with --machine: is this a human or a machine?")
    make.add_argument("--machine", type=Path, help="folder of continuations")
    make.add_argument(
        "--codec", help=f"what the originals are passed through; `{NO_CODEC}`: they are taken as they are"
    )
    make.add_argument("--pairs", action="store_true", help="ask which of two is the human, instead of one at a time")
    make.add_argument(
        "--a", type=Path, help="folder of the model whose preference is counted; with --b: which is better?"
    )
    make.add_argument("--b", type=Path, help="folder of the other model, with files of the same names")
    make.add_argument("--seconds", type=float, help="of every recording; by default 10, or 20 with --a and --b")
    make.add_argument("--start-seconds", type=float, default=0.0, help="where in each recording to begin")
    make.add_argument("--limit", type=int, help="how many items count; by default as many as there are recordings for")
    make.add_argument("--trials", type=int, default=0, help="items at the beginning that do not count")
    make.add_argument("--attention", type=int, default=0, help="items with beeps, whose answer the page asks for")
    make.add_argument("--question", help="what is asked of each item, instead of the usual words")
    make.add_argument("--seed", type=int, help="of order and sides; by default random, and kept in the key")
    make.add_argument("--out", type=Path, required=True, help="folder of the page and the key")


def _make(options: argparse.Namespace) -> None:
    from audiolm.evaluation.listening_make import make_listening_test
    from audiolm.evaluation.listening_plan import Request
    from audiolm.evaluation.which_codec import load_codec
    from audiolm.progress import progress_bar

    kind, folders = _what(options)
    for name in ("limit", "trials", "attention"):
        if (value := getattr(options, name)) is not None and value < (name == "limit"):
            raise ValueError(f"--{name} must be {'positive' if name == 'limit' else '0 or more'}, got {value}")
    names = _names(folders) if kind == "preference" else ("human", "machine")
    seed = secrets.randbits(63) if options.seed is None else options.seed
    request = Request(kind, names, seed, options.limit, options.trials, options.attention)
    codec = None if options.codec in (None, NO_CODEC) else load_codec(options.codec)
    with progress_bar("listening test") as progress:
        made = make_listening_test(
            folders,
            options.out,
            request,
            seconds=(20.0 if kind == "preference" else 10.0) if options.seconds is None else options.seconds,
            start_seconds=options.start_seconds,
            codec=codec,
            question=options.question,
            about={"codec": options.codec},
            progress=progress,
        )
    counted = sum(item.role == "counted" for item in made.items)
    print(
        f"{counted} items that count, {options.trials} trials, {options.attention} of attention; {made.unused} recordings "
        f"are in none. All at {made.level_db:.1f} dB of full scale, {made.sample_rate_hz} Hz."
    )
    print(f"Wrote {made.page} ({made.page.stat().st_size / 1e6:.1f} MB): give raters this file.")
    print(f"Wrote {made.key}: keep it from them.")


def _what(options: argparse.Namespace) -> "tuple[Kind, tuple[Path, Path]]":
    telling, preferring = (options.human, options.machine), (options.a, options.b)
    if all(telling) and not any(preferring):
        if options.codec is None:
            raise ValueError(
                "Originals are compared with continuations after passing the codec, since its traces would give the latter "
                f"away: name it with --codec (a generator, chain, checkpoint), or --codec {NO_CODEC} if they have passed it."
            )
        return "which-is-human" if options.pairs else "human-or-machine", telling
    if all(preferring) and not any(telling):
        if options.codec or options.pairs:
            raise ValueError(
                "--codec and --pairs belong to --human and --machine; with --a and --b nothing is passed through"
            )
        return "preference", preferring
    raise ValueError(
        "name two folders: --human and --machine (could raters tell?), or --a and --b (which is preferred?)"
    )


def _names(folders: tuple[Path, Path]) -> tuple[str, str]:
    """The folders' own names, or, where these are alike, their paths."""
    a, b = (folder.name for folder in folders)
    if folders[0].resolve() == folders[1].resolve():
        raise ValueError(f"--a and --b are the same folder, {folders[0]}")
    return (a, b) if a != b else (str(folders[0]), str(folders[1]))


def _score(options: argparse.Namespace) -> None:
    from audiolm.evaluation.listening_answers import read_answers
    from audiolm.evaluation.listening_key import read_key
    from audiolm.evaluation.listening_score import score, write_scores

    if options.most_missed is not None and options.most_missed < 0:
        raise ValueError(f"--most-missed must be 0 or more, got {options.most_missed}")
    key = read_key(options.key)
    everyone = read_answers(options.answers, key)
    scores = score(everyone, key, most_missed=options.most_missed)
    out = options.out or options.key.parent
    write_scores(out, scores, everyone, key)
    _print(scores, key)
    print(f"Wrote {out / 'scores.csv'}, scores.json and ratings.csv")


def _print(scores: "Scores", key: "Key") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from audiolm.evaluation.listening_score import NOTE

    success = f"preferred {escape(key.names[0])}" if key.kind == "preference" else "right"
    raters = f"{len(scores.raters)} rater{'s' * (len(scores.raters) != 1)}"
    table = Table(title=f"Listening test: {key.kind}, {raters}")
    for heading in ("", "ratings", success, "rate", "95 % interval", "p, one-sided", "p, two-sided"):
        table.add_column(heading, justify="right" if heading else "left")
    for section in ([scores.pooled], scores.sources, scores.raters):
        for row in section:
            table.add_row(*_cells(row), end_section=row is section[-1])
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for rater, count in scores.missed.items():
        if count:
            end = ": left out" if rater in scores.left_out else ""
            print(f"{rater} missed {count} of {scores.attention} attention items{end}.")
    print(NOTE)


def _cells(row: "ScoreRow") -> list[str]:
    from rich.markup import escape

    tests = [f"{p:.3g}" for p in (row.p_one_sided, row.p_two_sided)]
    interval = f"{row.low:.1%} – {row.high:.1%}"
    return [escape(row.who), str(row.ratings), str(row.successes), f"{row.rate:.1%}", interval, *tests]
