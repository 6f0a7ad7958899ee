"""`audiolm evaluate table1`: its rows are those of the single measures, its folder goes on, and what is missing is said first."""

import csv
import itertools
import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from tiny import SPEC, tiny_codec, tiny_tokenizer, tones_and_noise

from audiolm.audio import read_audio, write_audio
from audiolm.checkpoint import HEADER, StageCheckpoint, header
from audiolm.codec.detokenizer import MADE_BY, Detokenizer, DetokenizerConfig
from audiolm.evaluation import perceptual
from audiolm.evaluation.abx import AbxSettings, measure_abx
from audiolm.evaluation.abx_items import read_items
from audiolm.evaluation.detokenized import DetokenizedCodec
from audiolm.evaluation.feature_sources import codec_source, load_tokenizer, tokenizer_source
from audiolm.evaluation.kept_tokens import KeptTokens
from audiolm.evaluation.point_labels import Label, place_labels
from audiolm.evaluation.reconstruction import mel_distance
from audiolm.evaluation.table1_rows import TABLE_1, claim_words, orderings
from audiolm.evaluation.which_codec import load_codec
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.verbs import run_verb

STEMS = ("one", "Two", "two")
LEVELS = {"units": 1, "residual-units": 3, "coarse-codes": SPEC.coarse_levels, "all-codes": SPEC.levels}


def residual_tokenizer() -> SemanticTokenizer:
    tokenizer = SemanticTokenizer(tiny_tokenizer().encoder, clusters=SPEC.clusters, levels=3)
    first = tiny_tokenizer()
    tokenizer.mean.copy_(first.mean)
    tokenizer.deviation.copy_(first.deviation)
    tokenizer.centroids[0] = first.centroids[0]
    random = torch.Generator().manual_seed(0)
    tokenizer.centroids[1:] = 0.5 * torch.randn(2, SPEC.clusters, tokenizer.encoder.dim, generator=random)
    return tokenizer.eval()


def write_checkpoint(
    root: Path, stage: str, module: torch.nn.Module, config: dict[str, Any], sources: dict[str, str]
) -> str:
    """What a stage would have left in `root`; gives its digest."""
    weights = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    (root / stage).mkdir(parents=True, exist_ok=True)
    torch.save({HEADER: header(stage, config, sources), "state_dict": weights}, root / stage / "best.ckpt")
    return StageCheckpoint(stage, config, dict(module.state_dict())).digest


def write_detokenizer(root: Path, stage: str, digest: str, *, levels: int, seed: int = 0) -> None:
    made_by = MADE_BY[stage]  # type: ignore[index]
    vocabulary, hop = (SPEC.codebook_size, 320) if made_by == "codec" else (SPEC.clusters, 640)
    torch.manual_seed(seed)
    module = Detokenizer(DetokenizerConfig(vocabulary, levels, hop, channels=2, dim=8))
    write_checkpoint(root, stage, module, module.config.as_dict(), {made_by: digest})


def write_chain(folder: Path) -> Path:
    """A chain with the four kinds of tokens and untrained decoders; and, beside it, three recordings and their items."""
    root, digests = folder / "root", {}
    modules = {"tokenizer": tiny_tokenizer(), "residual_tokenizer": residual_tokenizer(), "codec": tiny_codec()}
    for stage, module in modules.items():
        digests[stage] = write_checkpoint(root, stage, module, module.config_dict(), {})
    for token in TABLE_1:
        made_by = MADE_BY[token.detokenizer]
        write_detokenizer(root, token.detokenizer, digests[made_by], levels=LEVELS[token.name])
    for number, stem in enumerate(STEMS):
        audio = tones_and_noise(16000 + 400 * number, seed=number)
        write_audio(folder / "audio" / f"deep{number}" / f"{stem}.flac", audio, sample_rate_hz=16000)
    rows = [
        f"{stem} {0.2 * place:.2f} {0.2 * place + 0.2:.2f} {'PQ'[place % 2]} L R s{number // 2}"
        for number, stem in enumerate(STEMS)
        for place in range(5)
    ]
    (folder / "test.item").write_text("\n".join(["#header", *rows, ""]))
    return root


def run_table1(root: Path, *arguments: str, measures: str = "mel") -> list[dict[str, Any]]:
    """Run the verb, by default measuring mel distance only; gives the rows that it wrote."""
    common = ["--items", str(root.parent / "test.item"), "--audio", str(root.parent / "audio"), "--root", str(root)]
    common += ["--device", "cpu", "--workers", "1", "--measures", *measures.split()]
    run_verb(["evaluate", "table1", *common, *arguments])
    return summary(root)["rows"]  # type: ignore[no-any-return]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A chain of `write_chain` to change."""
    return write_chain(tmp_path)


