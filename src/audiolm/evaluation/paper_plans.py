"""The steps of each of the paper's experiments, of what is given: commands, what they need, what reads their results."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from audiolm.evaluation import paper_needs as needs
from audiolm.evaluation import paper_readers as readers
from audiolm.evaluation.codec_measures import MEASURES
from audiolm.evaluation.paper_steps import CODES_ONLY, HIERARCHY, Given, Lack, Numbers, Step
from audiolm.evaluation.perceptual import installed_measures

TOKEN_STAGES = {  # of the rows of table1, what must be trained
    "units": ("tokenizer", "detokenizer_units"),
    "residual-units": ("tokenizer", "residual_tokenizer", "detokenizer_residual"),
    "coarse-codes": ("codec", "detokenizer_codes"),
    "all-codes": ("codec", "detokenizer_all_codes"),
}
DEMO_CLIPS = 40
TASKS = {"swuggy": "lexical", "sblimp": "syntactic"}  # verb to folder of the ZeroSpeech 2021 set


def tokens(given: Given) -> Sequence[Step]:
    """Table I. Of the demo's 160 recordings 40 are decoded: ViSQOL takes a second each, and there are four decoders."""
    if given.is_demo and given.items is None and given.limit is None:
        given = replace(given, limit=DEMO_CLIPS)
    lacks = {row: needs.untrained(given, *stages) for row, stages in TOKEN_STAGES.items()}
    rows = [row for row in lacks if not lacks[row]]
    missing = tuple(dict.fromkeys(lack for row in lacks for lack in lacks[row]))
    only = ("--only", *rows) if 0 < len(rows) < len(lacks) else ()
    measures = () if installed_measures(["visqol"]) else ("mel",)
    chosen = ("--measures", *measures) if measures else ()
    out = given.at("table1", *given.phones, limited=True, measures=measures)
    return [
        *_aligned(given),
        Step(
            "table1",
            given.verb(
                "table1",
                *needs.items(given),
                *only,
                *chosen,
                *given.limited(),
                "--device",
                given.device,
                *_out(given, out, "table1"),
            ),
            out / "summary.json",
            readers.token_table,
            inputs=(
                *given.phones,
                *(given.root / stage / "best.ckpt" for row in rows for stage in TOKEN_STAGES[row]),
            ),
            lacking=needs.no_items(given) + (() if rows else missing),
            left_out=missing if rows else (),
        ),
    ]


def layers(given: Given) -> Sequence[Step]:
    """Figure 3, left. The choice of layer stays as it is: the chain was trained with it."""
    return [*_aligned(given), _layers(given, readers.layer_table)]


def clusters(given: Given) -> Sequence[Step]:
    """Figure 3, right: this chain is one point of it."""
    count = needs.number_of_units(given)
    pairs = [_pairs(given, verb, partial(readers.pairs_of_clusters, verb, count)) for verb in TASKS]
    return [*_demo_set(given), *pairs, *_aligned(given), _layers(given, readers.cluster_table)]


def recognition(given: Given) -> Sequence[Step]:
    """Table II."""
    public = () if given.recogniser is None else ("--recogniser", given.recogniser)
    out = given.at("asr", given.data, given.recogniser, given.transcripts, limited=True)
    texts = () if given.transcripts is None else ("--transcripts", str(given.transcripts))
    return [
        Step(
            "asr",
            given.verb("asr", *needs.conditions(given), *public, *texts, *_out(given, out, "asr")),
            out / "summary.json",
            readers.recognition_table,
            inputs=(
                *needs.generator(given),
                *(needs.local(given.recogniser) if public else (given.root / "asr" / "best.ckpt",)),
                *needs.spoken(given),
                *needs.present(given.transcripts),
                *given.transcripts_beside,
            ),
            lacking=needs.no_generator(given)
            + (() if public else needs.untrained(given, "asr"))
            + needs.no_transcripts(given),
        )
    ]


