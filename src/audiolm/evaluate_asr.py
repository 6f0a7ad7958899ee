"""`audiolm evaluate asr`: its options, and what it prints."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from audiolm.evaluate_conditions import add_condition_options, chosen_clips, condition_clips_of

if TYPE_CHECKING:
    from audiolm.evaluation.asr_results import ConditionRates
    from audiolm.evaluation.clips import Clip
    from audiolm.evaluation.conditions import Kind
    from audiolm.evaluation.error_rates import Rate
    from audiolm.recognition.transcripts import Transcripts

CONDITIONS: "tuple[Kind, ...]" = (
    "original",
    "reconstruction",
    "acoustic",
)  # of Table II; what continuations say, nobody knows


def add_asr(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to those of `audiolm evaluate`."""
    help = (
        "how many words a recogniser gets wrong in originals, reconstructions and acoustic generations (the paper's Table II) "
        "-> files.csv, summary.json, summary.csv, wer.svg"
    )
    command = commands.add_parser("asr", help=help, description=help)
    command.set_defaults(run=_asr)
    add_condition_options(command)
    command.add_argument(
        "--conditions", nargs="*", choices=CONDITIONS, default=list(CONDITIONS), help="which; by default all three"
    )
    command.add_argument(
        "--recogniser",
        help="a checkpoint of the asr stage, or a public CTC or sequence-to-sequence model (name or folder); by default "
        "ROOT/asr/best.ckpt",
    )
    command.add_argument(
        "--transcripts",
        type=Path,
        help="a .trans.txt or .tsv, or a folder with some; by default those beside the audio",
    )
    command.add_argument(
        "--audio-folder",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="score the recordings of another system, too; their stems are those of the originals (several times)",
    )
    command.add_argument("--language", default="en", help="that a multilingual recogniser is told (en)")
    command.add_argument(
        "--spelling", choices=("english", "basic"), default="english", help="Whisper's normaliser that texts go through"
    )
    command.add_argument("--out", type=Path, help="folder of the results; by default ROOT/evaluation/asr")


def _asr(options: argparse.Namespace) -> None:
    from audiolm.devices import choose_device
    from audiolm.evaluation.asr_results import write_asr
    from audiolm.evaluation.asr_table import (
        known_settings,
        measure_asr,
        normalised_references,
        require_letters,
        require_short,
    )
    from audiolm.evaluation.row_files import require_claimable
    from audiolm.lock import only_one
    from audiolm.progress import progress_bar
    from audiolm.recognition.recogniser import load_recogniser

    folders = _folders(options.audio_folder)
    if not options.conditions and not folders:
        raise ValueError("there is nothing to recognise: name --conditions or an --audio-folder NAME=FOLDER")
    device = choose_device(options.device)
    name = options.recogniser or str(options.root / "asr" / "best.ckpt")
    recogniser = load_recogniser(name, device=device, language=options.language)
    clips = chosen_clips(options) if options.conditions else []
    transcripts = _transcripts(options, folders)
    texts = _texts(clips, transcripts)
    others = {name: _clips_of(folder, clips, transcripts, name) for name, folder in folders.items()}
    for named in others.values():
        texts |= {clip.id: text for clip, text in zip(named, _texts(named, transcripts).values(), strict=True)}
    references = normalised_references(texts, options.spelling)
    require_letters(recogniser, references)
    require_short(recogniser, [*clips, *(clip for named in others.values() for clip in named)])
    notes, about = _notes(options), _about(options, transcripts, others)
    out = options.out or options.root / "evaluation" / "asr"
    require_claimable(out, known_settings(recogniser, references, spelling=options.spelling, about=about), verb="asr")
    with only_one(out, what="audiolm evaluate asr"):
        conditions: dict[str, list[list[Clip]]] = {}
        if options.conditions:
            with progress_bar("generating") as progress:
                made = condition_clips_of(options, options.conditions, progress, clips=clips)
            conditions = {kind: made[kind] for kind in CONDITIONS if kind in made}
        conditions |= {name: [named] for name, named in others.items()}
        with progress_bar("evaluate asr") as progress:
            rows = measure_asr(
                recogniser, conditions, references, out, spelling=options.spelling, about=about, progress=progress
            )
        settings = about | {"recogniser": recogniser.name, "recogniser_digest": recogniser.digest}
        results = write_asr(
            out, rows, spelling=options.spelling, decoding=recogniser.decoding, settings=settings, notes=notes
        )
    _print_table(results, title=f"{recogniser.name}: error rates in %, with 95 % intervals")
    _print_said(options.spelling, recogniser.decoding, notes)
    print(f"Wrote {out}")


def _about(options: argparse.Namespace, transcripts: "Transcripts", others: "Iterable[str]") -> dict[str, object]:
    from audiolm.generator.folder import generator_digest

    about: dict[str, object] = {
        name: getattr(options, name)
        for name in ("least_seconds", "most_seconds", "limit", "samplings", "seed", "language")
    }
    if about["most_seconds"] == float("inf"):
        about["most_seconds"] = None  # JSON knows no infinity
    about["conditions"] = sorted({*options.conditions, *others})
    if _generates(options):
        about["generator"] = generator_digest(_generator(options))
    return about | {"transcripts_digest": transcripts.digest}


