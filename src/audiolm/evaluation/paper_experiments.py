"""The paper's experiments and three more: what each needs, which commands make it, how its numbers are read."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from audiolm.evaluation import paper_readers as readers
from audiolm.evaluation import published
from audiolm.evaluation.paper_steps import Given, Lack, Step
from audiolm.evaluation.published import Published
from audiolm.files import read_json


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Attributes:
        name: for `--only`.
        title: of its section.
        paper: its numbers there; none in what the paper does not have.
        differs: how our protocol differs, in words.
        plan: the steps that make it of what is given.
    """

    name: str
    title: str
    paper: Published | None
    differs: str
    plan: Callable[[Given], Sequence[Step]]


def tokens(given: Given) -> Sequence[Step]:
    """Table I."""
    return [
        Step(
            "table1",
            given.verb("table1", *_items(given)),
            given.at("table1") / "summary.json",
            readers.token_table,
            inputs=_present(given.items) + (given.root / "codec" / "best.ckpt", given.root / "tokenizer" / "best.ckpt"),
            lacking=_no_items(given) + _trained(given, "codec", "tokenizer"),
        )
    ]


def layers(given: Given) -> Sequence[Step]:
    """Figure 3, left. The choice of layer stays as it is: the chain was trained with it."""
    return [_layers(given, "layers", readers.layer_table)]


def clusters(given: Given) -> Sequence[Step]:
    """Figure 3, right: this chain is one point of it."""
    count = _clusters(given)
    pairs = [
        _pairs(given, verb, name=f"clusters-{verb}", read=partial(readers.pairs_of_clusters, verb, count))
        for verb in ("swuggy", "sblimp")
    ]
    return [*pairs, _layers(given, "clusters-abx", readers.cluster_table)]


def recognition(given: Given) -> Sequence[Step]:
    """Table II."""
    return [
        Step(
            "asr",
            given.verb("asr", *_conditions(given)),
            given.at("asr") / "summary.json",
            readers.recognition_table,
            inputs=_generator(given) + (given.root / "asr" / "best.ckpt",),
            lacking=_no_generator(given),
        )
    ]


def speakers(given: Given) -> Sequence[Step]:
    """Table III."""
    return [
        Step(
            "speaker",
            given.verb("speaker", *_conditions(given)),
            given.at("speaker") / "summary.json",
            readers.speaker_table,
            inputs=_generator(given) + (given.root / "speaker" / "best.ckpt",),
            lacking=_no_generator(given) + _trained(given, "speaker"),
        )
    ]


def pairs(given: Given) -> Sequence[Step]:
    """Table IV."""
    return [_pairs(given, verb, name=verb, read=partial(readers.pair_table, verb)) for verb in ("swuggy", "sblimp")]


def listening(given: Given) -> Sequence[Step]:
    """The subjective test: people have to listen, so its answers are only read."""
    return [_listening(given, "listening-test", "--human ORIGINALS --machine CONTINUATIONS --codec", readers.listening_table)]


def detector(given: Given) -> Sequence[Step]:
    """The detector of synthesized speech."""
    return [
        Step(
            "detector",
            given.verb("detector", *_conditions(given)),
            given.at("detector") / "summary.json",
            readers.detector_table,
            inputs=_generator(given) + (given.root / "detector" / "best.ckpt",),
            lacking=_no_generator(given) + _trained(given, "detector"),
        )
    ]


def piano(given: Given) -> Sequence[Step]:
    """Hierarchy beside codes only, heard by people and by numbers."""
    speech = () if given.is_piano else (Lack("a chain of piano", "make train-all PRESET=piano DATA=PATH RUN=piano"),)
    heard = _listening(given, "listening-piano", "--a HIERARCHY --b ACOUSTIC_ONLY", readers.preference_table)
    return [
        _lacking_more(heard, speech),
        _lacking_more(_prosody(given, "prosody", given.continuations, name="music", music=True), speech),
        _lacking_more(_prosody(given, "prosody", given.acoustic_only, name="music-acoustic-only", music=True), speech),
    ]


