"""`audiolm evaluate abx`: its sources of features, its folder of results, and its errors."""

import csv
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_codec, tiny_tokenizer, tones_and_noise
from torch import Tensor

from audiolm.audio import read_audio, write_audio
from audiolm.checkpoint import HEADER, header
from audiolm.evaluation.feature_sources import codec_source, encoder_source, folder_source, tokenizer_source
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.verbs import run_verb

STEMS = ("one", "Two", "two")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings of two speakers, an item file over them, and a tokenizer's and a codec's checkpoint."""
    folder = tmp_path_factory.mktemp("abx")
    for number, stem in enumerate(STEMS):
        audio = tones_and_noise(16000 + 400 * number, seed=number)
        write_audio(folder / "audio" / f"deep{number}" / f"{stem}.flac", audio, sample_rate_hz=16000)
    rows = [
        f"{stem} {0.2 * place:.2f} {0.2 * place + 0.2:.2f} {'PQ'[place % 2]} L R s{number // 2}"
        for number, stem in enumerate(STEMS)
        for place in range(5)
    ]
    (folder / "test.item").write_text("\n".join(["#header", *rows, ""]))
    tokenizer, codec = tiny_tokenizer(), tiny_codec()
    for stage, model, config in (
        ("tokenizer", tokenizer, tokenizer.config_dict()),
        ("codec", codec, codec.config_dict()),
    ):
        (folder / "root" / stage).mkdir(parents=True)
        weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        content = {HEADER: header(stage, config, {}), "state_dict": weights}
        torch.save(content, folder / "root" / stage / "best.ckpt")
    return folder


@pytest.fixture
def abx(data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Runs the verb; gives the folder that it wrote."""

    def run(*arguments: str, items: Path = data / "test.item", audio: Path | None = data / "audio") -> Path:
        folder = ["--audio", str(audio)] if audio else []
        common = ["--items", str(items), *folder, "--root", str(data / "root"), "--out", str(tmp_path / "out")]
        run_verb(["evaluate", "abx", *common, "--device", "cpu", *arguments])
        return tmp_path / "out"

    return run


def recordings(data: Path) -> dict[str, Path]:
    return {path.stem: path for path in (data / "audio").rglob("*.flac")}


def audio_of(data: Path, stem: str) -> Tensor:
    return read_audio(recordings(data)[stem], sample_rate_hz=16000)[None]


# ------------------------------------------------------------------------------------------------ sources


def test_encoder_features_are_those_of_the_layer(data: Path) -> None:
    source = encoder_source(MfccEncoder(rate_hz=50), recordings(data))
    assert source.rate_hz == 50
    assert torch.equal(source.features("Two"), MfccEncoder(rate_hz=50)(audio_of(data, "Two"))[0])
    with pytest.raises(ValueError, match="no layer"):
        encoder_source(MfccEncoder(), recordings(data), layer=3)


def test_a_tokenizer_gives_normalised_features_or_the_centroids_of_its_units(data: Path) -> None:
    tokenizer = tiny_tokenizer()
    features = tokenizer_source(tokenizer, recordings(data), units=False).features("one")
    units = tokenizer_source(tokenizer, recordings(data), units=True).features("one")
    assert torch.allclose(features, tokenizer.normalize(tokenizer.encoder(audio_of(data, "one"))[0]))
    assert features.shape == units.shape
    nearest = torch.cdist(features.double(), tokenizer.centroids[0].double()).argmin(1)
    assert torch.equal(units, tokenizer.centroids[0][nearest])


def test_a_codec_gives_the_sum_of_its_first_levels(data: Path) -> None:
    codec = tiny_codec()
    source = codec_source(codec, recordings(data), levels=2)
    assert source.rate_hz == Fraction(codec.sample_rate_hz, codec.hop_samples)
    codes = codec.encode(audio_of(data, "two"))[:, :2]
    assert torch.equal(source.features("two"), codec.embed(codes)[0].t())
    assert not torch.equal(codec_source(codec, recordings(data)).features("two"), source.features("two"))
    with pytest.raises(ValueError, match="1 to 4 levels, got 5"):
        codec_source(codec, recordings(data), levels=5)


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".txt"])
def test_feature_files_of_every_kind_are_found_and_read(tmp_path: Path, suffix: str) -> None:
    matrix = torch.randn(7, 3, dtype=torch.float64)
    path = tmp_path / "deeper" / f"one{suffix}"
    write_features(path, matrix)
    assert torch.allclose(folder_source(tmp_path, ["one"], rate_hz=Fraction(50)).features("one"), matrix)


def write_features(path: Path, matrix: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pt":
        torch.save(matrix, path)
    elif path.suffix == ".npy":
        np.save(path, matrix.numpy())
    else:
        np.savetxt(path, matrix.numpy())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("one.npy", b"nothing of the kind", "one.npy cannot be read as a matrix"),
        ("one.pt", b"nothing of the kind", "one.pt cannot be read as a matrix"),
        ("one.txt", b"1 2\n3\n", "one.txt cannot be read as a matrix"),
        ("One.txt", b"1 2\n", "1 of 1 files .* first is 'one'"),
    ],
)
def test_feature_files_that_are_damaged_or_missing_are_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        folder_source(tmp_path, ["one"], rate_hz=Fraction(50)).features("one")


