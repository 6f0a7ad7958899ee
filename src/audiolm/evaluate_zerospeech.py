"""`audiolm evaluate swuggy` and `sblimp`: their options, and what they print."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiolm.evaluation.spoken_pairs import Accuracy, PairSet, Task
    from audiolm.evaluation.zerospeech_results import Normalised

Scores = dict[str, dict[str, float]]
VERBS: dict[str, tuple["Task", str]] = {
    "swuggy": ("lexical", "how often words are likelier than non-words"),
    "sblimp": ("syntactic", "how often grammatical sentences are likelier than ungrammatical ones"),
}


def add_zerospeech(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both verbs to those of `audiolm evaluate`."""
    for verb, (task, what) in VERBS.items():
        help = f"{what}, to the semantic stage -> files.csv, summary.json, score files"
        command = commands.add_parser(verb, help=help, description=help)
        command.set_defaults(run=partial(_zerospeech, verb))
        data = command.add_mutually_exclusive_group(required=True)
        data.add_argument("--data", type=Path, help=f"the ZeroSpeech 2021 folder that holds `{task}`")
        end = "_" if task == "lexical" else "+"
        data.add_argument(
            "--pairs", type=Path, help=f"a folder of recordings that the number before {end} sorts: right, wrong, …"
        )
        command.add_argument(
            "--set", choices=("dev", "test"), help="with --data: which (default dev); test has no public gold file"
        )
        model = command.add_mutually_exclusive_group()
        model.add_argument("--generator", type=Path, help="a generator folder; by default ROOT/generator")
        model.add_argument("--scores", type=Path, help="a score file of any model, to be scored instead of a generator")
        command.add_argument("--root", type=Path, default=Path("checkpoints"), help="folder of the chain")
        command.add_argument("--batch-size", type=int, default=16, help="recordings at a time; less needs less memory")
        command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
        command.add_argument("--out", type=Path, help="folder of the results; by default ROOT/evaluation/VERB-SET")


def _zerospeech(verb: str, options: argparse.Namespace) -> None:
    from audiolm.evaluation.zerospeech_results import write_zerospeech
    from audiolm.lock import only_one

    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {options.batch_size}")
    data = _pair_set(verb, options)
    name = f"{verb}-{data.name}" + ("-scores" if options.scores else "")
    out = options.out or options.root / "evaluation" / name
    with only_one(out, what=f"audiolm evaluate {verb}"):
        normalised, about = _given(data, options, out) if options.scores else _scored(verb, data, options, out)
        results = write_zerospeech(out, data, normalised, about=about)
    _print_results(verb, data, results)
    print(f"Wrote {out}")


def _scored(verb: str, data: "PairSet", options: argparse.Namespace, out: Path) -> "tuple[Scores, dict[str, str]]":

    from audiolm.devices import choose_device
    from audiolm.errors import out_of_memory_says
    from audiolm.evaluation.likelihoods import measure_likelihoods
    from audiolm.evaluation.zerospeech_results import normalised_scores
    from audiolm.generator import AudioLM
    from audiolm.generator.folder import generator_digest
    from audiolm.progress import progress_bar

    folder = options.generator or options.root / "generator"
    device = choose_device(options.device)
    model = AudioLM.from_pretrained(folder, device=device)
    about = {"generator": generator_digest(folder), "task": data.task}
    with out_of_memory_says("Give a smaller --batch-size."), progress_bar(f"evaluate {verb}") as progress:
        rows = measure_likelihoods(
            model, data.recordings, out, about=about, batch_size=options.batch_size, progress=progress
        )
    return normalised_scores(rows), about


def _given(data: "PairSet", options: argparse.Namespace, out: Path) -> "tuple[Scores, dict[str, str]]":
    from audiolm.evaluation.score_files import read_score_file

    if not data.pairs:
        raise ValueError("there is no gold file to score --scores with: that of the test set is not public")
    if (out / "files.csv").exists():
        raise ValueError(f"{out} holds results of a generator: name another folder with --out")
    return {"given": read_score_file(options.scores, stems=data.recordings)}, {"scores": str(options.scores)}


def _pair_set(verb: str, options: argparse.Namespace) -> "PairSet":
    from audiolm.evaluation.pair_folders import folder_pairs
    from audiolm.evaluation.zerospeech_gold import zerospeech_set

    task, _ = VERBS[verb]
    if options.pairs is None:
        return zerospeech_set(options.data, task, name=options.set or "dev")
    if options.set:
        raise ValueError("--set has no meaning with --pairs: the folder is the set")
    return folder_pairs(options.pairs, task)


def _print_results(verb: str, data: "PairSet", results: "list[Normalised]") -> None:
    from rich.console import Console
    from rich.table import Table

    from audiolm.evaluation.zerospeech_results import NORMALISATIONS, NOTE

    print(f"{verb} {data.name}: {len(data.recordings)} recordings.", end=" ")
    if not results:
        print("There is no gold file, so only score files were written: send them to the benchmark's makers.")
        return
    print(f"{results[0].accuracies[0].n} pairs, {len({pair.voice for pair in data.pairs})} voices.")
    table = Table(title=f"{verb} {data.name}: accuracy in % (chance 50)")
    table.add_column("by")
    table.add_column("group")
    for heading in ("pairs", *(result.normalisation.replace("_", " ") for result in results)):
        table.add_column(heading, justify="right")
    for rows in zip(*(result.accuracies for result in results), strict=True):
        table.add_row(rows[0].by, rows[0].group, str(rows[0].n), *map(_percent, rows))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for result in results:
        print(f"{result.normalisation.replace('_', ' ')}: {NORMALISATIONS[result.normalisation]}.")
    print(NOTE)


def _percent(row: "Accuracy") -> str:
    if row.score is None:
        return "–"
    error = "" if row.standard_error is None else f" ± {100 * row.standard_error:.1f}"
    return f"{100 * row.score:.1f}{error}"
