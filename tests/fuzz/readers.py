"""What is mutated and how it is read: a specimen, ways to spoil it, and a reader that goes to the bottom of it.

A reader raises ValueError or OSError, or what it gives is consistent: shapes fit, ids are in range, paths stay below their
folder. An AssertionError here is a defect of the package.
"""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import specimens
from tests.fuzz.mutations import BYTES, change_json
from tests.fuzz.spoiling import change_checkpoint, change_safetensors, change_words, resign, resign_columns

Spoil = Callable[[Path, random.Random], str]


@dataclass(frozen=True)
class Reader:
    """One reader of the package under test."""

    make: Callable[[Path], None]  # writes the specimen's files into a folder
    read: Callable[[Path], None]
    spoil: Spoil  # changes one file of the folder, and says which and how
    share: int  # of all files; what is read fast and comes from strangers gets more


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def spoil_bytes(folder: Path, rng: random.Random, *, alone: bool = False) -> str:
    """One to three byte-level mutations of one file. `alone`: the others are removed, so that only it is read."""
    path = rng.choice(_files(folder))
    if alone:
        for other in _files(folder):
            if other != path:
                other.unlink()
    content = path.read_bytes()
    mutations = [rng.choice(BYTES) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    for mutate in mutations:
        content = mutate(content, rng)
    path.write_bytes(content)
    return f"{path.name}: {', '.join(mutate.__name__ for mutate in mutations)}"


def spoil_alone(folder: Path, rng: random.Random) -> str:
    """A byte-level mutation of one file, the others removed."""
    return spoil_bytes(folder, rng, alone=True)


def spoil_texts(folder: Path, rng: random.Random) -> str:
    """Change values of a JSON file, or bytes of any file."""
    texts = [path for path in _files(folder) if path.suffix in (".json", ".jsonl", ".txt")]
    if not texts or rng.random() < 0.3:
        return spoil_bytes(folder, rng)
    path = rng.choice(texts)
    path.write_bytes(change_json(path.read_bytes(), rng))
    return f"{path.name}: change_json"


def spoil_manifest(folder: Path, rng: random.Random) -> str:
    """As `spoil_texts`; mostly with a digest that fits again, as anyone can compute one."""
    how = spoil_texts(folder, rng)
    if rng.random() < 0.8:
        resign(folder / "manifest.jsonl")
        how += ", digest made to fit"
    return how


def spoil_store(folder: Path, rng: random.Random) -> str:
    """As `spoil_texts`; sometimes with sizes in sealed.json that fit again."""
    how = spoil_texts(folder, rng)
    if rng.random() < 0.5:
        specimens.fit_sizes(folder)
        how += ", sizes made to fit"
    return how


def spoil_checkpoints(folder: Path, rng: random.Random) -> str:
    """Of one checkpoint or array: bytes, what its pickle says, or its configuration. A pickle may try to make a folder."""
    if rng.random() < 0.4:
        return spoil_alone(folder, rng)
    path = rng.choice(_files(folder))
    for other in _files(folder):
        if other != path:
            other.unlink()
    if path.suffix not in (".ckpt", ".pt"):
        return spoil_bytes(folder, rng)
    return f"{path.name}: {change_checkpoint(path, rng, payload=folder.parent / 'code-ran')}"


def spoil_generator(folder: Path, rng: random.Random) -> str:
    """A config.json or a header by their values, or any file by its bytes."""
    what = rng.random()
    if what < 0.5:
        texts = sorted(folder.rglob("*.json"))
        if not texts:
            return spoil_bytes(folder, rng)
        path = rng.choice(texts)
        path.write_bytes(change_json(path.read_bytes(), rng))
        return f"{path.name}: change_json"
    if what < 0.75:
        path = rng.choice(sorted(folder.rglob("*.safetensors")))
        change_safetensors(path, rng)
        return f"{path.name}: header"
    return spoil_bytes(folder, rng)


def spoil_words(folder: Path, rng: random.Random) -> str:
    """Words of a table, or bytes."""
    if rng.random() < 0.4:
        return spoil_alone(folder, rng)
    path = rng.choice(_files(folder))
    for other in _files(folder):
        if other != path:
            other.unlink()
    path.write_bytes(change_words(path.read_bytes(), rng))
    return f"{path.name}: change_words"


def read_recordings(folder: Path) -> None:
    """Header, the whole, a stretch, and as a prompt."""
    from audiolm.audio import audio_info, read_audio, read_prompt, resampled_length

    for path in _files(folder):
        info = audio_info(path)
        audio = read_audio(path, sample_rate_hz=16000)
        assert audio.shape == (resampled_length(info.samples, info.sample_rate_hz, 16000),), "length"
        assert bool(audio.isfinite().all()), "not finite"
        middle = info.samples // 2
        assert len(read_audio(path, sample_rate_hz=info.sample_rate_hz, start=middle)) == info.samples - middle
        read_prompt(path, sample_rate_hz=16000)


def read_corpus(folder: Path) -> None:
    """`audiolm prepare` of a folder with voice activity: it rejects and warns, or says why it stops."""
    from audiolm.recordings import find_recordings
    from audiolm.scan import scan_recordings

    found = find_recordings(folder)
    scans = scan_recordings(found, root=folder, log=folder / "scan.jsonl", max_seconds=1.0, workers=1, progress=None)
    for scan in scans:
        assert scan.problem or all(start >= 0 and samples > 0 for start, samples, _ in scan.cuts), "cuts"


def read_manifest(folder: Path) -> None:
    """All utterances, where they are, and where audio made of them would go."""
    from audiolm.generator.outputs import OutputFolder
    from audiolm.manifest import SPLITS
    from audiolm.manifest import read_manifest as read

    manifest = read(folder / "manifest.jsonl")
    assert len(manifest.digest) == 64
    assert sum(len(manifest.split(split)) for split in SPLITS) == len(manifest.utterances)
    assert manifest.hours() >= 0
    outputs = OutputFolder(folder / "out", {})
    for utterance in manifest.utterances:
        for path, root in (
            (manifest.root / utterance.path, manifest.root),
            (outputs.audio_path(utterance.id), folder / "out"),
        ):
            assert os.path.normpath(path).startswith(os.path.normpath(root)), f"{path} leads out"
        assert min(utterance.samples, utterance.sample_rate_hz) > 0


def read_store(folder: Path) -> None:
    """Opens, draws windows of every split, reads every utterance and every name."""
    import numpy as np

    from audiolm.tokens.store import SPLITS, TokenStore
    from audiolm.tokens.windows import Windows

    store = TokenStore(folder)
    spec = store.spec
    for row in range(len(store)):
        units, codes = store.units(row), store.codes(row)
        assert codes.shape == (spec.levels, int(store.index["frames"][row]))
        assert units.shape == (int(store.index["units"][row]),)
        assert 0 <= int(units.min()) <= int(units.max()) < spec.clusters
        assert 0 <= int(codes.min()) <= int(codes.max()) < spec.codebook_size
    assert len(store.ids) == len(store)
    assert len(store.speakers) > int(store.index["speaker"].max(initial=0))
    for split in SPLITS:
        windows = Windows(store, split=split, seconds=1.0)
        for window in windows.draw(np.random.default_rng(0), 4):
            windows.read(window)


def read_parts(folder: Path) -> None:
    """What a continued run finds, and sealing it."""
    from audiolm.tokens.store import seal, written_ids

    found = written_ids(folder)
    read_store(seal(folder, expected=found).folder)


def read_spec(folder: Path) -> None:
    """A TokenSpec and everything computed of it."""
    from audiolm.files import read_json
    from audiolm.tokens.layout import StageLayout
    from audiolm.tokens.spec import TokenSpec

    spec = TokenSpec.from_dict(read_json(folder / "spec.json", made_by="a test"), source="spec.json")
    assert 1 <= spec.aligned_samples <= spec.sample_rate_hz
    assert TokenSpec.from_dict(spec.as_dict()) == spec
    for stage in ("semantic", "coarse", "acoustic", *(("fine",) if spec.fine_levels else ())):
        assert StageLayout(spec, stage).vocabulary > 0


def read_checkpoints(folder: Path) -> None:
    """Load, and rebuild what the stage trained."""
    from audiolm.checkpoint import load_stage_checkpoint
    from audiolm.codec.codecs import rebuild_codec
    from audiolm.codec.detokenizer import Detokenizer
    from audiolm.semantic.encoders import trained_encoder
    from audiolm.semantic.tokenizer import SemanticTokenizer

    rebuild = {
        "codec": rebuild_codec,
        "tokenizer": SemanticTokenizer.from_checkpoint,
        "encoder": trained_encoder,
        "unit-decoder": Detokenizer.from_checkpoint,
    }
    for path in _files(folder):
        checkpoint = load_stage_checkpoint(path, stage=path.stem)
        assert len(checkpoint.digest) == 64
        rebuild[path.stem](checkpoint)


def read_sharded(folder: Path) -> None:
    """Put together and rebuilt; checksums would tell of accidents, so there are none here, as a stranger can compute them."""
    from audiolm.checkpoint import load_stage_checkpoint
    from audiolm.checksums import publish
    from audiolm.semantic.tokenizer import SemanticTokenizer

    shutil.rmtree(folder / "sealed.ckpt", ignore_errors=True)
    shutil.copytree(folder / "best.ckpt", folder / "sealed.part")
    publish(folder / "sealed.part", folder / "sealed.ckpt")
    checkpoint = load_stage_checkpoint(folder / "sealed.ckpt", stage="tokenizer")
    SemanticTokenizer.from_checkpoint(checkpoint)


def read_columns(folder: Path) -> None:
    """All utterances, from columns whose digests fit."""
    from audiolm.manifest_columns import read_columns as read
    from audiolm.utterances import Utterances

    for utterance in Utterances(read(folder / "manifest.columns", manifest_digest="d")):
        assert os.path.normpath(Path("/corpus") / utterance.path).startswith("/corpus"), "leads out"
        assert utterance.samples > 0, "empty"


def spoil_columns(folder: Path, rng: random.Random) -> str:
    """An array, mostly with a digest that fits again; or columns.json."""
    how = spoil_texts(folder / "manifest.columns", rng)
    if rng.random() < 0.8:
        resign_columns(folder / "manifest.columns")
        how += ", digests made to fit"
    return how


def read_arrays(folder: Path) -> None:
    """Centroids, and features for an ABX test."""
    from fractions import Fraction

    from audiolm.evaluation.feature_sources import folder_source
    from audiolm.semantic.centroids import read_centroids
    from audiolm.semantic.mfcc import MfccEncoder

    for path in _files(folder):
        if path.stem == "centroids":
            assert read_centroids(path, encoder=MfccEncoder(), clusters=12).centroids.shape == (1, 12, 39)
        else:
            source = folder_source(folder, [path.stem], rate_hz=Fraction(25))
            assert source.features(path.stem).ndim == 2


def read_generator(folder: Path) -> None:
    """Load, digest, and speak a moment."""
    from audiolm.generator import AudioLM
    from audiolm.generator.folder import generator_digest

    model = AudioLM.from_pretrained(folder)
    assert len(generator_digest(folder)) == 64
    spoken = model.unconditional(seconds=0.04, count=1)[0]
    assert spoken.codes.max() < model.spec.codebook_size


def read_detector(folder: Path) -> None:
    """Load, and judge a moment."""
    import torch

    from audiolm.evaluation.detection import load_detector

    model = load_detector(folder).model
    assert model(torch.randn(1, model.sample_rate_hz)).shape == (1, 2)


def read_public(folder: Path) -> None:
    """Public models as transformers stores them."""
    from audiolm.codec.pretrained import PretrainedCodec
    from audiolm.semantic.pretrained import PretrainedEncoder

    PretrainedEncoder.from_pretrained(str(folder / "encoder"), layer=1)
    PretrainedCodec.from_pretrained(str(folder / "codec"))


def read_sampling(folder: Path) -> None:
    """Numbers for drawing tokens."""
    import torch

    from audiolm.files import read_json
    from audiolm.generator.stage_sampling import stage_sampling
    from audiolm.lm.sampling import sample_next

    settings = read_json(folder / "sampling.json", made_by="a test")
    if not isinstance(settings, dict):
        raise ValueError("command lines and YAML files give dicts")
    sampling = stage_sampling(settings)
    logits = torch.linspace(-3, 3, 20)[None]
    for stage in (sampling.semantic, sampling.coarse, sampling.fine):
        drawn = sample_next(logits, uniform=torch.tensor([0.5], dtype=torch.float64), sampling=stage)
        assert -1 <= int(drawn) < 20


def read_outputs(folder: Path) -> None:
    """What a restarted generate stage reads of the run before."""
    from audiolm.generator.outputs import OutputFolder

    outputs = OutputFolder(folder, {"mode": "continue", "seed": 0, "sampling": {}, "generator": "g"})
    outputs.require_same_settings(["a"])
    finished = outputs.finished(["a"])
    outputs.require_same_prompts({"a": {"prompt": "p", "prompt_start": 0, "prompt_sha256": "x"}})
    outputs.seal(finished)


def read_tables(folder: Path) -> None:
    """Item files and alignments of evaluations."""
    from audiolm.evaluation.abx_items import read_items
    from audiolm.evaluation.alignments import frame_phones, read_alignments, require_within

    for path in _files(folder):
        if path.suffix == ".item":
            assert all(0 <= item.onset < item.offset for item in read_items(path))
            continue
        for file, intervals in read_alignments(path).items():
            require_within(intervals, seconds=10, file=file)
            assert len(frame_phones(intervals, frames=50, rate_hz=50)) == 50


READERS = {
    "audio": Reader(specimens.recordings, read_recordings, spoil_alone, 6000),
    "corpus": Reader(specimens.corpus, read_corpus, spoil_texts, 1000),
    "manifest": Reader(specimens.manifest, read_manifest, spoil_manifest, 4000),
    "store": Reader(specimens.store, read_store, spoil_store, 4000),
    "parts": Reader(specimens.parts, read_parts, spoil_texts, 1200),
    "spec": Reader(specimens.spec, read_spec, spoil_texts, 1000),
    "checkpoint": Reader(specimens.checkpoints, read_checkpoints, spoil_checkpoints, 500),
    "sharded": Reader(specimens.sharded, read_sharded, spoil_generator, 500),
    "columns": Reader(specimens.columns, read_columns, spoil_columns, 1000),
    "arrays": Reader(specimens.arrays, read_arrays, spoil_checkpoints, 1500),
    "generator": Reader(specimens.generator, read_generator, spoil_generator, 400),
    "acoustic-only": Reader(specimens.acoustic_only, read_generator, spoil_generator, 200),
    "detector": Reader(specimens.detector, read_detector, spoil_generator, 400),
    "public": Reader(specimens.public, read_public, spoil_generator, 100),
    "sampling": Reader(specimens.sampling, read_sampling, spoil_texts, 1000),
    "outputs": Reader(specimens.outputs, read_outputs, spoil_texts, 500),
    "tables": Reader(specimens.tables, read_tables, spoil_words, 1500),
}