def test_a_tensor_that_is_no_matrix_and_a_name_that_is_there_twice_are_refused(tmp_path: Path) -> None:
    write_features(tmp_path / "one.npy", torch.zeros(1, 7, 3))
    with pytest.raises(ValueError, match=r"holds \(1, 7, 3\), expected one matrix"):
        folder_source(tmp_path, ["one"], rate_hz=Fraction(50)).features("one")
    write_features(tmp_path / "deeper" / "one.npy", torch.zeros(7, 3))
    with pytest.raises(ValueError, match="two files .* are called one"):
        folder_source(tmp_path, ["one"], rate_hz=Fraction(50))


# ------------------------------------------------------------------------------------------------ the verb


@pytest.mark.parametrize(
    ("arguments", "rate_hz"),
    [
        (("mfcc", "--rate-hz", "100"), 100),
        (("encoder", "--layer", "0", "--normalize"), 25),
        (("features", "--frames", "libri-light"), 25),
        (("units", "--distance", "euclidian"), 25),
        (("codes", "--levels", "1"), 50),
    ],
)
def test_every_source_gives_a_folder_of_results(
    abx: Callable[..., Path], arguments: tuple[str, ...], rate_hz: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = abx("--features", *arguments)
    scores = json.loads((out / "ABX_scores.json").read_text())
    assert set(scores) == {"within", "across"}
    assert all(0 <= error <= 1 for error in scores.values())
    result = json.loads((out / "abx.json").read_text())
    assert [(score["context"], score["speakers"]) for score in result["scores"]] == [
        ("within", "within"),
        ("within", "across"),
        ("any", "within"),
        ("any", "across"),
    ]
    assert result["settings"] == json.loads((out / "ABX_args.json").read_text())
    assert result["settings"]["rate_hz"] == rate_hz
    with open(out / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["phone_a"], row["phone_b"]) for row in rows} == {("P", "Q"), ("Q", "P")}
    within = [float(row["error"]) for row in rows if (row["context"], row["speakers"]) == ("within", "within")]
    assert sum(within) / len(within) == pytest.approx(scores["within"])
    printed = capsys.readouterr().out
    assert f"{100 * scores['across']:.2f}" in printed
    assert "triples per second" in printed


def test_features_written_to_files_score_as_they_do_from_audio(abx: Callable[..., Path], data: Path) -> None:
    expected = json.loads((abx("--features", "mfcc", "--rate-hz", "50") / "ABX_scores.json").read_text())
    folder = data / "written"
    for stem in STEMS:
        write_features(folder / f"{stem}.npy", MfccEncoder(rate_hz=50)(audio_of(data, stem))[0])
    for audio in (data / "audio", None):
        out = abx("--features", str(folder), "--rate-hz", "50", audio=audio)
        assert json.loads((out / "ABX_scores.json").read_text()) == pytest.approx(expected)
    for audio, message in ((data / "audio", "the rate is probably 50.0 Hz"), (None, "the rate is wrong")):
        with pytest.raises(ValueError, match=message):
            abx("--features", str(folder), "--rate-hz", "100", audio=audio)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "nowhere", "--rate-hz", "50"], "nowhere is not a folder of features"),
        (["--features", "unit"], r"unit is neither a kind of features \(mfcc, .*units, .* nor a folder"),
        (["--features", "."], r"give --rate-hz with \."),
        (["--features", "mfcc", "--layer", "2"], "--layer has no meaning with --features mfcc"),
        (["--features", "units", "--rate-hz", "50"], "--rate-hz has no meaning with --features units"),
        (["--features", "mfcc", "--rate-hz", "12.5"], "must divide 100"),
        (["--features", "encoder", "--layer", "1"], "no layer"),
        (["--features", "codes", "--levels", "9"], "1 to 4 levels, got 9"),
        (["--features", "mfcc", "--distance", "kl"], "some features are negative"),
        (["--features", "encoder", "--encoder", "some/name"], "needs --layer"),
    ],
)
def test_options_that_do_not_fit_are_refused(abx: Callable[..., Path], arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        abx(*arguments)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("one 0 0.2 P L R s\nthree 0 1 P L R s\nfour 0 1 P L R s", "2 of 3 files .* first is 'three'"),
        ("ONE 0 0.2 P L R s", "first is 'ONE'"),
        ("one 0.9 1.02 P L R s\none 0 1 P L R s", "1 items end after their recording does. .* lasts 1.0000 s"),
    ],
)
def test_items_that_do_not_fit_the_recordings_are_refused(
    abx: Callable[..., Path], tmp_path: Path, rows: str, message: str
) -> None:
    (tmp_path / "bad.item").write_text(f"#\n{rows}\n")
    with pytest.raises(ValueError, match=message):
        abx("--features", "mfcc", items=tmp_path / "bad.item")


def test_recordings_are_needed_and_their_names_are_unique(abx: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name their folder with --audio"):
        abx("--features", "mfcc", audio=None)
    for folder in "ab":
        for stem in STEMS:
            write_audio(tmp_path / "twice" / folder / f"{stem}.wav", tones_and_noise(16800), sample_rate_hz=16000)
    with pytest.raises(ValueError, match="two files .* are called one"):
        abx("--features", "mfcc", audio=tmp_path / "twice")


def test_a_silent_recording_scores_one_half(abx: Callable[..., Path], tmp_path: Path) -> None:
    for stem in STEMS:
        write_audio(tmp_path / "silence" / f"{stem}.wav", torch.zeros(16800), sample_rate_hz=16000)
    out = abx("--features", "codes", audio=tmp_path / "silence")
    scores: dict[str, Any] = json.loads((out / "ABX_scores.json").read_text())
    assert scores["across"] == pytest.approx(0.5, abs=0.2)
