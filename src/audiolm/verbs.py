"""The `audiolm` verbs: everything that is not training. Each imports what it needs when it runs."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from audiolm.cli import TRAINER_VERBS
from audiolm.demo_verbs import add_demo
from audiolm.detect_verb import add_detect
from audiolm.evaluate_verbs import add_evaluate
from audiolm.lock import only_one
from audiolm.progress import progress_bar

if TYPE_CHECKING:
    from audiolm.generator import StageSampling


def run_verb(arguments: list[str]) -> None:
    """Parse the command line and run one verb."""
    options = _parser().parse_args(arguments)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="audiolm",
        description="AudioLM: learn to speak from raw audio alone, and continue it.",
        epilog=f"{', '.join(TRAINER_VERBS)} are those of the `lightning` command: audiolm fit -c stages/fine.yaml",
    )
    commands = parser.add_subparsers(required=True, metavar="VERB")

    def add(name: str, run: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(run=run)
        return command

    add_demo(commands)

    prepare = add("prepare", _prepare, "list a corpus: utterances, speakers, splits -> manifest.jsonl")
    prepare.add_argument(
        "--data", type=Path, required=True, help="Libri-Light or LibriSpeech tree, or a folder of audio"
    )
    _root(prepare)
    prepare.add_argument("--workers", type=int, default=os.cpu_count(), help="files read at once")
    prepare.add_argument(
        "--max-rejected-share", type=float, default=0.01, help="stop if more files than this are unusable"
    )
    prepare.add_argument(
        "--max-utterance-seconds", type=float, default=60.0, help="longer recordings are cut at pauses"
    )
    prepare.add_argument("--validation-share", type=float, default=0.05, help="share of speakers held out to validate")
    prepare.add_argument("--test-share", type=float, default=0.05, help="share of speakers held out to test")

    compose = add("compose", _compose, "put the best checkpoints of a chain into one generator folder")
    _root(compose)
    compose.add_argument(
        "--acoustic-only",
        action="store_true",
        help="the baseline without units: acoustic/ instead of semantic/ and coarse/",
    )
    compose.add_argument(
        "--out", type=Path, help="the generator's folder; by default ROOT/generator, or ROOT/generator-acoustic"
    )
    compose.add_argument(
        "--detector", action="store_true", help="only add ROOT/detector/best.ckpt to the generator that is there"
    )

    generate = add("generate", _generate, "speak on after a prompt; or freely; or say what a recording says")
    generate.add_argument("--generator", type=Path, default=Path("checkpoints/generator"), help="a generator folder")
    generate.add_argument(
        "--prompt", type=Path, nargs="+", default=[], help="audio files to continue; none: speak freely"
    )
    generate.add_argument("--say", type=Path, nargs="+", default=[], help="recordings whose words to say again")
    generate.add_argument("--voice", type=Path, help="with --say: a recording whose voice to keep")
    generate.add_argument("--seconds", type=float, default=7.0, help="length of what is added to the prompt")
    generate.add_argument("--count", type=int, default=1, help="without --prompt and --say: how many utterances")
    generate.add_argument("--out", type=Path, required=True, help="folder for the wav files")
    generate.add_argument("--seed", type=int, default=0)
    for stage, value in (("semantic", 0.6), ("coarse", 0.8), ("fine", 0.6)):
        generate.add_argument(f"--{stage}-temperature", type=float, default=value, help="below 1: more cautious")
        generate.add_argument(f"--{stage}-top-k", type=int, help="draw among the k likeliest tokens only")
        generate.add_argument(f"--{stage}-top-p", type=float, help="draw among the likeliest that sum to p only")
    generate.add_argument("--stop-at-end", action="store_true", help="let it end before the seconds are over")
    generate.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")

    samples = add("samples", _samples, "reconstructions and continuations of test speakers -> samples/")
    _root(samples)
    samples.add_argument("--seconds", type=float, default=7.0, help="length of the continuations")
    samples.add_argument("--prompt-seconds", type=float, default=3.0)
    samples.add_argument("--count", type=int, default=6, help="how many test utterances")
    samples.add_argument("--seed", type=int, default=0)

    report = add("report", _report, "one HTML page: curves, samples, data -> report/index.html")
    _root(report)

    results = add("results", _results, "print a finished chain's numbers as Markdown tables")
    _root(results)
    results.add_argument("--codec-only", action="store_true", help="of the codec: training, evaluation, codebook use")
    results.add_argument("--pictures", type=Path, help="with --codec-only: folder for SVGs of its training")

    add_detect(commands)
    add_evaluate(
        commands.add_parser("evaluate", help="measure a part: codec, abx, swuggy, …", description="Measure a part.")
    )

    chain = add(
        "chain",
        _chain,
        "claim a chain's folder for a corpus, a preset, a codec and an encoder (the Makefile does this)",
    )
    _root(chain)
    chain.add_argument("--data", default="", help="the corpus; empty: the demo corpus")
    chain.add_argument("--preset", default="demo")
    chain.add_argument("--codec", default="", help="name or folder of a public codec; empty: one is trained")
    chain.add_argument("--encoder", default="", help="a public encoder and its layer; empty: one is trained")

    submit = add("submit", _submit, "submit a stage and what it needs as SLURM jobs (`make … SLURM=1` does this)")
    _root(submit)
    submit.add_argument("stage", help="how far to go: a stage, such as report or evaluation-stages")
    for name, help in (
        ("partition", "where to run; empty: the cluster's default"),
        ("time", "time limit of a job; it is queued again and goes on from there"),
        ("account", "who pays"),
        ("gpus", "GPUs per node; empty: one a process where the partition has any; 0: none"),
        ("cpus", "CPUs per process"),
        ("sbatch", "other options of sbatch, in one word"),
    ):
        submit.add_argument(f"--{name}", default="", help=help)
    submit.add_argument("--knobs", nargs="*", default=[], help="the Makefile's, NAME=VALUE")

    status = add("status", _status, "the chain: stage, state, job, step, loss, time left, last checkpoint, GPU hours")
    _root(status)
    status.add_argument("--json", action="store_true", help="the same as JSON")
    return parser


def _root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, default=Path("checkpoints"), help="folder of the chain")


def _prepare(options: argparse.Namespace) -> None:
    from audiolm.corpus import prepare

    with only_one(options.root / "manifest.jsonl", what="audiolm prepare"), progress_bar("prepare") as progress:
        report = prepare(
            options.data,
            options.root,
            workers=options.workers,
            max_rejected_share=options.max_rejected_share,
            max_utterance_seconds=options.max_utterance_seconds,
            validation_share=options.validation_share,
            test_share=options.test_share,
            progress=progress,
        )
    print(report)


def _compose(options: argparse.Namespace) -> None:
    from audiolm.checkpoint import load_stage_checkpoint
    from audiolm.generator.detector_file import add_detector
    from audiolm.generator.folder import compose, generator_digest

    out = options.out or options.root / ("generator-acoustic" if options.acoustic_only else "generator")
    with only_one(out, what="audiolm compose"):
        if options.detector:
            detector = load_stage_checkpoint(options.root / "detector" / "best.ckpt", stage="detector")
            add_detector(out, detector, generator=generator_digest(out))
            print(f"Added the detector to {out}")
            return
        left_out = compose(options.root, out, acoustic_only=options.acoustic_only)
    print(f"Composed {out}" + (f" without a detector. {left_out}" if left_out else ""))


def _generate(options: argparse.Namespace) -> None:
    from audiolm.errors import out_of_memory_says

    with out_of_memory_says(
        "Give fewer recordings at a time, or fewer --seconds; --device cpu where a GPU is too small."
    ):
        _generate_files(options)


def _generate_files(options: argparse.Namespace) -> None:
    from audiolm.audio import read_prompt, write_audio
    from audiolm.devices import choose_device
    from audiolm.generator import AudioLM

    if options.prompt and options.say:
        raise ValueError("--prompt continues a recording, --say says it again: give one of them.")
    if options.voice and not options.say:
        raise ValueError("--voice goes with --say. To keep a prompt's voice, --prompt is enough.")
    sampling = _sampling(options)
    device = choose_device(options.device)
    model = AudioLM.from_pretrained(options.generator, device=device)
    rate = model.spec.sample_rate_hz
    if options.prompt or options.say:
        paths = options.prompt or options.say
        names = [path.stem for path in paths]
        if len(set(names)) != len(names):
            raise ValueError(f"Two files have the same name, and so would their results: {sorted(names)}. Rename one.")
        audio = [read_prompt(path, sample_rate_hz=rate) for path in paths]
    if options.prompt:
        generations = model.continue_(
            audio,
            seconds=options.seconds,
            seed=options.seed,
            ids=names,
            sampling=sampling,
            stop_at_end=options.stop_at_end,
        )
    elif options.say:
        voices = [read_prompt(options.voice, sample_rate_hz=rate)] * len(audio) if options.voice else None
        generations = model.resynthesize(audio, voices=voices, seed=options.seed, ids=names, sampling=sampling)
    else:
        names = [f"free-{number}" for number in range(options.count)]
        generations = model.unconditional(
            seconds=options.seconds,
            count=options.count,
            seed=options.seed,
            ids=names,
            sampling=sampling,
            stop_at_end=options.stop_at_end,
        )
    for name, generation in zip(names, generations, strict=True):
        path = options.out / f"{name}-seed{options.seed}.wav"
        write_audio(path, generation.audio, sample_rate_hz=rate)
        prompt = (
            f", of which {generation.prompt_samples / rate:.2f} s are the prompt" if generation.prompt_samples else ""
        )
        print(f"{path}: {len(generation.audio) / rate:.2f} s{prompt}")


def _sampling(options: argparse.Namespace) -> "StageSampling":
    from audiolm.generator.stage_sampling import stage_sampling

    return stage_sampling(
        {
            stage: {name: getattr(options, f"{stage}_{name}") for name in ("temperature", "top_k", "top_p")}
            for stage in ("semantic", "coarse", "fine")
        }
    )


def _samples(options: argparse.Namespace) -> None:
    from audiolm.evaluation.samples import write_samples

    with only_one(options.root / "samples", what="audiolm samples"):
        write_samples(
            options.root,
            seconds=options.seconds,
            prompt_seconds=options.prompt_seconds,
            count=options.count,
            seed=options.seed,
        )


def _report(options: argparse.Namespace) -> None:
    from audiolm.evaluation.report import write_report

    with only_one(options.root / "report", what="audiolm report"):
        print(f"Wrote {write_report(options.root)}")


def _results(options: argparse.Namespace) -> None:
    from audiolm.evaluation.codec_summary import codec_pictures, codec_summary
    from audiolm.evaluation.curves import read_curves
    from audiolm.evaluation.results import results_tables

    if options.pictures and not options.codec_only:
        raise ValueError(
            "--pictures goes with --codec-only. The pictures of a whole chain are in its report (`make report`)."
        )
    print(codec_summary(options.root) if options.codec_only else results_tables(options.root))
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for picture in codec_pictures(read_curves(options.root / "codec" / "log")):
            (options.pictures / f"{picture.name}.svg").write_bytes(picture.svg)


def _chain(options: argparse.Namespace) -> None:
    from audiolm.chain import check_chain

    check_chain(options.root, data=options.data, preset=options.preset, codec=options.codec, encoder=options.encoder)


def _submit(options: argparse.Namespace) -> None:
    from audiolm.submit import ClusterOptions, submit

    cluster = ClusterOptions(
        partition=options.partition,
        time=options.time,
        account=options.account,
        gpus=options.gpus,
        cpus=options.cpus,
        extra=options.sbatch,
    )
    jobs = submit(options.stage, root=options.root, options=cluster, knobs=options.knobs)
    if not jobs:
        print(f"{options.stage} is up to date: nothing to submit.")
    for job in jobs.values():
        after = (
            ", after " + ", ".join(f"{stage} ({number})" for stage, number in job.needs.items()) if job.needs else ""
        )
        print(
            f"{job.stage:<9} job {job.job}: {job.processes} process{'es' * (job.processes > 1)}{after}; log {job.log}"
        )


def _status(options: argparse.Namespace) -> None:
    from audiolm.status import chain_status
    from audiolm.status_table import print_status, status_json

    status = chain_status(options.root)
    print(status_json(status)) if options.json else print_status(status)