@pytest.fixture
def table1(root: Path) -> Callable[..., list[dict[str, Any]]]:
    """`run_table1` on that chain."""
    return lambda *arguments, **options: run_table1(root, *arguments, **options)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Another such chain, not to be changed, and all its rows by name."""
    root = write_chain(tmp_path_factory.mktemp("table1"))
    return root, {row["tokens"]: row for row in run_table1(root)}


def summary(root: Path) -> dict[str, Any]:
    return json.loads((root / "evaluation" / "table1" / "summary.json").read_text())  # type: ignore[no-any-return]


def recordings(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in (root.parent / "audio").rglob("*.flac")}


# ------------------------------------------------------------------------------------------------ rows


Measured = tuple[Path, dict[str, dict[str, Any]]]


def check_errors(root: Path, rows: dict[str, dict[str, Any]], *, frames: str) -> None:
    sources = {
        "units": tokenizer_source(tiny_tokenizer(), recordings(root), units=True),
        "residual-units": tokenizer_source(
            load_tokenizer(root / "residual_tokenizer" / "best.ckpt"), recordings(root), units=True
        ),
        "coarse-codes": codec_source(tiny_codec(), recordings(root), levels=SPEC.coarse_levels),
        "all-codes": codec_source(tiny_codec(), recordings(root)),
    }
    settings = AbxSettings(contexts=("within",), frames=frames)  # type: ignore[arg-type]
    items = read_items(root.parent / "test.item")
    for name, row in rows.items():
        source = sources[name]
        expected = measure_abx(items, source.features, rate_hz=source.rate_hz, settings=settings)
        for speakers in ("within", "across"):
            error = expected.score("within", speakers).error  # type: ignore[arg-type]
            assert error is not None
            assert row[f"abx_{speakers}"] == pytest.approx(100 * error)
    assert summary(root)["settings"]["abx"]["frames"] == frames


def test_errors_are_those_of_the_quantised_vectors_by_the_papers_frames(measured: Measured) -> None:
    root, rows = measured
    assert list(rows) == ["units", "residual-units", "coarse-codes", "all-codes"]
    assert len({row["abx_within"] for row in rows.values()}) > 1
    check_errors(root, rows, frames="libri-light")
    assert "without its last one" in summary(root)["protocol"]["abx"]


def test_errors_by_corrected_frames_are_there_when_asked_for(root: Path, table1: Callable[..., Any]) -> None:
    (row,) = table1("--frames", "corrected", "--only", "all-codes")
    check_errors(root, {"all-codes": row}, frames="corrected")


def test_bitrates_are_nominal_and_as_the_tokens_are_used(measured: Measured) -> None:
    root, rows = measured
    for name, (codebook, rate_hz) in {"units": (12, 25), "residual-units": (12, 25), "all-codes": (16, 50)}.items():
        assert rows[name]["levels"] == LEVELS[name]
        assert rows[name]["bitrate_bps"] == pytest.approx(rate_hz * LEVELS[name] * math.log2(codebook))
    audio = [read_audio(path, sample_rate_hz=16000)[None] for path in recordings(root).values()]
    units = torch.cat([tiny_tokenizer().encode(recording)[0] for recording in audio])
    shares = np.unique(units.numpy(), return_counts=True)[1] / len(units)
    assert rows["units"]["entropy_bps"] == pytest.approx(25 * -(shares * np.log2(shares)).sum())
    for row in rows.values():
        assert 0 < row["entropy_bps"] <= row["bitrate_bps"]
    assert rows["units"]["paper_bitrate_bps"] == 250
    assert rows["residual-units"]["paper_abx_within"] == 5.6


def test_audio_is_what_the_detokenizer_makes_of_all_levels(measured: Measured) -> None:
    root, rows = measured
    for token in TABLE_1:
        codec = load_codec(root / token.detokenizer)
        distances = []
        for path in recordings(root).values():
            audio = read_audio(path, sample_rate_hz=16000)[None]
            rebuilt = codec.decode(codec.encode(audio))[:, : audio.size(1)]
            distances.append(float(mel_distance(rebuilt, audio, sample_rate_hz=16000)))
        assert rows[token.name]["mel"] == pytest.approx(np.mean(distances), rel=1e-4)
        assert rows[token.name]["mel_clips"] == 3
        assert rows[token.name]["visqol"] is None


def test_visqol_is_named_with_its_mapping(
    root: Path, table1: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("visqol", reason="the extra `evaluation` is not installed")
    rows = table1("--only", "units", "coarse-codes", measures="visqol mel")
    printed = capsys.readouterr().out
    assert all(1 <= row["visqol"] <= 5 and row["mel"] > 0 for row in rows)
    assert "ViSQOL (polynomial)" in printed
    assert "mapping polynomial" in summary(root)["protocol"]["visqol"]
    assert "the paper's" in printed
    out = root / "evaluation" / "table1"
    with open(out / "table1.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["tokens"] for row in written] == ["units", "coarse-codes"]
    assert float(written[0]["visqol"]) == rows[0]["visqol"]
    svg = (out / "table1.svg").read_text()
    assert "ours" in svg
    assert "polynomial" in svg


# ------------------------------------------------------------------------------------------------ orderings


def papers_rows() -> list[dict[str, Any]]:
    return [{"tokens": token.name, **token.paper} for token in TABLE_1]


def test_the_papers_own_numbers_show_all_its_orderings() -> None:
    assert all(ordering["seen"] is True for ordering in orderings(papers_rows()))


def test_an_ordering_that_is_not_seen_or_not_measured_is_said_so() -> None:
    rows = papers_rows()
    rows[0]["abx_across"] = 27.0  # units: above all codes' 26.6, below coarse codes' 28.7
    rows[1]["visqol"] = None
    found = {ordering["claim"]: ordering for ordering in orderings(rows)}
    phones = found["units keep phones apart better than codes"]
    assert phones["seen"] is False
    assert [c["seen"] for c in phones["comparisons"]].count(False) == 1
    assert "NOT seen" in claim_words(phones)
    assert "ABX across: units 27, all-codes 26.6 (the other way round)" in claim_words(phones)
    assert found["codes sound better than units"]["seen"] is True
    between = found["residual units sound better than units and worse than codes"]
    assert between["seen"] is None
    assert claim_words(between).endswith("not measured")
    assert all(ordering["seen"] is None for ordering in orderings([]))


# ------------------------------------------------------------------------------------------------ its folder


def test_what_was_measured_is_not_computed_again(
    root: Path, table1: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = table1("--only", "units", "all-codes")
    monkeypatch.setattr(DetokenizedCodec, "encode", lambda *_: pytest.fail("encoded again"))
    assert table1("--only", "all-codes", "units") == first
    assert table1("--only", "all-codes") == first


def test_rows_of_other_kinds_stay_and_are_of_the_same_models(root: Path, table1: Callable[..., Any]) -> None:
    (codes,) = table1("--only", "all-codes")
    both = table1("--only", "units")
    assert [row["tokens"] for row in both] == ["units", "all-codes"]
    assert both[1] == codes
    written = list(csv.DictReader((root / "evaluation" / "table1" / "table1.csv").open()))
    assert [row["tokens"] for row in written] == ["units", "all-codes"]
    content = torch.load(root / "detokenizer_all_codes" / "best.ckpt", weights_only=True)
    levels, digest = LEVELS["all-codes"], content[HEADER]["sources"]["codec"]
    write_detokenizer(root, "detokenizer_all_codes", digest, levels=levels, seed=1)
    with pytest.raises(ValueError, match=r"all-codes/codec holds measurements of other things: codec_digest"):
        table1("--only", "units")
    assert summary(root)["rows"] == both


def test_a_run_that_was_killed_goes_on_with_the_next_recording(
    root: Path, table1: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = DetokenizedCodec.encode, []

    def dies(self: DetokenizedCodec, audio: torch.Tensor) -> torch.Tensor:
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(audio)
        return encode(self, audio)

    monkeypatch.setattr(DetokenizedCodec, "encode", dies)
    with pytest.raises(KeyboardInterrupt):
        table1("--only", "coarse-codes")
    out = root / "evaluation" / "table1" / "coarse-codes"
    assert len(list((out / "abx" / "tokens").glob("*.npy"))) == 2
    encoded.clear()

    def counts(self: DetokenizedCodec, audio: torch.Tensor) -> torch.Tensor:
        encoded.append(audio)
        return encode(self, audio)

    monkeypatch.setattr(DetokenizedCodec, "encode", counts)
    (row,) = table1("--only", "coarse-codes")
    assert len(encoded) == 1 + 3  # one recording of three for ABX, then three clips to decode
    monkeypatch.undo()
    (root / "evaluation" / "table1").rename(root / "other")
    assert table1("--only", "coarse-codes") == [row]


def test_other_settings_audio_and_models_are_refused(root: Path, table1: Callable[..., Any]) -> None:
    table1("--only", "units")
    for arguments, word in ((("--frames", "corrected"), "abx"), (("--max-seconds", "0.5"), "clips_digest")):
        with pytest.raises(ValueError, match=f"measurements of other things.*{word}"):
            table1("--only", "units", *arguments)
    with pytest.raises(ValueError, match="measurements of other things: measures"):
        table1("--only", "units", measures="mel si_sdr")
    settings = json.loads((root / "evaluation" / "table1" / "units" / "codec" / "settings.json").read_text())
    assert settings["codec"]["kind"] == "detokenized"
    content = torch.load(root / "detokenizer_units" / "best.ckpt", weights_only=True)
    write_detokenizer(root, "detokenizer_units", content[HEADER]["sources"]["tokenizer"], levels=1, seed=1)
    with pytest.raises(ValueError, match=r"units/codec holds measurements of other things: codec_digest"):
        table1("--only", "units")


def test_kept_tokens_that_are_damaged_are_refused_by_name(root: Path) -> None:
    codec = load_codec(root / "detokenizer_residual")
    folder = root / "tokens"
    kept = KeptTokens(codec, recordings(root), folder)
    assert kept.rate_hz == Fraction(25)
    first = kept.features("one")
    assert torch.equal(KeptTokens(codec, {}, folder).features("one"), first)  # of the file alone
    whole = np.load(folder / "one.npy")
    assert (whole.dtype, len(whole)) == (np.uint16, 3)
    for damaged in (whole[:2], whole.astype(np.int64), whole + SPEC.clusters):
        np.save(folder / "one.npy", damaged)
        with pytest.raises(ValueError, match=r"one\.npy does not hold the tokens .* Remove it"):
            KeptTokens(codec, recordings(root), folder).features("one")
    (folder / "one.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"one\.npy does not hold the tokens"):
        KeptTokens(codec, recordings(root), folder).features("one")


# ------------------------------------------------------------------------------------------------ errors come first


def test_missing_checkpoints_are_named_with_the_commands_that_make_them(root: Path, table1: Callable[..., Any]) -> None:
    (root / "chain.json").write_text('{"preset": "demo"}')
    for stage in ("residual_tokenizer", "detokenizer_residual", "detokenizer_codes"):
        (root / stage / "best.ckpt").unlink()
    with pytest.raises(FileNotFoundError) as raised:
        table1()
    message = str(raised.value)
    assert "2 of 4 rows" in message
    residual = (
        "residual-units: `lightning fit -c stages/residual_tokenizer.yaml -c stages/demo/residual_tokenizer.yaml --root .*`, "
        "then `lightning fit -c stages/detokenizer_residual.yaml -c stages/demo/detokenizer_residual.yaml --root"
    )
    assert re.search(residual, message)
    assert "coarse-codes: `lightning fit -c stages/detokenizer_codes.yaml" in message
    assert "all-codes" not in message
    assert not (root / "evaluation").exists()
    assert [row["tokens"] for row in table1("--only", "units", "all-codes")] == ["units", "all-codes"]
    (root / "codec" / "best.ckpt").unlink()
    with pytest.raises(
        FileNotFoundError, match="all-codes: `lightning fit -c stages/codec.yaml -c stages/demo/codec.yaml"
    ):
        table1("--only", "all-codes")


def test_bad_input_is_said_before_anything_is_written(
    root: Path, table1: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, word in (
        (("--only", "codes"), "no row codes: choose among units"),
        (("--limit", "0"), "--limit must be positive"),
        (("--measures", "loudness"), "no measure loudness"),
        (("--visqol-mapping", "cubic"), "no ViSQOL mapping"),
        (("--frames", "wrong"), "no rule for frames"),
        (("--context", "none"), "no context"),
        (("--data", str(root), "--split", "test"), "give one of them"),
    ):
        with pytest.raises(ValueError, match=word):
            table1(*arguments)
    codec = tiny_codec()
    with torch.no_grad():
        next(codec.parameters()).add_(1)
    write_checkpoint(root, "codec", codec, codec.config_dict(), {})
    with pytest.raises(ValueError, match="tokens of another codec"):
        table1()
    assert not (root / "evaluation" / "table1" / "units" / "abx" / "abx.json").exists()
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="make setup-evaluation"):
        table1("--only", "units", measures="visqol")


def test_labels_of_close_points_cover_neither_each_other_nor_a_point() -> None:
    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    places = [(1.0, 1.0), (1.01, 1.01), (0.99, 1.03), (2.0, 0.0), (0.0, 2.0)]
    axes.plot(*zip(*places, strict=True), "o")
    place_labels(figure, axes, [Label(f"point {number}", place, "black") for number, place in enumerate(places)])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(places)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    at = [axes.transData.transform(place) for place in places]
    assert not any(box.contains(*point) for box in boxes for point in at)
    assert all(axes.bbox.fully_contains(x, y) for box in boxes for x, y in box.corners())


def test_where_no_place_is_free_every_label_is_written() -> None:
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.plot([1], [1], "o")
    place_labels(figure, axes, [Label("a long name", (1, 1), "black")] * 12)
    assert len(axes.texts) == 12
