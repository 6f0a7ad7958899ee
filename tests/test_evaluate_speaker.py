"""`audiolm evaluate speaker`: accuracies and their intervals, who is asked about what, speaker vectors, restarts, errors."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tones_and_noise, write_tiny_generator
from torch import Tensor, nn

from audiolm.audio import write_audio
from audiolm.checkpoint import HEADER, header, load_stage_checkpoint
from audiolm.evaluation.audio_classifier import AudioClassifier, ClassifierConfig
from audiolm.evaluation.bootstrap import bootstrap_interval
from audiolm.evaluation.classified import Case, Classified, classify, read_classified
from audiolm.evaluation.clips import folder_clips
from audiolm.evaluation.similarity import measure_similarity, pairs_of
from audiolm.evaluation.speaker_choice import asked_clips
from audiolm.evaluation.speaker_clips import speaker_clips
from audiolm.evaluation.speaker_table import accuracies, by_speaker, confusions
from audiolm.evaluation.split_file import Split, read_split
from audiolm.evaluation.windowed import aggregate, window_log_probabilities
from audiolm.files import write_json
from audiolm.manifest import read_manifest
from audiolm.verbs import run_verb

RATE = 16000
SPEAKERS = ("ann", "bob", "eve")
FEW = ["--samplings", "2", "--least-seconds", "1", "--prompt-seconds", "0.6", "--seconds", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers, four recordings of 1.2 s each."""
    folder = tmp_path_factory.mktemp("recordings") / "corpus"
    for number, speaker in enumerate(SPEAKERS):
        for take in range(4):
            audio = tones_and_noise(19200, seed=10 * number + take)
            write_audio(folder / speaker / f"{take}.flac", audio, sample_rate_hz=RATE)
    return folder