def speakers(given: Given) -> Sequence[Step]:
    """Table III."""
    public = ("--xvector", given.xvector) if given.xvector else ()
    if (
        given.data is None and given.demo_phones
    ):  # voices that only the classifier knows; the demo corpus has two test voices
        heard, first = replace(given, data=given.demo_phones / "audio"), _demo_phones(given)
    else:
        heard, first = given, ()
    out = given.at("speaker", heard.data, given.xvector, limited=True)
    return [
        *first,
        Step(
            "speaker",
            given.verb("speaker", *needs.conditions(heard), *public, *_out(given, out, "speaker")),
            out / "summary.json",
            readers.speaker_table,
            inputs=(
                *needs.generator(given),
                given.root / "speaker" / "best.ckpt",
                *needs.spoken(heard),
                *needs.local(given.xvector),
            ),
            lacking=needs.no_generator(given) + needs.untrained(given, "speaker"),
        ),
    ]


def pairs(given: Given) -> Sequence[Step]:
    """Table IV."""
    return [*_demo_set(given), *(_pairs(given, verb, partial(readers.pair_table, verb)) for verb in TASKS)]


def listening(given: Given) -> Sequence[Step]:
    """The subjective test: people have to listen, so its answers are only read."""
    return [
        _listening(
            given, "listening-test", "--human ORIGINALS --machine CONTINUATIONS --codec", readers.listening_table
        )
    ]


def detector(given: Given) -> Sequence[Step]:
    """The detector of synthesized speech."""
    out = given.at("detector", given.data, limited=True)
    return [
        Step(
            "detector",
            given.verb("detector", *needs.conditions(given), *_out(given, out, "detector")),
            out / "summary.json",
            readers.detector_table,
            inputs=(*needs.generator(given), given.root / "detector" / "best.ckpt", *needs.spoken(given)),
            lacking=needs.no_generator(given) + needs.untrained(given, "detector"),
        )
    ]


def piano(given: Given) -> Sequence[Step]:
    """Hierarchy beside codes only, heard by people and by numbers."""
    size = "piano-demo" if given.is_demo else "piano"
    chain = f"make -k train-all evaluation-stages evaluation PRESET={size} DATA=PATH RUN=piano"
    speech = () if given.is_piano else (Lack("a chain of piano, whose page shows this", chain),)
    heard = _listening(given, "listening-piano", "--a HIERARCHY --b ACOUSTIC_ONLY", readers.preference_table)
    return [
        needs.with_lacks(heard, speech),
        needs.with_lacks(_prosody(given, "prosody", given.continuations, name="music", music=True), speech),
        needs.with_lacks(_prosody(given, "prosody", given.codes_only, name="music-acoustic-only", music=True), speech),
    ]


def acoustic_only(given: Given) -> Sequence[Step]:
    """The ablation, by the likelihood of its units; real recordings beside it where they are long enough."""
    other = given.codes_only
    folders = (f"{HIERARCHY}={given.root / 'generate'}", f"{CODES_ONLY}={other or 'FOLDER'}")
    out = given.at("likelihood", given.data, given.acoustic_only, limited=True)
    real = ("--without-real",) if needs.stretch(given) else needs.data(given)
    return [
        Step(
            "likelihood",
            given.verb(
                "likelihood",
                *folders,
                *real,
                *given.limited(),
                "--device",
                given.device,
                *_out(given, out, "likelihood"),
            ),
            out / "summary.json",
            readers.likelihood_table,
            inputs=(
                *needs.generator(given),
                *needs.generated(given.root / "generate"),
                *needs.generated(other),
                *needs.spoken(given),
            ),
            lacking=needs.no_generator(given) + needs.no_generated(given) + needs.no_acoustic_only(given),
        )
    ]


def codec(given: Given) -> Sequence[Step]:
    """What the codec keeps, by levels."""
    installed = installed_measures(MEASURES)
    measures = () if len(installed) == len(MEASURES) else tuple(installed)
    chosen = ("--measures", *measures) if measures else ()
    out = given.at("codec", given.data, limited=True, measures=measures)
    return [
        Step(
            "codec",
            given.verb("codec", *chosen, *needs.data(given), *given.limited(), *_out(given, out, "codec")),
            out / "pooled.json",
            readers.codec_table,
            inputs=(given.root / "codec" / "best.ckpt", *needs.spoken(given)),
            lacking=needs.untrained(given, "codec") + needs.no_manifest(given),
        )
    ]


def prosody(given: Given) -> Sequence[Step]:
    """Seams of continuations."""
    return [_prosody(given, "prosody", given.continuations, name="prosody", music=given.is_piano)]


def diversity(given: Given) -> Sequence[Step]:
    """Units of continuations."""
    return [_prosody(given, "diversity", given.continuations, name="diversity", music=False)]


