"""Files from strangers run no code, take no memory beyond their size, keep nobody waiting and lead nowhere else."""

import hashlib
import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny import SPEC, tiny_codec, tiny_generator, tones_and_noise, write_tiny_checkpoint, write_tiny_generator

from audiolm.audio import AudioError, audio_info, read_audio, read_prompt, write_audio
from audiolm.checkpoint import HEADER, header, load_stage_checkpoint
from audiolm.codec.codecs import rebuild_codec
from audiolm.codec.pretrained import PretrainedCodec
from audiolm.codec.soundstream import SoundStream
from audiolm.evaluation.abx_items import read_items
from audiolm.evaluation.feature_sources import folder_source
from audiolm.files import MOST_JSON_BYTES, read_json, write_json
from audiolm.generator import AudioLM
from audiolm.generator.folder import GeneratorError
from audiolm.generator.outputs import OutputFolder
from audiolm.generator.stage_sampling import stage_sampling
from audiolm.lm.transformer import TransformerConfig
from audiolm.manifest import ManifestError, Utterance, read_manifest
from audiolm.semantic.centroids import read_centroids
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.semantic.pretrained import PretrainedEncoder
from audiolm.stages.checkpoint_io import AtomicCheckpointIO
from audiolm.tokens.spec import TokenSpec
from audiolm.tokens.store import INDEX_TYPE, StoreError, TokenStore, TokenStoreWriter, create_store, seal
from audiolm.untrusted.rebuilding import rebuilt
from audiolm.untrusted.tensor_files import read_torch

HUGE = [10**9, 10**30, -1, 0, True, 1.5, float("inf"), "64", None, [64]]


class Payload:
    """Unpickled without care, it makes the folder `ran` in the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test of this file may let a payload run, or take seconds."""
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    yield
    assert not (tmp_path / "ran").exists(), "code from a file was run"
    assert time.process_time() - started < 30, "a bad file kept us busy"


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composed")
    write_tiny_generator(folder)
    return folder


