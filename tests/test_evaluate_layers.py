"""`audiolm evaluate layers`: layers and units against the one-by-one way, the choice, who may use it, and bad input."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tones_and_noise
from torch import Tensor

from audiolm.audio import audio_info, read_audio, write_audio
from audiolm.checkpoint import load_stage_checkpoint
from audiolm.checksums import sidecar
from audiolm.corpus import prepare
from audiolm.evaluation.abx import AbxSettings, compare_items, measure_abx
from audiolm.evaluation.abx_items import Item
from audiolm.evaluation.alignments import Interval, frame_phones
from audiolm.evaluation.clips import folder_clips
from audiolm.evaluation.cluster_sweep import sweep_clusters
from audiolm.evaluation.feature_sources import load_encoder, tokenizer_source
from audiolm.evaluation.layer_frames import layer_groups
from audiolm.evaluation.layer_sweep import LayerSweep, Rule, sweep_layers
from audiolm.evaluation.unit_measures import phone_measures
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.encoders import EncoderConfig, make_encoder, trained_encoder
from audiolm.semantic.kmeans import fit_kmeans
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.semantic.selection import Selection, selection_digest, write_selection
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.verbs import run_verb

SETTINGS = AbxSettings()
SLOTS = 5  # items of 0.2 s in each recording


class Layered(Encoder):
    """MFCC as layer 2; noise that depends on the recording as the other layers."""

    sample_rate_hz, rate_hz, dim, layers, layer = 16000, 25, 39, 3, 0

    def __init__(self) -> None:
        super().__init__()
        self.mfcc, self.asked = MfccEncoder(), Counter[int]()

    def _hidden_states(self, audio: Tensor, samples: Tensor, layers: Sequence[int]) -> list[Tensor]:
        self.asked[audio.shape[1]] += 1
        good = self.mfcc(audio, samples)
        noise = torch.randn(good.shape, generator=torch.Generator().manual_seed(audio.shape[1]))
        states = [noise.cumsum(1), noise, good, -noise.cumsum(1)]
        return [states[layer] for layer in layers]

    def config_dict(self) -> dict[str, Any]:
        return {"kind": "layered", "layer": self.layer}


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings of three speakers; an item is a phone of its own frequency. Beside them other ones, to train on."""
    folder = tmp_path_factory.mktemp("layers")
    hertz, rows, phones = {"P": 300.0, "Q": 900.0, "R": 2200.0}, ["#header"], ["file\tstart\tend\tphone\tword"]
    for number in range(6):
        random = torch.Generator().manual_seed(number)
        spoken = [list(hertz)[(number + place) % 3] for place in range(SLOTS)]
        pitch = torch.tensor([hertz[phone] * (1 + 0.05 * (number // 2)) for phone in spoken])
        phase = 2 * torch.pi * torch.cumsum(pitch.repeat_interleave(3200) / 16000, 0)
        sound = 0.3 * torch.sin(phase) + 0.02 * torch.randn(16000, generator=random)
        name = f"deep/s{number // 2}-{number}.flac"
        write_audio(folder / "audio" / name, torch.cat([sound, torch.zeros(400 * number)]), sample_rate_hz=16000)
        for place, phone in enumerate(spoken):
            start, end = 0.2 * place, 0.2 * place + 0.2
            rows.append(f"{Path(name).stem} {start:.2f} {end:.2f} {phone} L R s{number // 2}")
            phones.append(f"{name}\t{start:.2f}\t{end:.2f}\t{phone}\tword")
    (folder / "test.item").write_text("\n".join([*rows, ""]))
    (folder / "phones.tsv").write_text("\n".join([*phones, ""]))
    for number in range(4):
        write_audio(folder / "train" / f"{number}.flac", tones_and_noise(24000, seed=number), sample_rate_hz=16000)
    return folder


def recordings(audio: Path) -> dict[str, Path]:
    return {path.stem: path for path in (audio / "audio").rglob("*.flac")}


def items(audio: Path) -> list[Item]:
    lines = (audio / "test.item").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return [Item(file, Fraction(start), Fraction(end), *rest) for file, start, end, *rest in fields]


def sweep(audio: Path, encoder: Encoder, **options: Any) -> LayerSweep:
    clips = folder_clips(audio / "train")
    common = {"layers": range(4), "rule": Rule(), "settings": SETTINGS, **options}
    return sweep_layers(encoder, items(audio), recordings(audio), clips, **common)


def one_layer(audio: Path, encoder: Encoder, layer: int) -> tuple[Callable[[str], Tensor], Tensor]:
    """The obvious way: all training frames in one matrix, whole recordings, one layer; and the normalised training frames."""

    def features(path: Path) -> Tensor:
        return encoder.hidden_states(read_audio(path, sample_rate_hz=16000)[None], layers=[layer])[0][0]

    train = torch.cat([features(path) for path in sorted((audio / "train").glob("*.flac"))])
    mean, deviation = train.mean(0), train.std(0, correction=0)
    found = recordings(audio)
    return lambda stem: (features(found[stem]) - mean) / deviation, (train - mean) / deviation


# ------------------------------------------------------------------------------------------------ the sweeps


def test_layers_score_as_each_alone_normalised_by_the_training_audio(audio: Path) -> None:
    found = sweep(audio, Layered())
    for layer in range(4):
        features, _ = one_layer(audio, Layered(), layer)
        expected = measure_abx(items(audio), features, rate_hz=25, settings=SETTINGS)
        assert (found.results[layer].items, found.results[layer].frames) == (expected.items, expected.frames)
        for ours, theirs in zip(found.results[layer].scores, expected.scores, strict=True):
            assert ours.error == pytest.approx(theirs.error, abs=1e-4)  # float64 statistics there, float32 here
            assert (ours.triples, ours.cells) == (theirs.triples, theirs.cells)


def test_the_layer_that_hears_wins_and_its_frames_are_kept(audio: Path) -> None:
    found = sweep(audio, Layered())
    assert found.best == 2
    assert Rule().error(found.results[2]) < 0.1 < Rule().error(found.results[1])
    again = compare_items(found.frames, settings=SETTINGS)
    assert [score.error for score in again.scores] == [score.error for score in found.results[2].scores]


def test_a_recording_is_heard_once_for_all_layers_or_once_per_group_where_memory_is_short(audio: Path) -> None:
    whole, narrow = Layered(), Layered()
    one, other = sweep(audio, whole), sweep(audio, narrow, memory_bytes=1)
    lengths = [audio_info(path).samples for path in recordings(audio).values()]
    assert {whole.asked[length] for length in lengths} == {1}
    assert {narrow.asked[length] for length in lengths} == {4}
    assert other.best == one.best
    for layer in range(4):
        assert [score.error for score in other.results[layer].scores] == [s.error for s in one.results[layer].scores]


def test_groups_of_layers_fit_the_memory_and_hold_every_layer_once(audio: Path) -> None:
    frames = 6 * 25  # 1 s in items of each recording
    for budget, largest in ((1, 1), (2 * frames * 39 * 4, 2), (2**40, 5)):
        groups = list(layer_groups(items(audio), range(5), rate_hz=25, dim=39, memory_bytes=budget))
        assert [layer for group in groups for layer in group] == list(range(5))
        assert max(map(len, groups)) == largest
    overlapping = [Item("one", Fraction(0), Fraction(10), "P", "L", "R", "s")] * 9  # 10 s, not 90
    groups = list(layer_groups(overlapping, range(4), rate_hz=25, dim=39, memory_bytes=2 * 250 * 39 * 4))
    assert [len(group) for group in groups] == [2, 2]


@pytest.mark.filterwarnings("ignore:.* are few")
def test_units_score_as_a_tokenizer_with_those_centroids_does(audio: Path) -> None:
    encoder = Layered()
    found = sweep(audio, encoder)
    results = sweep_clusters(
        encoder, found, folder_clips(audio / "train"), clusters=[4, 9], settings=SETTINGS, max_frames=10**6
    )
    for result in results:
        _, train = one_layer(audio, Layered(), 2)
        kmeans = fit_kmeans(train, clusters=result.clusters, seed=SETTINGS.seed)
        tokenizer = SemanticTokenizer(Layered(), clusters=result.clusters)
        tokenizer.encoder.layer = 2
        tokenizer.mean, tokenizer.deviation = found.normalization.mean, found.normalization.deviation
        tokenizer.centroids[0] = kmeans.centroids
        source = tokenizer_source(tokenizer, recordings(audio), units=True)
        expected = measure_abx(items(audio), source.features, rate_hz=25, settings=SETTINGS)
        assert result.distortion == pytest.approx(kmeans.distortion / 39, rel=1e-3)
        for ours, theirs in zip(result.abx.scores, expected.scores, strict=True):
            assert ours.error == pytest.approx(theirs.error, abs=1e-3)
    assert results[0].distortion > results[1].distortion
    assert results[0].use.frames == len(train)


@pytest.mark.filterwarnings("ignore:.* are few")
def test_phones_are_counted_frame_by_frame(audio: Path) -> None:
    encoder, path = Layered(), recordings(audio)["s1-3"]
    found = sweep(audio, encoder)
    aligned = {path: [Interval(0.1, 0.5, "P"), Interval(0.5, 0.7, "SIL")]}
    (result,) = sweep_clusters(
        encoder,
        found,
        folder_clips(audio / "train"),
        clusters=[4],
        settings=SETTINGS,
        max_frames=10**6,
        aligned=aligned,
    )
    _, train = one_layer(audio, Layered(), 2)
    centroids = fit_kmeans(train, clusters=4, seed=SETTINGS.seed).centroids
    features, _ = one_layer(audio, Layered(), 2)
    units = torch.cdist(features("s1-3"), centroids).argmin(1)
    counts = np.zeros((2, 4), dtype=np.int64)
    for label, unit in zip(frame_phones(aligned[path], frames=len(units), rate_hz=25), units.tolist(), strict=True):
        if label is not None:
            counts[int(label == "SIL"), unit] += 1
    assert result.phones == phone_measures(counts)
    assert result.speech is not None
    assert result.speech.frames == 10


def test_a_rule_has_a_name_and_says_where_there_is_nothing_to_compare(audio: Path) -> None:
    assert str(Rule.named("within-any")) == "within-any"
    with pytest.raises(ValueError, match=r"no rule 'best'.*across-any"):
        Rule.named("best")
    one = [item for item in items(audio) if item.speaker == "s0"]
    result = measure_abx(one, one_layer(audio, Layered(), 2)[0], rate_hz=25)
    with pytest.raises(ValueError, match=r"compared across speakers.*--by"):
        Rule().error(result)
    assert Rule.named("within-any").error(result) == result.score("any", "within").error


# ------------------------------------------------------------------------------------------------ the verb


@pytest.fixture(scope="module")
def root(tone_corpus: Path, run_stage_of: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of a manifest and a tiny trained encoder. Do not change it: copy it."""
    root = tmp_path_factory.mktemp("encoder-chain")
    prepare(tone_corpus, root)
    run_stage_of("encoder", root, "--trainer.precision", "32-true")
    return root


@pytest.fixture
def evaluate(audio: Path, root: Path, tmp_path: Path) -> Callable[..., Path]:
    """Runs the verb on a copy of the chain; gives that copy."""

    def run(*arguments: str) -> Path:
        copy = tmp_path / "root"
        shutil.copytree(root, copy, dirs_exist_ok=True)
        common = ["--items", str(audio / "test.item"), "--audio", str(audio / "audio"), "--root", str(copy)]
        run_verb(["evaluate", "layers", *common, "--device", "cpu", "--clusters", "3", "5", *arguments])
        return copy

    return run


@pytest.mark.filterwarnings("ignore:.* are few")
def test_the_verb_writes_tables_a_picture_and_the_choice_that_the_tokenizer_stage_takes(
    evaluate: Callable[..., Path], audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = evaluate("--phones", str(audio / "phones.tsv"), "--max-frames", "100")
    out = root / "evaluation" / "layers"
    found = json.loads((out / "layers.json").read_text())
    errors = {row["layer"]: row["scores"][3]["error"] for row in found["layers"]}
    assert [(score["context"], score["speakers"]) for score in found["mfcc"]["scores"]][3] == ("any", "across")
    assert list(errors) == [0, 1, 2]
    best = min(errors, key=lambda layer: (errors[layer], layer))
    assert found["winner"]["layer"] == best
    assert found["winner"]["error"] == errors[best]
    assert [row["clusters"] for row in found["clusters"]] == [3, 5]
    assert all(0 <= row["phones"]["all"]["pnmi"] <= 1 for row in found["clusters"])
    with open(out / "layers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (1 + 3 + 2)
    assert {row["features"] for row in rows} == {"mfcc", "layer", "units"}
    picture = (out / "layers.svg").read_text()
    for word in ("ABX error", "MFCC", "across speakers, any context", f"layer {best}", "clusters", "not quantised"):
        assert word in picture
    selected = json.loads((root / "encoder" / "selected.json").read_text())
    units = {row["clusters"]: row["scores"][3]["error"] for row in found["clusters"]}
    assert selected["layer"] == best
    assert selected["clusters"] == min(units, key=lambda count: (units[count], count))
    assert (selected["by"], selected["error"]) == ("across-any", errors[best])
    assert make_encoder(EncoderConfig(), root=root).layer == best == load_encoder(root).layer
    printed = capsys.readouterr().out
    for words in (
        f"Winner: layer {best} of 2",
        f"Recommended: clusters: {selected['clusters']}",
        "selected.json",
        "PNMI",
    ):
        assert words in printed


@pytest.mark.filterwarnings("ignore:.* are few")
def test_another_rule_fewer_layers_and_recordings_of_a_folder_to_train_on(
    evaluate: Callable[..., Path], audio: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    root = evaluate(
        *("--layers", "2", "0", "--by", "within-any", "--train-audio", str(audio / "train"), "--clusters"),
        *("--limit", "4", "--out", str(out)),
    )
    found = json.loads((out / "layers.json").read_text())
    assert [row["layer"] for row in found["layers"]] == [0, 2]
    assert found["winner"] | {"by": "within-any", "clusters": None, "units_error": None} == found["winner"]
    assert found["mfcc"]["items"] == 4 * SLOTS
    assert found["clusters"] == []
    assert (out / "layers.svg").exists()
    chosen = (root / "encoder" / "selected.json").read_text()
    evaluate("--layers", "1", "--clusters", "--limit", "2", "--measure-only", "--out", str(tmp_path / "measured"))
    assert (root / "encoder" / "selected.json").read_text() == chosen
    assert json.loads((root / "encoder" / "selected.json").read_text())["clusters"] is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--layers", "0", "3"], ValueError, r"layers 0 to 2; there is no layer \[3\]"),
        (["--layers", "-1"], ValueError, r"there is no layer \[-1\]"),
        (["--by", "phones"], ValueError, "no rule 'phones'"),
        (["--clusters", "1"], ValueError, "at least 2"),
        (["--clusters", "300000"], ValueError, "at most --max-frames"),
        (["--clusters", "90000"], ValueError, "frames, too few for --clusters 90000"),
        (["--limit", "0"], ValueError, "--limit must be positive"),
        (["--encoder", "/nowhere/at/all"], FileNotFoundError, "nowhere/at/all"),
        (["--train-audio", "nowhere"], ValueError, "does not exist"),
        (["--phones", "nowhere.tsv"], FileNotFoundError, "nowhere.tsv"),
    ],
)
def test_bad_input_is_refused_in_words(
    evaluate: Callable[..., Path],
    arguments: list[str],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        evaluate(*arguments)


def test_without_an_encoder_or_training_audio_the_remedy_is_named(audio: Path, root: Path, tmp_path: Path) -> None:
    common = ["evaluate", "layers", "--items", str(audio / "test.item"), "--audio", str(audio / "audio")]
    with pytest.raises(FileNotFoundError, match="make encoder"):
        run_verb([*common, "--root", str(tmp_path)])
    shutil.copytree(root / "encoder", tmp_path / "encoder")
    with pytest.raises(FileNotFoundError, match="--train-audio"):
        run_verb([*common, "--root", str(tmp_path)])


def test_silent_training_audio_is_refused(evaluate: Callable[..., Path], tmp_path: Path) -> None:
    write_audio(tmp_path / "silence" / "one.flac", torch.zeros(16000), sample_rate_hz=16000)
    with pytest.raises(ValueError, match="silent"):
        evaluate("--train-audio", str(tmp_path / "silence"))


# ------------------------------------------------------------------------------------------------ the choice


def chosen(encoder: Encoder, *, layer: int) -> Selection:
    return Selection(layer, 50, "across-any", 0.1, 0.2, "test.item", selection_digest(encoder))


def test_a_choice_holds_for_its_encoder_only(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    encoder = trained_encoder(load_stage_checkpoint(tmp_path / "encoder" / "best.ckpt", stage="encoder"))
    usual = make_encoder(EncoderConfig(), root=tmp_path).layer
    other = 0 if usual else 1
    write_selection(tmp_path / "encoder", chosen(encoder, layer=other))
    assert make_encoder(EncoderConfig(), root=tmp_path).layer == other == load_encoder(tmp_path).layer
    assert make_encoder(EncoderConfig(layer=usual), root=tmp_path).layer == usual
    content = torch.load(tmp_path / "encoder" / "best.ckpt", weights_only=True)
    content["state_dict"]["model.subsampling.norm.bias"] += 1  # trained a little longer
    torch.save(content, tmp_path / "encoder" / "best.ckpt")
    sidecar(tmp_path / "encoder" / "best.ckpt").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=rf"layer {other} of another encoder .* Run audiolm evaluate layers again"):
        make_encoder(EncoderConfig(), root=tmp_path)
    with pytest.raises(ValueError, match="another encoder"):
        load_encoder(tmp_path)
    assert (
        make_encoder(EncoderConfig(layer=usual), root=tmp_path).layer
        == usual
        == load_encoder(tmp_path, layer=usual).layer
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"layer": 1}', "does not say which layer of which encoder"),
        ("[]", "does not say"),
        ('{"layer": "one", "encoder_digest": "x"}', "does not say"),
        ("{", "not valid JSON"),
    ],
)
def test_a_damaged_choice_is_refused(root: Path, tmp_path: Path, content: str, message: str) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "encoder" / "selected.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        make_encoder(EncoderConfig(), root=tmp_path)


@pytest.mark.filterwarnings("ignore:.* are few")
def test_a_public_encoder_is_swept_and_chosen_too(
    audio: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    HubertModel(config).eval().save_pretrained(tmp_path / "public")
    asked = EncoderConfig(kind="pretrained", name=str(tmp_path / "public"))
    with pytest.raises(ValueError, match="audiolm evaluate layers --encoder"):
        make_encoder(asked, root=tmp_path)
    command = [
        "evaluate",
        "layers",
        "--items",
        str(audio / "test.item"),
        "--audio",
        str(audio / "audio"),
        "--device",
        "cpu",
    ]
    command += ["--encoder", str(tmp_path / "public"), "--train-audio", str(audio / "train"), "--clusters", "4"]
    run_verb([*command, "--root", str(tmp_path)])
    found = json.loads((tmp_path / "evaluation" / "layers" / "layers.json").read_text())
    assert [row["layer"] for row in found["layers"]] == [0, 1, 2]
    assert found["about"]["rate_hz"] == 50
    assert make_encoder(asked, root=tmp_path).layer == found["winner"]["layer"]
    shutil.copytree(root, tmp_path / "chain")  # where an encoder was trained, its choice stays
    run_verb([*command, "--root", str(tmp_path / "chain"), "--layers", "1"])
    assert not (tmp_path / "chain" / "encoder" / "selected.json").exists()
    assert json.loads((tmp_path / "chain" / "evaluation" / "layers" / "selected.json").read_text())["layer"] == 1
    assert "layer: 1}" in capsys.readouterr().out