def _folders(given: Sequence[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for item in given:
        name, equals, folder = item.partition("=")
        if not (name and equals and folder) or name in folders or name in CONDITIONS:
            raise ValueError(
                f"--audio-folder {item!r} must be NAME=FOLDER, with a name of its own that is none of {', '.join(CONDITIONS)}"
            )
        folders[name] = Path(folder)
    return folders


def _transcripts(options: argparse.Namespace, folders: dict[str, Path]) -> "Transcripts":
    from audiolm.manifest import read_manifest
    from audiolm.recognition.transcripts import find_transcripts, read_transcripts

    if options.transcripts:
        return read_transcripts(options.transcripts)
    if options.data:
        return find_transcripts(options.data)
    if options.conditions or (options.root / "manifest.jsonl").exists():
        return find_transcripts(read_manifest(options.root / "manifest.jsonl").root)
    return find_transcripts(next(iter(folders.values())))


def _texts(clips: "Sequence[Clip]", transcripts: "Transcripts") -> dict[str, str]:
    """What is said in each clip, by its id.

    Raises:
        ValueError: naming clips whose words are not known, and clips that share a transcript.
    """
    texts: dict[str, str] = {}
    missing: list[str] = []
    owners: dict[int, str] = {}
    for clip in clips:
        spoken = transcripts.of(clip.id if not _is_piece(clip) else clip.path.name)
        whole = [one for one in spoken if one.start_seconds is None and not _is_piece(clip)]
        if not whole:
            missing.append(clip.id)
            continue
        owner = owners.setdefault(id(whole[0]), clip.id)
        if owner != clip.id:
            raise ValueError(
                f"{owner} and {clip.id} have one stem and one transcript ({whole[0].where}): rename one, or put paths into the "
                "transcripts' first column"
            )
        texts[clip.id] = whole[0].text
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(clips)} recordings have no transcript of the whole of them in {transcripts.source}, such as "
            f"{', '.join(missing[:3])}. Name their transcripts with --transcripts, or leave these recordings out of --data."
        )
    return texts


def _is_piece(clip: "Clip") -> bool:
    """Whether it is a part of a longer recording: `audiolm prepare` cut it."""
    return clip.id.rpartition("@")[2].isdigit() and "@" in clip.id


def _clips_of(folder: Path, chosen: "Sequence[Clip]", transcripts: "Transcripts", name: str) -> "list[Clip]":
    """A folder's recordings, with the ids of the chosen ones they belong to; or all that have a transcript, if none are chosen.

    Raises:
        ValueError: for two recordings of one stem, and for chosen ones that are not there.
    """
    from dataclasses import replace

    from audiolm.evaluation.clips import folder_clips
    from audiolm.recognition.transcripts import without_suffix

    by_stem: dict[str, Clip] = {}
    for clip in folder_clips(folder):
        stem = without_suffix(clip.id).rpartition("/")[2]
        if stem in by_stem:
            raise ValueError(f"{clip.id} and {by_stem[stem].id} in {folder} have one stem: rename or remove one")
        by_stem[stem] = clip
    if not chosen:
        silent = sum(one.name.rpartition("/")[2] not in by_stem for one in transcripts.spoken)
        if silent:
            print(
                f"{name}: {silent} of {len(transcripts.spoken)} transcripts have no recording in {folder}: not counted."
            )
        return list(by_stem.values())
    wanted = {without_suffix(clip.id).rpartition("/")[2]: clip.id for clip in chosen}
    if len(wanted) < len(chosen):
        raise ValueError(f"recordings of one stem cannot be compared with those of --audio-folder {name}: rename them")
    missing = [stem for stem in wanted if stem not in by_stem]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} recordings are not in {folder} ({name}), such as {', '.join(missing[:3])}: error "
            "rates of other recordings do not compare. Make them, or leave --conditions empty to score the folder alone."
        )
    if len(by_stem) > len(wanted):
        print(
            f"{name}: {len(by_stem) - len(wanted)} recordings of {folder} are not among the chosen ones: not counted."
        )
    return [replace(by_stem[stem], id=id_) for stem, id_ in wanted.items()]


def _notes(options: argparse.Namespace) -> list[str]:
    """What must be said of the generator."""
    from audiolm.files import read_json

    if not _generates(options):
        return []
    stages = read_json(_generator(options) / "config.json", made_by="audiolm compose").get("stages", {})
    if "fine" in stages:
        return []
    return ["This generator has no fine stage: its coarse stage makes all the levels that there are."]


def _generates(options: argparse.Namespace) -> bool:
    return bool({"reconstruction", "acoustic"} & set(options.conditions))


def _generator(options: argparse.Namespace) -> Path:
    return Path(options.generator or options.root / "generator")


def _print_table(results: "Sequence[ConditionRates]", *, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from audiolm.evaluation.asr_results import TITLES

    table = Table(title=title)
    for heading in ("", "recordings", "CER", "WER", "CER, paper", "WER, paper"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in results:
        count = f"{row.files} × {row.samplings}" if row.samplings > 1 else str(row.files or "–")
        ours = ["not run" if r is None else f"{100 * r.value:.1f}{_interval(r)}" for r in (row.cer, row.wer)]
        paper = [f"{100 * value:.1f}" for value in row.paper] if row.paper else ["–", "–"]
        table.add_row(TITLES.get(row.condition, row.condition), count, *ours, *paper)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _interval(rate: "Rate") -> str:
    if rate.low is None or rate.high is None:
        return ""
    return f" ({100 * rate.low:.1f}–{100 * rate.high:.1f})"


def _print_said(spelling: str, decoding: str, notes: Sequence[str]) -> None:
    from audiolm.evaluation.asr_results import NOTE
    from audiolm.evaluation.error_rates import SPELLINGS, Spelling

    chosen = next(name for name in get_args(Spelling) if name == spelling)
    print(f"Texts pass {SPELLINGS[chosen]}. Decoding: {decoding}.")
    for note in (NOTE, *notes):
        print(note)