@pytest.fixture
def generator(composed: Path, tmp_path: Path) -> Path:
    """A generator folder to be spoilt."""
    folder = tmp_path / "generator"
    folder.mkdir()
    for path in composed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def set_in(path: Path, *keys: str, value: Any) -> None:
    """Change one value of a JSON file; NaN and infinity are written as Python writes them."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


# ---------------------------------------------------------------------------------------------------------- pickles


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_no_pickle_is_run_wherever_it_lies(tmp_path: Path, protocol: int) -> None:
    bare = pickle.dumps({"state_dict": Payload()}, protocol=protocol)
    buffer = io.BytesIO()
    torch.save({HEADER: Payload()}, buffer, pickle_protocol=max(2, protocol))
    old = io.BytesIO()
    torch.save([Payload()], old, _use_new_zipfile_serialization=False)
    encoder = MfccEncoder()
    for content in (bare, buffer.getvalue(), old.getvalue()):
        for name in ("best.ckpt", "km.pt", "km.npy", "km.ckpt", "index.npy"):
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="best.ckpt cannot be read"):
            load_stage_checkpoint(tmp_path / "best.ckpt", stage="codec")
        for weights_only in (None, True, False):
            with pytest.raises(ValueError, match="best.ckpt cannot be read"):
                AtomicCheckpointIO().load_checkpoint(tmp_path / "best.ckpt", weights_only=weights_only)
        for name in ("km.pt", "km.npy", "km.ckpt"):
            with pytest.raises(ValueError, match="cannot be read"):
                read_centroids(tmp_path / name, encoder=encoder, clusters=4)
        for name in ("km.pt", "km.npy"):
            (tmp_path / "features").mkdir(exist_ok=True)
            (tmp_path / "features" / f"f{name[2:]}").write_bytes(content)
            source = folder_source(tmp_path / "features", ["f"], rate_hz=Fraction(25))
            with pytest.raises(ValueError, match="cannot be read as a matrix"):
                source.features("f")
            (tmp_path / "features" / f"f{name[2:]}").unlink()


def test_a_checkpoint_behind_an_address_is_not_fetched() -> None:
    with pytest.raises(ValueError, match="an address, not a file"):
        AtomicCheckpointIO().load_checkpoint("https://example.org/last.ckpt")


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "km.npy", np.array([[Payload()]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as an array"):
        read_centroids(tmp_path / "km.npy", encoder=MfccEncoder(), clusters=1)


def tiny_hubert(folder: Path) -> Path:
    from transformers import AutoModel, HubertConfig

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    AutoModel.from_config(HubertConfig(**small, **convolutions)).save_pretrained(folder)
    return folder


def test_a_public_folder_runs_no_pickle_and_no_code_that_its_configuration_names(tmp_path: Path) -> None:
    folder = tiny_hubert(tmp_path / "encoder")
    for key, value in {
        "auto_map": {"AutoModel": "code.Payload", "AutoConfig": "code.Payload"},
        "attn_implementation": "stranger/kernels",
        "_attn_implementation": "stranger/kernels",
        "quantization_config": {"quant_method": "bitsandbytes"},
    }.items():
        good = (folder / "config.json").read_text()
        (folder / "code.py").write_text("import os; os.mkdir('ran')")
        set_in(folder / "config.json", key, value=value)
        with pytest.raises(ValueError, match="code or kernels of its own"):
            PretrainedEncoder.from_pretrained(str(folder), layer=1)
        with pytest.raises(ValueError, match="code or kernels of its own"):
            PretrainedCodec.from_pretrained(str(folder))
        (folder / "config.json").write_text(good)
    (folder / "model.safetensors").unlink()
    for content in (pickle.dumps(Payload()), _saved({"weight": Payload()})):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match="damaged|not one that transformers wrote|do not belong together"):
            PretrainedEncoder.from_pretrained(str(folder), layer=1)


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_public_configuration_of_huge_size_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    folder = tiny_hubert(tmp_path / "encoder")
    good = (folder / "config.json").read_text()
    for key in ("hidden_size", "num_hidden_layers", "intermediate_size"):
        for value in (10**9, 2**20, 10**40):
            set_in(folder / "config.json", key, value=value)
            with pytest.raises(ValueError, match="beyond|far more|asks for|cannot be made|damaged|not one"):
                PretrainedEncoder.from_pretrained(str(folder), layer=1)
            (folder / "config.json").write_text(good)
    model_config = json.loads(good) | {"num_hidden_layers": 10**6}
    with pytest.raises(ValueError, match="far more than there are weights"):
        rebuilt(lambda: PretrainedEncoder(model_config, layer=1, normalize=True), {}, what="the encoder")


def test_a_public_codec_whose_values_are_of_another_kind_is_refused_in_words(tmp_path: Path) -> None:
    """transformers' own classes raise what is neither a ValueError nor an OSError."""
    for value in ("x", [[]], {"": 1}, None):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "dac", "codebook_size": value}))
        with pytest.raises(ValueError, match="The codec .* is damaged|codebook_size"):
            PretrainedCodec.from_pretrained(str(tmp_path))


# ------------------------------------------------------------------------------------------------- stage checkpoints


def test_compressed_records_of_a_torch_file_are_refused(tmp_path: Path) -> None:
    plain, bomb = tmp_path / "plain.pt", tmp_path / "bomb.pt"
    torch.save(torch.zeros(10**7), plain)
    with zipfile.ZipFile(plain) as content, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for record in content.infolist():
            archive.writestr(record.filename, content.read(record))
    assert bomb.stat().st_size < 10**5 < 4 * 10**7  # 40 MB in 40 kB
    with pytest.raises(ValueError, match="compressed"):
        read_torch(bomb)