def _out(given: Given, out: Path, usual: str) -> tuple[str | Path, ...]:
    """The option for a folder of results that is not where the verb itself puts them."""
    return () if out == given.at(usual) else ("--out", out)


def _demo_set(given: Given) -> Sequence[Step]:
    """A small sWUGGY and sBLIMP of the demo corpus's words, where no other is named."""
    if given.zerospeech or not given.is_demo:
        return []
    out = _demo_folder(given)
    arguments = ("demo-zerospeech", "--out", str(out), "--corpus", str(given.root / "demo-corpus"))
    return [Step("demo-zerospeech", arguments, out / "demo-zerospeech.json", lambda content: {}, always=True)]


def _aligned(given: Given) -> Sequence[Step]:
    """What makes the demo's aligned phones, where no others are named."""
    return [] if given.items else _demo_phones(given)


def _demo_phones(given: Given) -> Sequence[Step]:
    """Recordings of demo voices that no model learns from, with their phones."""
    if (out := given.demo_phones) is None:
        return []
    return [
        Step("demo-phones", ("demo-phones", "--out", str(out)), out / "demo-phones.json", lambda _: {}, always=True)
    ]


def _demo_folder(given: Given) -> Path:
    return given.root / "demo-zerospeech"


def _pairs(given: Given, verb: str, read: Callable[[Any], Numbers]) -> Step:
    lacking: tuple[Lack, ...] = ()
    data = given.zerospeech
    if data is None and given.is_demo:
        data = _demo_folder(given)
    elif data is None:
        lacking = (Lack("the ZeroSpeech 2021 set (sLM21-dataset)", given.again("--zerospeech", "sLM21-dataset")),)
    out = given.at(f"{verb}-dev", given.zerospeech)
    return Step(
        verb,
        given.verb(verb, "--data", data or "sLM21-dataset", "--device", given.device, *_out(given, out, f"{verb}-dev")),
        out / "summary.json",
        read,
        inputs=needs.generator(given) + (() if data is None else (data / TASKS[verb] / "dev",)),
        lacking=lacking + needs.no_generator(given),
    )


def _layers(given: Given, read: Callable[[Any], Numbers]) -> Step:
    out = given.at("layers", *given.phones, limited=True)
    return Step(
        "layers",
        given.verb(
            "layers",
            *needs.items(given),
            "--measure-only",
            *given.limited(),
            "--device",
            given.device,
            *_out(given, out, "layers"),
        ),
        out / "layers.json",
        read,
        inputs=(*given.phones, given.root / "encoder" / "best.ckpt"),
        lacking=needs.no_items(given) + needs.untrained(given, "encoder"),
    )


def _listening(given: Given, folder: str, folders: str, read: Callable[[Any], Numbers]) -> Step:
    at = given.at(folder)
    codec = f" {shlex.quote(str(given.root / 'generator'))}" if folders.endswith("--codec") else ""
    seconds = needs.heard_seconds(given)
    command = (
        f"audiolm evaluate listening-test make {folders}{codec} --seconds {seconds:g} --out {shlex.quote(str(at))}"
    )
    make = Lack("answers of people", command)
    return Step(
        folder,
        ("evaluate", "listening-test", "score", "ANSWERS.json", "--key", str(at / "key.json"), "--out", str(at)),
        at / "scores.json",
        read,
        lacking=() if (at / "scores.json").exists() else (make,),
        by_hand=True,
    )


def _prosody(given: Given, verb: str, folder: Path | None, *, name: str, music: bool) -> Step:
    usual = (given.root / "samples", given.root / "generate-acoustic")
    out = given.at(name, given.data, None if folder in usual else folder, limited=True)
    missing = needs.no_continuations(given) if folder == given.continuations else needs.no_acoustic_only(given)
    options = ("--music",) if music else ()
    return Step(
        name,
        given.verb(
            verb,
            folder or "FOLDER",
            *options,
            *needs.data(given),
            *needs.stretch(given),
            *given.limited(),
            *_out(given, out, verb),
        ),
        out / "pooled.json",
        partial(readers.passage_table, end=", codes only" if name == "music-acoustic-only" else ""),
        inputs=(*needs.generated(folder), *needs.spoken(given)),
        lacking=missing + needs.no_manifest(given),
    )