def acoustic_only(given: Given) -> Sequence[Step]:
    """The ablation, by the likelihood of its units."""
    other = given.acoustic_only
    return [
        Step(
            "likelihood",
            given.verb("likelihood", given.continuations, other or "ACOUSTIC_ONLY"),
            given.at("likelihood") / "summary.json",
            readers.likelihood_table,
            inputs=_generator(given) + (given.continuations,) + _present(other),
            lacking=_no_generator(given) + _no_continuations(given) + _no_acoustic_only(given),
        )
    ]


def codec(given: Given) -> Sequence[Step]:
    """What the codec keeps, by levels."""
    measures = [name for name, package in _PACKAGES.items() if package is None or importlib.util.find_spec(package)]
    chosen = () if len(measures) == len(_PACKAGES) else ("--measures", *measures)
    return [
        Step(
            "codec",
            given.verb("codec", *chosen, *_data(given), *given.limited()),
            given.at("codec") / "pooled.json",
            readers.codec_table,
            inputs=(given.root / "codec" / "best.ckpt", given.root / "manifest.jsonl"),
            lacking=_trained(given, "codec") + _no_manifest(given),
        )
    ]


_PACKAGES = {"visqol": "visqol", "pesq": "pesq", "stoi": "pystoi", "si_sdr": None, "mel": None}


def prosody(given: Given) -> Sequence[Step]:
    """Seams of continuations."""
    return [_prosody(given, "prosody", given.continuations, name="prosody", music=given.is_piano)]


def diversity(given: Given) -> Sequence[Step]:
    """Units of continuations."""
    return [_prosody(given, "diversity", given.continuations, name="diversity", music=False)]


EXPERIMENTS = (
    Experiment(
        "tokens",
        "Table I: what units and codes hold",
        published.TOKENS,
        "ABX with the corrected ends of items unless its settings say `libri-light`; ViSQOL's mapping is among the settings.",
        tokens,
    ),
    Experiment(
        "layers",
        "Figure 3, left: layers of the encoder",
        published.LAYERS,
        "Our own encoder (or a public one); the corrected ends of items; MFCC of the same rate for comparison. Columns are ABX within "
        "context. Compare the shape only: layers of other encoders have other numbers.",
        layers,
    ),
    Experiment(
        "clusters",
        "Figure 3, right: how many units",
        published.CLUSTERS,
        "Each K needs a semantic model of its own (another RUN); this chain is one point. ABX of units needs no model, so it is "
        "measured for several K of the best layer.",
        clusters,
    ),
    Experiment(
        "asr",
        "Table II: words that survive",
        published.RECOGNITION,
        "Another recogniser than the paper's, named in the settings: compare conditions with one another, not with the paper. GSLM was not run.",
        recognition,
    ),
    Experiment(
        "speaker",
        "Table III: speakers that survive",
        published.SPEAKERS,
        "Our classifier knows other speakers and another number of them: chance is among the settings.",
        speakers,
    ),
    Experiment(
        "pairs",
        "Table IV: sWUGGY and sBLIMP",
        published.PAIRS,
        "The log likelihood of the semantic stage, of units without repeats and without the end token. The demo set, where no "
        "other is named, has the demo corpus's words: its numbers cannot be compared with the paper's.",
        pairs,
    ),
    Experiment(
        "listening",
        "Subjective test: human or machine",
        published.LISTENING,
        "Exact binomial test, one-sided as the paper's and two-sided.",
        listening,
    ),
    Experiment(
        "detector",
        "Detector of synthesized speech",
        published.DETECTION,
        "Trained and evaluated on this chain's continuations.",
        detector,
    ),
    Experiment(
        "piano",
        "Piano: hierarchy or codes only",
        published.PIANO,
        "A listening test where there were raters; beside it chroma, key, onsets and tempo across the seam, which the paper has not.",
        piano,
    ),
    Experiment(
        "acoustic-only",
        "Ablation: codes only",
        published.ACOUSTIC_ONLY,
        "The paper describes it in words; we measure how likely the semantic model finds the units of both kinds of continuation.",
        acoustic_only,
    ),
    Experiment("codec", "More: the codec by levels", None, "Not in the paper in this form; ViSQOL is Table I's.", codec),
    Experiment("prosody", "More: the seam between prompt and continuation", None, "Not in the paper.", prosody),
    Experiment("diversity", "More: how varied continuations are", None, "Not in the paper.", diversity),
)