def test_a_tensor_that_claims_more_than_its_file_has_is_refused(tmp_path: Path) -> None:
    many = {f"w{n}": value for n, value in enumerate([torch.ones(1000)] * 1000)}  # 4 MB in 4 kB
    strange = {
        "stands in 4 bytes": torch.ones(1).expand(10**6, 10**6),
        "many stand in one place": many,
        "layout torch.sparse": torch.ones(2, 2).to_sparse(),
        "on meta": torch.ones(10**12, device="meta"),
    }
    for message, value in strange.items():
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(ValueError, match=message):
            read_torch(tmp_path / "a.pt")


def test_a_list_that_holds_itself_and_a_thousand_million_laughs_are_refused(tmp_path: Path) -> None:
    laughs: list[Any] = ["ha"]
    for _ in range(30):
        laughs = [laughs] * 10
    endless: list[Any] = []
    endless.append(endless)
    for value in (laughs, endless):
        torch.save({"state_dict": {}, HEADER: header("codec", {"kind": value}, {})}, tmp_path / "a.ckpt")
        with pytest.raises(ValueError, match="values, or nests them deeper"):
            load_stage_checkpoint(tmp_path / "a.ckpt", stage="codec")


@pytest.mark.parametrize(
    "change",
    [
        {"state_dict": None}, {"state_dict": [1]}, {"state_dict": {"model.a": 1}}, {"state_dict": {3: torch.ones(1)}},
        {"global_step": "7"}, {"global_step": -1}, {HEADER: {"format": 1}}, {HEADER: header("codec", [1], {})},  # type: ignore[arg-type]
        {HEADER: header("codec", {"a": torch.ones(1)}, {})}, {HEADER: header("codec", {}, {"manifest": 3})},  # type: ignore[dict-item]
        {HEADER: header("codec", {1: 2}, {})}, {HEADER: header("codec", {"a": float("nan")}, {})},  # type: ignore[dict-item]
    ],
)  # fmt: skip
def test_a_checkpoint_without_what_it_needs_is_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    content = {"state_dict": {}, "global_step": 7, HEADER: header("codec", {}, {})}
    torch.save({**content, **change}, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match="best.ckpt"):
        load_stage_checkpoint(tmp_path / "best.ckpt", stage="codec")


@pytest.mark.parametrize("name", ["dim", "channels", "levels", "codebook_size", "strides"])
def test_a_codec_whose_configuration_is_huge_takes_no_memory(tmp_path: Path, name: str) -> None:
    codec = tiny_codec()
    for value in (*HUGE, 10**6, [2] * 10**5):
        write_tiny_checkpoint(tmp_path / "best.ckpt", "codec", codec, codec.config_dict() | {name: value})
        with pytest.raises(ValueError, match=r"\w"):
            rebuild_codec(load_stage_checkpoint(tmp_path / "best.ckpt", stage="codec"))


def test_weights_of_another_shape_are_refused_and_those_that_fit_are_the_same(tmp_path: Path) -> None:
    codec = tiny_codec()
    write_tiny_checkpoint(tmp_path / "best.ckpt", "codec", codec, codec.config_dict())
    again = rebuild_codec(load_stage_checkpoint(tmp_path / "best.ckpt", stage="codec"))
    audio = tones_and_noise(3200)[None]
    assert torch.equal(again.encode(audio), codec.encode(audio))
    write_tiny_checkpoint(tmp_path / "best.ckpt", "codec", codec, codec.config_dict() | {"dim": 10**6})
    checkpoint = load_stage_checkpoint(tmp_path / "best.ckpt", stage="codec")
    with pytest.raises(ValueError, match="weights of the codec do not fit its configuration"):
        SoundStream.from_checkpoint(checkpoint)


# ------------------------------------------------------------------------------------------------- generator folders


def test_a_generator_folder_is_read_back(generator: Path) -> None:
    spoken, expected = (
        model.unconditional(seconds=0.2, count=1)[0] for model in (AudioLM.from_pretrained(generator), tiny_generator())
    )
    assert torch.equal(spoken.codes, expected.codes)


