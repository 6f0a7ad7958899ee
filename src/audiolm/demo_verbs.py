"""`audiolm demo-corpus`, `demo-zerospeech`, `demo-phones`: recordings for those who have none."""

import argparse
from collections.abc import Callable
from pathlib import Path

from audiolm.lock import only_one
from audiolm.progress import progress_bar


def add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to those of `audiolm`."""
    demo = _add(commands, "demo-corpus", _demo_corpus, "write a corpus of synthetic speech in the Libri-Light layout")
    demo.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    demo.add_argument("--voices", type=int, default=32)
    demo.add_argument("--seconds-per-voice", type=float, default=60.0)
    demo.add_argument("--seed", type=int, default=0)

    zerospeech = _add(
        commands, "demo-zerospeech", _demo_zerospeech, "write a small sWUGGY and sBLIMP of the demo corpus's words"
    )
    zerospeech.add_argument("--out", type=Path, required=True, help="folder of the set, in ZeroSpeech 2021's layout")
    zerospeech.add_argument(
        "--corpus", type=Path, default=Path("checkpoints/demo-corpus"), help="whose words are counted: a demo corpus"
    )
    zerospeech.add_argument("--words", type=int, default=100, help="pairs of a word and a non-word")
    zerospeech.add_argument("--sentences", type=int, default=100, help="pairs of sentences")
    zerospeech.add_argument("--seed", type=int, default=0)

    phones = _add(
        commands,
        "demo-phones",
        _demo_phones,
        "write recordings of held-out demo voices with aligned phones: for ABX, Tables I and III",
    )
    phones.add_argument("--out", type=Path, required=True, help="folder: audio/, phoneme.item, phones.tsv")
    phones.add_argument("--sentences", type=int, default=20, help="of each of eight voices")
    phones.add_argument("--seed", type=int, default=0)


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    help: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help)
    command.set_defaults(run=run)
    return command


def _demo_corpus(options: argparse.Namespace) -> None:
    from audiolm.demo_corpus import write_demo_corpus

    with only_one(options.out, what="audiolm demo-corpus"), progress_bar("demo corpus") as progress:
        report = write_demo_corpus(
            options.out,
            voices=options.voices,
            seconds_per_voice=options.seconds_per_voice,
            seed=options.seed,
            progress=progress,
        )
    print(report)


def _demo_zerospeech(options: argparse.Namespace) -> None:
    from audiolm.demo_corpus import write_demo_zerospeech

    with only_one(options.out, what="audiolm demo-zerospeech"), progress_bar("demo zerospeech") as progress:
        said = write_demo_zerospeech(
            options.out,
            corpus=options.corpus,
            words=options.words,
            sentences=options.sentences,
            seed=options.seed,
            progress=progress,
        )
    print(said)


def _demo_phones(options: argparse.Namespace) -> None:
    from audiolm.demo_corpus import write_demo_phones

    with only_one(options.out, what="audiolm demo-phones"), progress_bar("demo phones") as progress:
        print(write_demo_phones(options.out, sentences=options.sentences, seed=options.seed, progress=progress))