def plan(given: Given, names: Sequence[str] | None = None) -> Mapping[Experiment, Sequence[Step]]:
    """The steps of all experiments, or of those named.

    Raises:
        ValueError: naming those that do not exist.
    """
    known = [experiment.name for experiment in EXPERIMENTS]
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"there is no experiment {', '.join(unknown)}: choose among {', '.join(known)}")
    return {e: e.plan(given) for e in EXPERIMENTS if not names or e.name in names}


def demo_pairs(given: Given) -> Path | None:
    """Where the chain's own small sWUGGY and sBLIMP are to be; None where others are named, or its words are not ours."""
    return given.root / "demo-zerospeech" if given.zerospeech is None and given.is_demo else None


def _pairs(given: Given, verb: str, *, name: str, read: Callable[..., readers.Numbers]) -> Step:
    data = given.zerospeech or demo_pairs(given)
    task = {"swuggy": "lexical", "sblimp": "syntactic"}[verb]
    lacking = () if data else (
        Lack("the ZeroSpeech 2021 set (sLM21-dataset)", given.again("--zerospeech", "sLM21-dataset")),
    )  # fmt: skip
    return Step(
        name,
        given.verb(verb, "--data", data or "sLM21-dataset", "--device", given.device),
        given.at(f"{verb}-dev") / "summary.json",
        read,
        inputs=_generator(given) + (() if data is None else (data / task / "dev" / "gold.csv", data / task / "dev.gold")),
        lacking=lacking + _no_generator(given),
    )


def _layers(given: Given, name: str, read: Callable[..., readers.Numbers]) -> Step:
    return Step(
        name,
        given.verb("layers", *_items(given), "--measure-only", *given.limited()),
        given.at("layers") / "layers.json",
        read,
        inputs=_present(given.items) + (given.root / "encoder" / "best.ckpt",),
        lacking=_no_items(given) + _trained(given, "encoder"),
    )


def _listening(given: Given, folder: str, folders: str, read: Callable[..., readers.Numbers]) -> Step:
    at = given.at(folder)
    codec = f" {given.root / 'generator'}" if folders.endswith("--codec") else ""
    lack = ()
    if not (at / "scores.json").exists():
        lack = (
            Lack("answers of people", f"audiolm evaluate listening-test make {folders}{codec} --out {at}"),
            Lack(
                "their count", f"audiolm evaluate listening-test score answers-*.json --key {at / 'key.json'} --out {at}"
            ),
        )
    return Step(folder, ("evaluate", "listening-test", "score"), at / "scores.json", read, lacking=lack)


def _prosody(given: Given, verb: str, folder: Path | None, *, name: str, music: bool) -> Step:
    out = ("--out", given.at(name)) if name != verb else ()
    missing = _no_continuations(given) if folder == given.continuations else _no_acoustic_only(given)
    options = ("--music",) if music else ()
    return Step(
        name,
        given.verb(verb, folder or "ACOUSTIC_ONLY", *options, *_data(given), *given.limited(), *out),
        given.at(name) / "pooled.json",
        partial(readers.passage_table, end=", codes only" if name == "music-acoustic-only" else ""),
        inputs=_present(folder) + (given.root / "manifest.jsonl",),
        lacking=missing + _no_manifest(given),
    )