@pytest.mark.parametrize("name", list(asdict(TransformerConfig())))
def test_every_size_of_a_language_model_is_checked(generator: Path, name: str) -> None:
    sensible = {"dropout": [0, True], "max_distance": [10**9]}.get(name, [])  # 0 == False
    for value in HUGE:
        if value in sensible and type(value) is int:
            continue
        set_in(generator / "config.json", "stages", "coarse", "transformer", name, value=value)
        with pytest.raises(ValueError, match=str(generator)):
            AudioLM.from_pretrained(generator)


@pytest.mark.parametrize(
    "keys",
    [
        ("format",), ("units_per_second",), ("spec", "levels"), ("codec", "dim"), ("stages", "fine", "window_seconds"),
        ("tokenizer", "clusters"), ("tokenizer", "window_seconds"), ("tokenizer", "encoder", "cepstra"),
        ("tokenizer", "encoder", "sample_rate_hz"),
    ],
)  # fmt: skip
def test_every_number_of_a_generator_is_checked(generator: Path, keys: tuple[str, ...]) -> None:
    deep = keys[0] in ("stages", "tokenizer")  # read after the codec, which takes its time
    for value in (10**9, -1, float("nan"), True) if deep else (*HUGE, float("nan"), {}, "x" * 10**6):
        if keys[-1] in ("units_per_second", "window_seconds") and value == 1.5:
            continue
        good = (generator / "config.json").read_text()
        set_in(generator / "config.json", *keys, value=value)
        with pytest.raises(ValueError, match=str(generator)) as refused:
            AudioLM.from_pretrained(generator)
        assert len(str(refused.value)) < 2000
        (generator / "config.json").write_text(good)


def test_unknown_and_missing_keys_are_named(generator: Path) -> None:
    for keys in (
        ("surprise",),
        ("spec", "surprise"),
        ("codec", "surprise"),
        ("stages", "coarse", "transformer", "surprise"),
    ):
        good = (generator / "config.json").read_text()
        set_in(generator / "config.json", *keys, value=1)
        with pytest.raises(ValueError, match="surprise"):
            AudioLM.from_pretrained(generator)
        (generator / "config.json").write_text(good)
    for name in ("spec", "stages", "units_per_second"):
        content = json.loads(good)
        del content[name]
        (generator / "config.json").write_text(json.dumps(content))
        with pytest.raises(GeneratorError, match=name):
            AudioLM.from_pretrained(generator)


def test_a_stage_that_names_a_path_is_refused(generator: Path) -> None:
    content = json.loads((generator / "config.json").read_text())
    content["stages"]["../../elsewhere"] = content["stages"]["fine"]
    write_json(generator / "config.json", content)
    with pytest.raises(GeneratorError, match="elsewhere"):
        AudioLM.from_pretrained(generator)


def test_an_oversized_or_damaged_safetensors_header_is_refused(generator: Path) -> None:
    path = generator / "coarse.safetensors"
    good = path.read_bytes()
    for claimed in (2**60, 90 * 2**20, 2**64 - 1, 0, len(good)):
        path.write_bytes(struct.pack("<Q", claimed) + good[8:])
        with pytest.raises(GeneratorError, match="coarse.safetensors is damaged .*claims"):
            AudioLM.from_pretrained(generator)
    with open(path, "wb") as file:  # 90 MB that are there: a hole
        file.write(struct.pack("<Q", 90 * 2**20))
        file.truncate(91 * 2**20)
    with pytest.raises(GeneratorError, match="at most"):
        AudioLM.from_pretrained(generator)
    for header_text in (
        '{"a": {"dtype": "F32", "shape": [1000000000, 1000000000], "data_offsets": [0, 4]}}',
        "[" * 10**5,
        "[]",
    ):
        path.write_bytes(struct.pack("<Q", len(header_text)) + header_text.encode() + bytes(4))
        with pytest.raises(GeneratorError, match="coarse.safetensors is damaged"):
            AudioLM.from_pretrained(generator)


