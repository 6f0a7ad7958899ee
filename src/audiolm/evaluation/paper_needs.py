"""What steps of the paper's evaluation share: their options, what they depend on, and what may not be there."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from audiolm.evaluation.paper_steps import Given, Lack, Step
from audiolm.files import read_json
from audiolm.generator.detector_file import FILE as DETECTOR
from audiolm.manifest import read_manifest

PROMPT_SECONDS, CONTINUATION_SECONDS = 3.0, 7.0  # the paper's
Lacks = tuple[Lack, ...]


def items(given: Given) -> tuple[str | Path, ...]:
    """The options that name items and their recordings."""
    path, audio = given.phones or ("phoneme.item", "AUDIO")
    return ("--items", path, "--audio", audio)


def conditions(given: Given) -> tuple[str, ...]:
    """The options that say of which recordings conditions are made."""
    return (*data(given), *given.limited(), "--device", given.device)


def data(given: Given) -> tuple[str, ...]:
    """The option that names recordings; without it verbs take the chain's test split."""
    return () if given.data is None else ("--data", str(given.data))


def generated(folder: Path | None) -> tuple[Path, ...]:
    """What a result of a folder of continuations depends on: of the generate stage's, the list of what it holds."""
    if folder is None:
        return ()
    listed = folder / "generated.jsonl"
    return (listed, folder / "settings.json") if listed.exists() else (folder,)


def present(*paths: Path | None) -> tuple[Path, ...]:
    """Those that were named."""
    return tuple(path for path in paths if path is not None)


def spoken(given: Given) -> tuple[Path, ...]:
    """The recordings that verbs take: those named, else the chain's, which its list has with their sizes."""
    return (given.data or given.root / "manifest.jsonl",)


def local(model: str | None) -> tuple[Path, ...]:
    """The folder of a public model, if it is one here and no name of a hub."""
    return (Path(model),) if model and Path(model).exists() else ()


def generator(given: Given) -> tuple[Path, ...]:
    """What a result of the generator depends on: its configuration and weights. A detector that is added changes nothing."""
    folder = given.root / "generator"
    return (folder / "config.json", *sorted(set(folder.glob("*.safetensors")) - {folder / DETECTOR}))


def no_items(given: Given) -> Lacks:
    """A lack, where no items or no recordings of theirs were named."""
    if given.phones:
        return ()
    what = "an .item file of aligned phones and its recordings (Libri-Light's or ZeroSpeech's)"
    return (Lack(what, given.again("--items", "phoneme.item", "--audio", "AUDIO")),)


def no_generator(given: Given) -> Lacks:
    """A lack, where the chain has no generator."""
    return given.needs(given.root / "generator" / "config.json", "the generator", given.make("generator"))


def no_manifest(given: Given) -> Lacks:
    """A lack, where there is nothing to compare with."""
    if given.data is not None:
        return ()
    return given.needs(given.root / "manifest.jsonl", "the list of recordings", given.make("corpus"))


def no_continuations(given: Given) -> Lacks:
    """A lack, where the chain has not spoken."""
    folder = given.continuations
    known = folder / ("samples.json" if folder.name == "samples" else "")
    return given.needs(known, "continuations", given.make("samples"))


def no_transcripts(given: Given) -> Lacks:
    """A lack, where no transcripts were named and none lie beside the recordings."""
    if given.transcripts is not None or given.transcripts_beside:
        return ()
    return (Lack("transcripts of the recordings", given.again("--transcripts", "FOLDER")),)


def stretch(given: Given) -> tuple[str, ...]:
    """How much before and after each seam is compared, where most real recordings are shorter than 3 + 7 s."""
    manifest = given.root / "manifest.jsonl"
    if given.data is not None or not manifest.exists():
        return ()
    seconds = read_manifest(manifest).split("test").seconds
    usual = float(np.median(seconds)) if len(seconds) else 0.0
    if not 0 < usual < PROMPT_SECONDS + CONTINUATION_SECONDS:
        return ()
    before = round(0.3 * usual, 2)
    return ("--before-seconds", f"{before:g}", "--after-seconds", f"{round(0.7 * usual, 2) - 0.01:g}")


def heard_seconds(given: Given) -> float:
    """How much of each recording raters hear: prompt and continuation, or as much as the shortest test recording has."""
    whole = (4.0 if given.is_piano else PROMPT_SECONDS) + CONTINUATION_SECONDS
    manifest = given.root / "manifest.jsonl"
    if given.data is not None or not manifest.exists():
        return whole
    seconds = read_manifest(manifest).split("test").seconds
    return min(whole, int(10 * float(seconds.min())) / 10) if len(seconds) else whole


def no_acoustic_only(given: Given) -> Lacks:
    """Lacks, where there are no continuations of a model without units."""
    if given.codes_only is not None:
        return ()
    folder = given.root / "generator-acoustic"
    model = given.needs(folder / "config.json", "a model without units", given.make("generator-acoustic"))
    speak = _speak(given, "--model.generator", folder, "--model.out", given.root / "generate-acoustic")
    return (*model, Lack("its continuations", speak))


def no_generated(given: Given) -> Lacks:
    """A lack, where the generate stage has made no continuations: only these name the stretch that is their prompt."""
    return given.needs(given.root / "generate", "continuations by the generate stage", _speak(given))


def _speak(given: Given, *options: str | Path) -> str:
    """The command that speaks on after the paper's prompts: 3 s of speech, as the configuration says, or 4 s of piano."""
    prompts = ("--model.prompt_seconds", "4") if given.is_piano else ()
    words = ("lightning", "predict", "-c", "stages/generate.yaml", "--root", given.root, *prompts, *options)
    return shlex.join(map(str, words))


def untrained(given: Given, *stages: str) -> Lacks:
    """A lack for every stage that has no checkpoint."""
    return tuple(
        lack
        for stage in stages
        for lack in given.needs(
            given.root / stage / "best.ckpt",
            f"the {stage} stage",
            given.train(stage),
        )
    )


def with_lacks(step: Step, lacks: Sequence[Lack]) -> Step:
    """The step, lacking these first."""
    return replace(step, lacking=(*lacks, *step.lacking))


def number_of_units(given: Given) -> int | None:
    """K of the chain's generator, or None where it has none."""
    path = given.root / "generator" / "config.json"
    if not path.exists():
        return None
    config = read_json(path, made_by="audiolm compose")
    try:
        return int(config["spec"]["clusters"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say how many units it has ({error}): compose the generator again."
        ) from error