@pytest.fixture(scope="module")
def root(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain's folder with a generator, and a speaker stage's checkpoint for those speakers."""
    root = tmp_path_factory.mktemp("root")
    write_tiny_generator(root / "generator")
    model = tiny_classifier()
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    (root / "speaker").mkdir()
    known = speaker_clips([recordings])
    head = header("speaker", model.config_dict(), {"clips": known.digest})
    torch.save({"state_dict": weights, "global_step": 7, HEADER: head}, root / "speaker" / "best.ckpt")
    write_json(root / "speaker" / "split.json", known.as_dict())
    return root


def split_of(root: Path) -> Split:
    path = root / "speaker" / "best.ckpt"
    return read_split(path, load_stage_checkpoint(path, stage="speaker"))


def tiny_classifier(labels: tuple[str, ...] = SPEAKERS) -> AudioClassifier:
    torch.manual_seed(5)
    model = AudioClassifier(ClassifierConfig(labels, channels=(2, 4, 4))).eval()
    nn.init.normal_(model.scores.weight, std=5.0)
    return model


def row(truth: str, label: str, *, condition: str = "original", sampling: int = 0, file: str = "a") -> Classified:
    return Classified(file, condition, sampling, truth, label, 0.5, 1)


def test_accuracies_are_counted_per_sampling_and_together() -> None:
    rows = [row("ann", "ann", file="1"), row("bob", "ann", file="2"), row("bob", "bob", file="3")]
    rows += [row("ann", label, condition="acoustic", sampling=s) for s, label in enumerate(("bob", "ann", "bob"))]
    found = {(a.condition, a.sampling): a for a in accuracies(rows, speakers=4)}
    assert list(found) == [("original", 0), ("original", None)] + [("acoustic", s) for s in (0, 1, 2, None)]
    assert (found["original", 0].correct, found["original", 0].clips) == (2, 3)
    assert found["original", 0].low == pytest.approx(0.0943, abs=1e-4)  # exact, of 2 in 3: R's binom.test
    assert found["original", 0].high == pytest.approx(0.9916, abs=1e-4)
    assert found["acoustic", None].accuracy == pytest.approx(1 / 3)
    assert found["acoustic", None].low is None  # one speaker says nothing of others
    assert {a.chance for a in found.values()} == {0.25}
    assert found["acoustic", None].paper == 0.032
    assert found["original", None].paper is None


def test_speakers_and_confusions_are_counted() -> None:
    rows = [row("ann", "ann"), row("ann", "bob"), row("ann", "bob"), row("eve", "bob", condition="acoustic")]
    assert [(s.speaker, s.condition, s.clips, s.correct, s.most_often) for s in by_speaker(rows)] == [
        ("ann", "original", 3, 1, "bob"),
        ("eve", "acoustic", 1, 0, "bob"),
    ]
    assert [(c.speaker, c.taken_for, c.times) for c in confusions(rows)] == [("ann", "bob", 2), ("eve", "bob", 1)]


def test_a_bootstrap_draws_whole_groups() -> None:
    values = np.array([1.0, 1, 1, 0, 0, 0])
    low, high = bootstrap_interval(list("aaabbb"), lambda at: float(values[at].mean())) or (None, None)
    assert (low, high) == (0.0, 1.0)  # two groups: in a quarter of the draws one of them is drawn twice
    of_clips = bootstrap_interval(list("abcdef"), lambda at: float(values[at].mean()))
    assert of_clips is not None
    assert of_clips[0] > 0
    assert bootstrap_interval(["a", "a"], lambda at: 0.0) is None


def test_a_killed_run_goes_on_where_it_was(recordings: Path, tmp_path: Path) -> None:
    model, table = tiny_classifier(), tmp_path / "files.csv"
    cases = [Case("original", 0, "ann", clip) for clip in folder_clips(recordings)[:3]]
    rows = classify(model, cases, table)
    whole = table.read_bytes()
    table.write_bytes(whole[:-9])
    assert len(read_classified(table)) == 2
    assert classify(model, cases, table) == rows
    assert table.read_bytes() == whole
    expected = aggregate(window_log_probabilities(model, cases[0].clip.read(sample_rate_hz=RATE)))[0]
    assert rows[0].probability == pytest.approx(float(expected), abs=1e-6)
    renamed = [replace(cases[0], truth="eve"), *cases[1:]]  # whoever spoke: the manifest was corrected
    assert [row.truth for row in classify(model, renamed, table)] == ["eve", "ann", "ann"]
    table.write_text(whole.decode().replace("original", "original,"))
    with pytest.raises(ValueError, match="line 2 of"):
        read_classified(table)


def test_only_held_out_recordings_are_asked_about(recordings: Path) -> None:
    known = speaker_clips([recordings])
    split = Split(*(frozenset(clip.id for clip in known.part(held_out=part).clips) for part in (False, True)))
    asked = asked_clips(recordings, SPEAKERS, split)
    assert {clip.id for clip in asked.clips} == asked.held_out == split.held_out
    assert all(asked.speakers[id_] == id_.split("/")[0] for id_ in asked.held_out)
    everything = asked_clips(recordings, SPEAKERS, split, all_recordings=True)
    assert len(everything.clips) == 12
    assert everything.held_out == split.held_out
    prefixed = Split(frozenset(), frozenset(f"corpus/{id_}" for id_ in split.held_out))  # of a stage of several corpora
    asked = asked_clips(recordings, [f"corpus/{name}" for name in SPEAKERS], prefixed)
    assert set(asked.speakers.values()) == {f"corpus/{name}" for name in SPEAKERS}
    with pytest.raises(ValueError, match=r"1 of 3 speakers of .* not among the 2 .*such as eve: .*--model.data"):
        asked_clips(recordings, ("ann", "bob"), split)
    with pytest.raises(ValueError, match=r"none is held out: .*--data"):
        asked_clips(recordings, SPEAKERS, Split(split.trained | split.held_out, frozenset()))


def test_a_corpus_that_is_listed_otherwise_is_still_the_one_it_was_trained_on(recordings: Path) -> None:
    ids = [clip.id for clip in folder_clips(recordings)]
    names = [id_.removesuffix(".flac") for id_ in ids]  # a manifest's ids have no suffix, a folder's have
    listed = {
        "manifest": (names[1:], names[:1]),
        "several corpora": ([f"one/{id_}" for id_ in ids[1:]], [f"one/{ids[0]}"]),
        "pieces": ([f"{name}@{at}" for name in names[1:] for at in (0, 9600)], [f"{names[0]}@0"]),
        "a folder above": ([f"a/b/{id_}" for id_ in ids[1:]], [f"a/b/{ids[0]}"]),
    }
    for how, (trained, held_out) in listed.items():
        asked = asked_clips(recordings, SPEAKERS, Split(frozenset(trained), frozenset(held_out)))
        assert asked.held_out == {ids[0]}, how
        with pytest.raises(ValueError, match="none is held out"):
            asked_clips(recordings, SPEAKERS, Split(frozenset([*trained, *held_out]), frozenset()))
    others = Split(frozenset(f"{name}/other-{n}" for name in SPEAKERS for n in range(4)), frozenset())
    assert asked_clips(recordings, SPEAKERS, others).held_out == set(ids)  # another corpus of theirs


def test_the_split_of_another_training_is_refused(recordings: Path, root: Path, tmp_path: Path) -> None:
    """A stage that starts again on a grown corpus writes its split while the old checkpoint still stands."""
    shutil.copytree(root / "speaker", tmp_path / "speaker")
    corpus = Path(shutil.copytree(recordings, tmp_path / "corpus"))
    assert split_of(tmp_path).is_matched
    write_audio(corpus / "ann" / "4.flac", tones_and_noise(19200, seed=99), sample_rate_hz=RATE)
    grown = speaker_clips([corpus]).as_dict()
    write_json(tmp_path / "speaker" / "split.json", grown)
    with pytest.raises(ValueError, match=r"split.json is not of .*best.ckpt.* other recordings.*stages/speaker.yaml"):
        split_of(tmp_path)
    write_json(tmp_path / "speaker" / "split.json", {key: grown[key] for key in grown if key != "digest"})
    assert not split_of(tmp_path).is_matched  # of an older version


def test_the_verb_writes_tables_a_summary_and_a_picture(
    recordings: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", "speaker", "--root", str(root), "--data", str(recordings), "--out", str(out), *FEW]
    run_verb(command)
    printed = capsys.readouterr().out
    assert "Speakers recognised: recordings of 3, a classifier of 3" in printed
    summary = json.loads((out / "summary.json").read_text())
    held_out = len(split_of(root).held_out)
    counts = {(r["condition"], r["sampling"]): r["clips"] for r in summary["rows"]}
    assert counts["original", None] == counts["continuation", 1] == held_out
    assert counts["acoustic", None] == 2 * held_out
    assert {r["chance"] for r in summary["rows"]} == {1 / 3}
    assert {"original", "reconstruction", "acoustic", "continuation", "bootstrap"} <= set(summary["protocol"])
    with open(out / "files.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * held_out
    assert (out / "speaker.svg").read_text().startswith("<?xml")
    before = (out / "files.csv").read_bytes()
    run_verb(command)
    assert (out / "files.csv").read_bytes() == before
    elsewhere = ["--audio", str(tmp_path / "audio")]
    for other, differs in ((["--all-recordings"], "all_recordings"), (["--limit", "1"], "recordings differ")):
        with pytest.raises(ValueError, match=differs):
            run_verb([*command, *elsewhere, *other])
    assert not (tmp_path / "audio").exists()  # refused before anything is generated


def test_only_the_conditions_that_are_named_are_made(recordings: Path, root: Path, tmp_path: Path) -> None:
    """A generator without units makes no acoustic generations, and was refused altogether."""
    here = ["--root", str(root), "--data", str(recordings), "--audio", str(tmp_path / "audio"), *FEW]
    run_verb(["evaluate", "speaker", *here, "--out", str(tmp_path / "a"), "--conditions", "original", "reconstruction"])
    assert {path.name for path in (tmp_path / "audio").iterdir() if path.is_dir()} == {"reconstruction"}
    rows = json.loads((tmp_path / "a" / "summary.json").read_text())["rows"]
    assert {row["condition"] for row in rows} == {"original", "reconstruction"}
    nowhere = ["--generator", str(tmp_path / "nowhere"), "--out", str(tmp_path / "b"), "--conditions", "original"]
    run_verb(["evaluate", "speaker", *here, *nowhere])  # needs no generator
    with pytest.raises(ValueError, match="conditions differ"):
        run_verb(["evaluate", "speaker", *here, "--out", str(tmp_path / "a")])
    assert not (tmp_path / "audio" / "acoustic-0").exists()


def test_clips_shorter_than_a_second_are_refused_before_anything_is_classified(
    recordings: Path, root: Path, tmp_path: Path
) -> None:
    command = [
        "evaluate",
        "speaker",
        "--root",
        str(root),
        "--data",
        str(recordings),
        "--out",
        str(tmp_path / "out"),
        *FEW,
    ]
    with pytest.raises(ValueError, match=r"continuations of 0.9 s are too short"):
        run_verb([*command, "--seconds", "0.9", "--audio", str(tmp_path / "audio")])
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "audio").exists()


class Directions:
    """Vectors that one knows: of the dominant sign pattern of the audio's beginning."""

    sample_rate_hz, shortest_samples = RATE, 1600

    def embed(self, audio: Tensor) -> Tensor:
        return nn.functional.normalize(audio[:1600:100], dim=0)


def test_similarities_are_cosines_and_survive_a_kill(recordings: Path, tmp_path: Path) -> None:
    originals = folder_clips(recordings)
    speakers = {clip.id: clip.id.split("/")[0] for clip in originals}
    cases = [Case("reconstruction", 0, speakers[clip.id], clip) for clip in originals]
    arguments = (Directions(), cases, originals, speakers, tmp_path)
    found = measure_similarity(*arguments, about={}, prompt_seconds=0.6)
    rows = {row.pairs: row for row in found.rows}
    assert rows["reconstruction"].mean == pytest.approx(1)  # the same audio
    assert rows["reconstruction"].accepted == 1
    assert (rows["same speaker"].count, rows["different speakers"].count) == (3 * 6, 3 * 16)
    vectors = np.stack([Directions().embed(clip.read(sample_rate_hz=RATE)).numpy() for clip in originals])
    names = [speakers[clip.id] for clip in originals]
    pairs = [(i, j) for i in range(12) for j in range(i) if names[i] == names[j]]
    assert rows["same speaker"].mean == pytest.approx(np.mean([vectors[i] @ vectors[j] for i, j in pairs]), abs=1e-6)
    lines = (tmp_path / "xvectors.jsonl").read_text()
    (tmp_path / "xvectors.jsonl").write_text(lines[: len(lines) // 2])
    assert measure_similarity(*arguments, about={}, prompt_seconds=0.6) == found
    with pytest.raises(ValueError, match="prompt_seconds differ"):
        measure_similarity(*arguments, about={}, prompt_seconds=0.7)


def test_speakers_that_are_alike_have_no_equal_error() -> None:
    vectors = np.eye(4)[[0, 0, 1, 1]]
    same, different = pairs_of(vectors, ["a", "a", "b", "b"])
    assert [value for _, value in same] == [1.0, 1.0]
    assert [value for _, value in different] == [0.0] * 4


@pytest.fixture(scope="module")
def xvector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import WavLMConfig, WavLMForXVector

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(40, 8),
        conv_stride=(20, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        tdnn_dim=(8, 8, 8),
        tdnn_kernel=(5, 3, 1),
        tdnn_dilation=(1, 2, 1),
        xvector_output_dim=6,
        num_labels=3,
    )
    folder = tmp_path_factory.mktemp("xvector")
    WavLMForXVector(config).save_pretrained(folder)
    return folder


def test_a_public_speaker_model_gives_what_transformers_gives(xvector_folder: Path) -> None:
    from transformers import WavLMForXVector

    from audiolm.evaluation.xvectors import SpeakerVectors

    voices, audio = SpeakerVectors.from_pretrained(str(xvector_folder)), tones_and_noise(20000)
    theirs = WavLMForXVector.from_pretrained(xvector_folder).eval()
    with torch.no_grad():
        expected = theirs(audio[None]).embeddings[0]
    found = voices.embed(audio)
    assert torch.allclose(found, expected / expected.norm(), atol=1e-5)
    assert voices.digest == SpeakerVectors.from_pretrained(str(xvector_folder)).digest
    assert voices.embed(tones_and_noise(voices.shortest_samples)).isfinite().all()
    with pytest.raises(ValueError, match="of at least"):
        voices.embed(tones_and_noise(voices.shortest_samples - 1))


def test_a_model_without_the_head_is_refused(xvector_folder: Path, tmp_path: Path) -> None:
    from transformers import WavLMConfig, WavLMModel

    from audiolm.evaluation.xvectors import SpeakerVectors

    config = WavLMConfig.from_pretrained(xvector_folder)
    WavLMModel(config).save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="no head for speaker vectors"):
        SpeakerVectors.from_pretrained(str(tmp_path / "headless"))
    content = json.loads((tmp_path / "headless" / "config.json").read_text())
    write_json(tmp_path / "headless" / "config.json", {**content, "architectures": ["WavLMForXVector"]})
    with pytest.raises(ValueError, match="weights of the speaker model .* would be random"):
        SpeakerVectors.from_pretrained(str(tmp_path / "headless"))
    write_json(
        tmp_path / "headless" / "config.json",
        {**content, "architectures": ["WavLMForXVector"], "tdnn_dim": [2**20] * 3},
    )
    with pytest.raises(ValueError, match="do not belong together"):
        SpeakerVectors.from_pretrained(str(tmp_path / "headless"))
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        SpeakerVectors.from_pretrained(str(tmp_path / "nowhere"))


def test_the_verb_compares_voices_where_a_model_is_named(
    recordings: Path, root: Path, xvector_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "speaker", "--root", str(root), "--data", str(recordings), "--out", str(tmp_path), *FEW]
    run_verb([*command, "--all-recordings", "--xvector", str(xvector_folder)])
    printed = capsys.readouterr().out
    assert "Voices compared by speaker vectors" in printed
    assert "Equal error rate of the vectors" in printed
    found = json.loads((tmp_path / "summary.json").read_text())["rows"]
    clips = {row["condition"]: row["clips"] for row in found if row["sampling"] == 0}
    assert clips["reconstruction"] == 12
    assert clips["original"] == len(split_of(root).held_out)  # still
    summary = json.loads((tmp_path / "similarity" / "summary.json").read_text())
    counts = {row["pairs"]: row["count"] for row in summary["rows"]}
    assert counts["continuation"] == 24
    assert counts["same speaker"] == 18
    assert 0 <= summary["equal_error_rate"] <= 1


def test_the_stage_s_own_checkpoint_is_asked_about_its_held_out_test_speakers(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    shutil.copy(chain / "manifest.jsonl", tmp_path)
    shutil.copytree(chain / "generator", tmp_path / "generator")
    run_stage_of("speaker", tmp_path, "--trainer.precision", "32-true")
    few = ["--samplings", "1", "--least-seconds", "1", "--prompt-seconds", "0.5", "--seconds", "1", "--device", "cpu"]
    run_verb(["evaluate", "speaker", "--root", str(tmp_path), *few])
    with open(tmp_path / "evaluation" / "speaker" / "files.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    tested = {utterance.id for utterance in read_manifest(chain / "manifest.jsonl").split("test")}
    held_out = split_of(tmp_path).held_out
    assert {row["file"] for row in rows} == tested & held_out
    assert {row["condition"] for row in rows} == {"original", "reconstruction", "acoustic", "continuation"}