def test_json_that_is_huge_deep_or_no_file_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(2**30)
    with pytest.raises(ValueError, match=f"{2**30} bytes, at most {MOST_JSON_BYTES}"):
        read_json(path, made_by="a test")
    for text in ("[" * 10**6, '{"a":' * 10**5, "1" * 10**5, "NaN", "[Infinity]", "\ufeff{", '{"a": 1'):
        path.write_text(text)
        with pytest.raises(ValueError, match="config.json is not valid JSON"):
            read_json(path, made_by="a test")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="pipe"):
        read_json(path, made_by="a test")


# ------------------------------------------------------------------------------------------------------ token stores


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "tokens"
    create_store(folder, SPEC, {"codec": "a"})
    with TokenStoreWriter(folder) as writer:
        for number in range(3):
            writer.append(id=f"u{number}", speaker="s", split=("train", "validation", "test")[number], true_end=True,
                          units=torch.arange(5), codes=torch.zeros(SPEC.levels, 10, dtype=torch.int64))  # fmt: skip
    seal(folder, expected=["u0", "u1", "u2"])
    return folder


@pytest.mark.parametrize("name", ["units_at", "frames_at", "units", "frames", "part", "split"])
def test_an_index_that_points_outside_of_its_part_is_refused(store: Path, name: str) -> None:
    index = np.load(store / "index.npy")
    for value in (2**8 - 1, 2**31, 2**63, 2**64 - 5):
        spoilt = index.copy()
        spoilt[name][1] = value % 2 ** (8 * index.dtype[name].itemsize) or 99
        np.save(store / "index.npy", spoilt)
        with pytest.raises(StoreError, match="row 1 of .*index.npy"):
            TokenStore(store)


def test_an_index_of_another_kind_is_refused(store: Path) -> None:
    index = np.load(store / "index.npy")
    np.savez(store / "other.npz", index=index)
    others: list[Callable[[], Any]] = [
        lambda: np.save(store / "index.npy", index.astype(object), allow_pickle=True),
        lambda: np.save(store / "index.npy", index.reshape(3, 1)),
        lambda: np.save(store / "index.npy", np.asfortranarray(np.zeros((3, 3)))),
        lambda: np.save(store / "index.npy", index[:2]),
        lambda: np.save(store / "index.npy", np.zeros((), INDEX_TYPE)),
        lambda: (store / "index.npy").write_bytes((store / "other.npz").read_bytes()),
        lambda: (store / "index.npy").write_bytes(b""),
        lambda: (store / "index.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00{'descr': (((((("),
    ]
    for spoil in others:
        spoil()
        with pytest.raises(StoreError, match="index.npy"):
            TokenStore(store)


def test_sealed_json_names_parts_inside_the_store_only(store: Path) -> None:
    good = json.loads((store / "sealed.json").read_text())
    sizes = good["bytes"]["rank0-0000"]
    for name in ("../rank0-0000", "/etc/passwd", "..", "a/b", "a\0", ""):
        write_json(store / "sealed.json", good | {"parts": [name], "bytes": {name: sizes}})
        with pytest.raises(StoreError, match="sealed.json is damaged: its parts"):
            TokenStore(store)


@pytest.mark.parametrize("name", ["digest", "utterances", "parts", "bytes"])
def test_every_value_of_sealed_json_is_checked(store: Path, name: str) -> None:
    good = json.loads((store / "sealed.json").read_text())
    for value in (
        None,
        -1,
        1.5,
        True,
        [1],
        {"a": 1},
        {"rank0-0000": [1]},
        {"rank0-0000": [-1, 2]},
        {"rank0-0000": "ab"},
    ):
        write_json(store / "sealed.json", good | {name: value})
        with pytest.raises(StoreError, match="sealed"):
            TokenStore(store)
    write_json(store / "sealed.json", {key: value for key, value in good.items() if key != name})
    with pytest.raises(StoreError, match=f"its .*{name}"):
        TokenStore(store)


