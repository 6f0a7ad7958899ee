"""The detector that ships with a generator, and `audiolm detect`: what it says, of what, and what it refuses."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tones_and_noise, write_tiny_generator
from torch import nn

from audiolm.audio import AudioError, read_prompt, write_audio
from audiolm.checkpoint import HEADER, header, load_stage_checkpoint
from audiolm.evaluation.audio_classifier import AudioClassifier, ClassifierConfig
from audiolm.evaluation.clips import split_clips
from audiolm.evaluation.conditions import Protocol, condition_clips
from audiolm.evaluation.detection import LIMITS, detect, load_detector, with_prior
from audiolm.evaluation.windowed import aggregate, window_log_probabilities
from audiolm.generator import AudioLM
from audiolm.generator.detector_file import FILE, ForeignDetectorError, add_detector, read_detector
from audiolm.generator.folder import compose, generator_digest
from audiolm.verbs import run_verb

RATE = 16000


def tiny_detector(*, labels: tuple[str, ...] = ("human", "machine")) -> AudioClassifier:
    torch.manual_seed(3)
    model = AudioClassifier(ClassifierConfig(labels, channels=(2, 4, 4))).eval()
    nn.init.normal_(model.scores.weight, std=8.0)  # so that windows differ
    model.temperature.fill_(1.7)
    return model


def write_detector(
    path: Path, *, generator: str, model: AudioClassifier | None = None, stage: str = "detector"
) -> Path:
    """What the trainer of the detector stage would write."""
    model = model or tiny_detector()
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    head = header(stage, model.config_dict(), {"generator": generator})
    torch.save({"state_dict": weights, "global_step": 7, HEADER: head}, path)
    return path


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    folder = tmp_path / "generator"
    write_tiny_generator(folder)
    (folder / "README.md").write_text("# AudioLM generator\n")
    return folder


@pytest.fixture
def shipped(generator: Path, tmp_path: Path) -> Path:
    """A generator folder with its detector."""
    digest = generator_digest(generator)
    path = write_detector(tmp_path / "detector" / "best.ckpt", generator=digest)
    add_detector(generator, load_stage_checkpoint(path, stage="detector"), generator=digest)
    return generator


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """1.6 s at 22.05 kHz."""
    path = tmp_path / "said.flac"
    write_audio(path, tones_and_noise(35280), sample_rate_hz=22050)
    return path


def test_a_detector_comes_back_from_the_generator_as_it_was(shipped: Path) -> None:
    found, model = load_detector(shipped), tiny_detector()
    audio = tones_and_noise(RATE)[None]
    assert torch.equal(found.model(audio), model(audio))
    assert found.model.labels == ("human", "machine")
    assert float(found.model.temperature) == pytest.approx(1.7)
    assert found.checkpoint.step == 7
    assert found.checkpoint.stage == "detector"


def test_the_detector_changes_neither_the_generator_nor_its_digest(shipped: Path, tmp_path: Path) -> None:
    write_tiny_generator(tmp_path / "without")
    assert generator_digest(shipped) == generator_digest(tmp_path / "without")
    spoken = [
        AudioLM.from_pretrained(f).unconditional(seconds=0.2, count=1)[0] for f in (shipped, tmp_path / "without")
    ]
    assert torch.equal(spoken[0].audio, spoken[1].audio)
    (shipped / FILE).write_bytes(b"not a detector")
    AudioLM.from_pretrained(shipped)  # does not read it


def test_the_card_speaks_of_the_detector_once(shipped: Path) -> None:
    add_detector(shipped, read_detector(shipped), generator=generator_digest(shipped))
    card = (shipped / "README.md").read_text()
    assert card.startswith("# AudioLM generator\n\n")
    assert card.count("## Detector") == 1


def test_another_generators_detector_is_refused(generator: Path, tmp_path: Path) -> None:
    path = write_detector(tmp_path / "best.ckpt", generator="f00d")
    with pytest.raises(ForeignDetectorError, match=r"generator f00d, and .* is [0-9a-f]{12}: .*make detector"):
        add_detector(generator, load_stage_checkpoint(path, stage="detector"), generator=generator_digest(generator))
    assert not (generator / FILE).exists()


def test_composing_again_takes_the_detector_along_and_keeps_the_digest(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, digest = tmp_path / "chain", generator_digest(chain / "generator")
    shutil.copytree(chain, root)
    with pytest.raises(FileNotFoundError, match="make detector"):
        run_verb(["compose", "--root", str(root), "--detector"])
    checkpoint = write_detector(root / "detector" / "best.ckpt", generator=digest)
    run_verb(["compose", "--root", str(root), "--detector"])
    added = (root / "generator" / FILE).read_bytes()
    run_verb(["compose", "--root", str(root)])
    assert (root / "generator" / FILE).read_bytes() == added
    assert generator_digest(root / "generator") == digest
    checkpoint.unlink()
    assert compose(root, root / "generator") is None  # the one that was there stays
    assert (root / "generator" / FILE).read_bytes() == added
    write_detector(checkpoint, generator="0" * 64)
    capsys.readouterr()
    run_verb(["compose", "--root", str(root)])
    assert "without a detector" in (said := capsys.readouterr().out)
    assert "000000000000" in said
    assert not (root / "generator" / FILE).exists()
    assert str(root / "generator") in said
    with pytest.raises(ForeignDetectorError):
        run_verb(["compose", "--root", str(root), "--detector"])


def test_a_file_is_judged_by_all_its_windows(shipped: Path, recording: Path) -> None:
    model = load_detector(shipped).model
    found = detect(model, recording)
    windows = window_log_probabilities(model, read_prompt(recording, sample_rate_hz=RATE))
    assert found.probability == pytest.approx(float(aggregate(windows)[1]), abs=1e-6)
    assert found.curve == pytest.approx(windows.exp()[:, 1].tolist(), abs=1e-6)
    assert found.starts == (0.0, 0.25, 0.5, 0.6)
    assert found.seconds == pytest.approx(1.6)


@pytest.mark.parametrize(("probability", "prior", "expected"), [(0.7, 0.5, 0.7), (0.5, 0.1, 0.1), (0.9, 0.1, 0.5)])
def test_a_prior_is_bayes_rule(probability: float, prior: float, expected: float) -> None:
    assert with_prior(probability, prior) == pytest.approx(expected)
    assert with_prior(0.0, prior) == 0.0
    assert with_prior(1.0, prior) == 1.0


def test_the_verb_prints_a_table_and_its_limits(
    shipped: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_verb(["detect", str(recording), "--generator", str(shipped)])
    printed = capsys.readouterr().out
    assert f"{detect(load_detector(shipped).model, recording).probability:.4f}" in printed
    assert all(limit in printed for limit in LIMITS)
    assert "if 0.5 of such files" in printed


def test_json_and_csv_have_every_window_and_the_prior_moves_them(
    shipped: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["detect", str(recording), "--detector", str(tmp_path / "detector" / "best.ckpt"), "--json"]
    run_verb(command)
    even = json.loads(capsys.readouterr().out)
    run_verb([*command, "--prior", "0.01", "--csv", str(tmp_path / "curve.csv")])
    rare = json.loads(capsys.readouterr().out)
    assert rare["prior"] == 0.01
    assert rare["detector"]["generator"] == generator_digest(shipped)
    for old, new in zip(even["rows"][0]["windows"], rare["rows"][0]["windows"], strict=True):
        assert new["probability"] == pytest.approx(with_prior(old["probability"], 0.01))
    with open(tmp_path / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["probability"]) for row in rows] == [w["probability"] for w in rare["rows"][0]["windows"]]
    assert rows[1]["start_seconds"] == "0.25"
    assert rows[1]["file"] == str(recording)


def test_what_cannot_be_judged_is_refused_before_anything_is(shipped: Path, recording: Path, tmp_path: Path) -> None:
    short, silent, text = tmp_path / "short.wav", tmp_path / "silent.wav", tmp_path / "text.wav"
    write_audio(short, tones_and_noise(15900), sample_rate_hz=RATE)
    write_audio(silent, torch.zeros(20000), sample_rate_hz=RATE)
    text.write_text("no audio")
    command = ["detect", "--generator", str(shipped), "--csv", str(tmp_path / "out.csv"), str(recording)]
    for extra, message in (
        ([str(short)], r"lasts 0.99 s: the detector hears one second"),
        ([str(silent)], "silent"),
        ([str(text)], "cannot be read as audio"),
        ([str(tmp_path / "none.wav")], "does not exist"),
        (["--prior", "1"], "--prior must lie between 0 and 1"),
        (["--prior", "nan"], "--prior must lie between 0 and 1"),
    ):
        with pytest.raises((ValueError, AudioError), match=message):
            run_verb([*command, *extra])
    assert not (tmp_path / "out.csv").exists()


def test_a_folder_without_a_detector_says_how_to_get_one(generator: Path, recording: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make detector"):
        run_verb(["detect", str(recording), "--generator", str(generator)])


def test_only_a_detector_is_taken_for_one(recording: Path, tmp_path: Path) -> None:
    path = write_detector(tmp_path / "a.ckpt", generator="g", model=tiny_detector(labels=("ann", "bob")))
    with pytest.raises(ValueError, match="tells .*ann.* apart"):
        load_detector(path)
    path = write_detector(tmp_path / "b.ckpt", generator="g", stage="speaker")
    with pytest.raises(ValueError, match="checkpoint of the speaker stage"):
        load_detector(path)


def test_a_strangers_detector_runs_no_code_and_is_checked(shipped: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(shipped / FILE)
    about = {"format": 1, "config": tiny_detector().config_dict(), "sources": {"generator": "g"}, "step": 7}

    def spoilt(content: object) -> None:
        save_file(weights, shipped / FILE, metadata={"audiolm_detector": json.dumps(content)})

    for change in (
        {"format": 2},
        {"format": True},
        {"config": []},
        {"config": {}},
        {"sources": {"generator": 3}},
        {"step": -1},
        {"step": "7"},
        {"config": {**tiny_detector().config_dict(), "channels": [2**20, 2**20]}},
        {"config": {**tiny_detector().config_dict(), "labels": "no"}},
        {"config": {**tiny_detector().config_dict(), "sample_rate_hz": 1e9}},
    ):
        spoilt({**about, **change})
        with pytest.raises(ValueError, match=str(shipped)):
            load_detector(shipped)
    spoilt(about)
    load_detector(shipped)
    name = "scores.weight"
    weights[name] = torch.full_like(weights[name], float("nan"))
    spoilt(about)
    with pytest.raises(ValueError, match="NaN or infinite"):
        load_detector(shipped)
    os.truncate(shipped / FILE, 100)
    with pytest.raises(ValueError, match="damaged"):
        load_detector(shipped)


def test_a_detector_goes_from_its_stage_into_the_generator_and_is_measured(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    root, protocol = tmp_path / "chain", Protocol(samplings=1, prompt_seconds=0.5, seconds=1.1)
    shutil.copytree(chain, root)
    digest = generator_digest(root / "generator")
    clips = split_clips(root / "manifest.jsonl", "train", limit=5)
    folder, kinds = root / "evaluation" / "audio-train", ("reconstruction", "continuation")
    condition_clips(clips, kinds, generator=root / "generator", folder=folder, protocol=protocol)
    run_stage_of("detector", root, "--trainer.precision", "32-true")
    checkpoint = load_stage_checkpoint(root / "detector" / "best.ckpt", stage="detector")
    assert checkpoint.sources["generator"] == digest
    run_verb(["compose", "--root", str(root), "--detector"])
    run_verb(["detect", str(clips[0].path), "--generator", str(root / "generator"), "--json"])
    assert digest in capsys.readouterr().out
    few = ["--samplings", "1", "--least-seconds", "1.5", "--prompt-seconds", "0.5", "--seconds", "1.1", "--limit", "2"]
    command = ["evaluate", "detector", "--root", str(root), "--device", "cpu", *few]
    run_verb(command)
    printed = capsys.readouterr().out
    assert "another generator" not in printed
    assert "not known" not in printed
    with pytest.raises(ValueError, match=r"trained on [12] of 2 of these recordings"):
        run_verb([*command, "--split", "train"])