def test_ids_beyond_the_vocabulary_are_refused_where_they_are_read(store: Path) -> None:
    for suffix in ("units", "codes"):
        path = store / "parts" / f"rank0-0000.{suffix}"
        path.write_bytes(b"\xff" * path.stat().st_size)
    opened = TokenStore(store)
    for read, limit in ((opened.units, SPEC.clusters), (opened.codes, SPEC.codebook_size)):
        with pytest.raises(StoreError, match=f"id 65535, the store's spec allows 0 to {limit - 1}"):
            read(0)


def test_lists_of_names_of_another_length_are_refused(store: Path) -> None:
    for content in ('"u0"\n', "", "3\n3\n3\n", "{\n[\n1\n", '"a"\n"b"\n"c"\n"d"\n', "\xff"):
        (store / "ids.txt").write_text(content, encoding="latin-1")
        with pytest.raises(StoreError, match="ids.txt"):
            _ = TokenStore(store).ids
    (store / "speakers.txt").write_text("")
    with pytest.raises(StoreError, match="speakers.txt"):
        _ = TokenStore(store).speakers


LINE = {
    "id": "a",
    "speaker": "s",
    "split": "train",
    "true_end": True,
    "units_at": 0,
    "units": 1,
    "frames_at": 0,
    "frames": 1,
}


@pytest.mark.parametrize(
    "line",
    [
        "[]", "{}", "3", "[" * 10**5, *(json.dumps(LINE | change) for change in (
            {"id": 1}, {"units_at": -4}, {"units": 1.5}, {"frames": True}, {"frames_at": 2**70}, {"split": "dev"},
            {"true_end": 1}, {"x": 1},
        )),
    ],
)  # fmt: skip
def test_a_damaged_line_of_a_part_is_named(store: Path, line: str) -> None:
    with open(store / "parts" / "rank0-0000.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(StoreError, match="rank0-0000.jsonl is damaged"):
        seal(store, expected=["u0"])


@pytest.mark.parametrize("name", list(SPEC.as_dict()))
def test_every_number_of_a_spec_is_checked(name: str) -> None:
    for value in HUGE:
        with pytest.raises(ValueError, match="a file.*must be|a file: "):
            TokenSpec.from_dict(SPEC.as_dict() | {name: value}, source="a file")


# --------------------------------------------------------------------------------------------- manifests and prompts


GOOD = Utterance("s/u", "s/u.flac", "s", "train", 0, 16000, 16000, True, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../u.flac"}, {"path": "/etc/passwd"}, {"path": "s/../../u.flac"}, {"path": ""}, {"path": "a\0b"},
        {"path": None},
        {"id": "../u"}, {"id": "/tmp/u"}, {"id": 3}, {"speaker": None}, {"split": "dev"}, {"split": ["train"]},
        {"start": -1}, {"start": 1.5}, {"samples": 0}, {"samples": 10**30}, {"samples": True}, {"sample_rate_hz": 0},
        {"true_end": 1}, {"dc_offset": float("nan")}, {"dc_offset": "0"}, {"dc_offset": 1e300},
    ],
)  # fmt: skip
def test_a_manifest_with_a_digest_that_fits_is_still_checked_line_by_line(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """The digest tells of accidents only: whoever wants to harm computes one."""
    bad = {name: getattr(GOOD, name) for name in GOOD.__slots__} | change
    body = json.dumps(bad) + "\n"
    head = {"format": "audiolm-manifest", "version": 1, "root": "/corpus", "utterances": 1}
    head["digest"] = hashlib.sha256(body.encode()).hexdigest()
    (tmp_path / "manifest.jsonl").write_text(json.dumps(head) + "\n" + body)
    with pytest.raises(ManifestError, match="audiolm prepare"):
        read_manifest(tmp_path / "manifest.jsonl")


def test_audio_is_written_below_its_folder_only(tmp_path: Path) -> None:
    outputs = OutputFolder(tmp_path / "out", {})
    assert outputs.row_path("s/u@16000") == tmp_path / "out" / "s" / "u@16000.wav.json"
    for id_ in ("../u", "/tmp/u", "s/../../u", "", ".."):
        with pytest.raises(ValueError, match="below its folder"):
            outputs.audio_path(id_)


def test_sampling_of_another_kind_is_refused() -> None:
    for settings in ({"coarse": {"temperature": "hot"}}, {"coarse": {"top_k": 1.5}}, {"coarse": {"top_k": True}},
                     {"coarse": {"heat": 1}}, {"course": {}}, {"coarse": 3},
                     {"coarse": {"temperature": float("nan")}}):  # fmt: skip
        with pytest.raises(ValueError, match="coarse"):
            stage_sampling(settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("time_text", ["1e999999999", "1e-999999999", "9" * 500, "nan", "inf", "1/3", "1_0", "٣", "-1"])
def test_a_time_that_would_take_gigabytes_to_write_down_is_refused(tmp_path: Path, time_text: str) -> None:
    (tmp_path / "a.item").write_text(f"#\nf {time_text} 9 AA B K s\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 of"):
        read_items(tmp_path / "a.item")


# ------------------------------------------------------------------------------------------------------------- audio


def test_a_pipe_a_device_and_a_folder_are_no_recordings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.wav").symlink_to("/dev/zero")
    (tmp_path / "folder.wav").mkdir()
    for name, reason in (("pipe", "not a file"), ("link", "not a file"), ("folder", "a folder")):
        with pytest.raises(AudioError) as refused:
            audio_info(tmp_path / f"{name}.wav")
        assert refused.value.reason == reason


def wav(*, channels: int = 1, rate_hz: int = 16000, data_bytes: int = 2000, there: int = 2000) -> bytes:
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, (rate_hz * channels * 2) % 2**32, channels * 2 % 2**16, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", data_bytes) + bytes(there)
    return b"RIFF" + struct.pack("<I", min(len(body), 2**32 - 1)) + body


@pytest.mark.parametrize(
    "content",
    [
        wav(data_bytes=2**32 - 2), wav(channels=65535), wav(channels=0), wav(rate_hz=0), wav(rate_hz=2**32 - 1), wav(rate_hz=1),
        wav()[:30], b"", b"RIFF", bytes(5000),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused_or_believed_no_further_than_the_data(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    try:
        audio = read_audio(tmp_path / "a.wav", sample_rate_hz=16000)
    except AudioError:
        return
    assert len(audio) <= 1000  # what is there


def test_a_flac_that_claims_to_last_for_years_is_truncated_not_allocated(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", tones_and_noise(8000), sample_rate_hz=16000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] |= 0x0F  # the 36 bits of STREAMINFO that count the samples begin here
    (tmp_path / "a.flac").write_bytes(content)
    assert audio_info(tmp_path / "a.flac").samples > 2**34
    with pytest.raises(AudioError, match="in one piece|more than"):
        read_audio(tmp_path / "a.flac", sample_rate_hz=16000)
    with pytest.raises(AudioError, match="truncated|cannot be read"):
        read_audio(tmp_path / "a.flac", sample_rate_hz=16000, samples=2**27)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.opus", "a.wav", "a.aiff"])
def test_a_cut_off_recording_is_refused_or_shorter(tmp_path: Path, name: str) -> None:
    write_audio(tmp_path / name, tones_and_noise(16000), sample_rate_hz=16000)
    content = (tmp_path / name).read_bytes()
    for length in (1, 40, len(content) // 3, len(content) - 3):
        (tmp_path / name).write_bytes(content[:length])
        try:
            assert len(read_prompt(tmp_path / name, sample_rate_hz=16000)) <= 16000
        except AudioError as error:
            assert name in str(error)  # noqa: PT017


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    audio = np.zeros(16000, np.float32)
    audio[12345] = value
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinite"):
        read_audio(tmp_path / "a.wav", sample_rate_hz=16000)


def test_many_channels_are_read_block_by_block(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (40_000, 200)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav", sample_rate_hz=16000)
    torch.testing.assert_close(read, torch.from_numpy(audio).mean(1), atol=1e-7, rtol=0)
