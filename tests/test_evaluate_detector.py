"""`audiolm evaluate detector`: the curve and what comes of it, equal lengths, recordings it was trained on, the folder."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics
from tiny import tones_and_noise, write_tiny_generator
from torch import nn

from audiolm.audio import write_audio
from audiolm.checkpoint import HEADER, header
from audiolm.evaluation.audio_classifier import AudioClassifier, ClassifierConfig
from audiolm.evaluation.clips import folder_clips
from audiolm.evaluation.conditions import Protocol, condition_clips
from audiolm.evaluation.detector_clips import generator_of
from audiolm.evaluation.detector_table import detector_cases, measure_detector
from audiolm.evaluation.roc import calibration_error, roc
from audiolm.evaluation.split_file import Split, require_untrained
from audiolm.files import write_json
from audiolm.generator.folder import generator_digest
from audiolm.verbs import run_verb

RATE = 16000
FEW = ["--samplings", "2", "--least-seconds", "1", "--prompt-seconds", "0.6", "--seconds", "1.5", "--device", "cpu"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings of 1.7 to 2 s, one of them at another rate."""
    folder = tmp_path_factory.mktemp("recordings")
    for take in range(4):
        rate = 22050 if take == 3 else RATE
        audio = tones_and_noise(round((1.7 + 0.1 * take) * rate), seed=take)
        write_audio(folder / f"{take}.flac", audio, sample_rate_hz=rate)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain's folder with a generator and a detector."""
    root = tmp_path_factory.mktemp("root")
    write_tiny_generator(root / "generator")
    torch.manual_seed(3)
    model = AudioClassifier(ClassifierConfig(("human", "machine"), channels=(2, 4, 4))).eval()
    nn.init.normal_(model.scores.weight, std=8.0)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    (root / "detector").mkdir()
    head = header("detector", model.config_dict(), {"generator": generator_digest(root / "generator")})
    torch.save({"state_dict": weights, "global_step": 7, HEADER: head}, root / "detector" / "best.ckpt")
    return root


def slow_area(positives: list[float], negatives: list[float]) -> float:
    """How often a positive score is the greater, ties counted half."""
    return float(np.mean([(p > n) + 0.5 * (p == n) for p in positives for n in negatives]))


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_how_often_a_pair_is_in_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    positives, negatives = random.normal(1, 1, 30).round(1), random.normal(0, 1, 21).round(1)  # with ties
    assert roc(positives, negatives).area == pytest.approx(slow_area(positives, negatives), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_counts_scores_at_or_above_each_threshold(seed: int) -> None:
    random = np.random.default_rng(seed)
    positives, negatives = random.normal(1, 1, 12).round(1), random.normal(0, 1, 15).round(1)
    curve = roc(positives, negatives)
    points = zip(curve.thresholds, curve.true_positives, curve.false_positives, strict=True)
    for threshold, true, false in points:
        assert true == pytest.approx((positives >= threshold).mean(), abs=1e-6)
        assert false == pytest.approx((negatives >= threshold).mean(), abs=1e-6)


def test_the_curve_is_that_of_sklearn() -> None:
    random = np.random.default_rng(0)
    positives, negatives = random.normal(1, 1, 40), random.normal(0, 1, 30)
    labels, scores = np.repeat([1, 0], [40, 30]), np.concatenate([positives, negatives])
    false, true, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    curve = roc(positives, negatives)
    assert curve.area == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-6)
    assert np.allclose(curve.false_positives, false, atol=1e-6)
    assert np.allclose(curve.true_positives, true, atol=1e-6)


def test_equal_error_rates_that_one_can_count() -> None:
    assert roc([2, 3], [0, 1]).equal_error_rate == 0
    assert roc([0, 1], [2, 3]).equal_error_rate == 1
    half = roc([1, 2, 3, 4], [0, 1.5, 2.5, 0.5])  # at 2: one of four missed, one of four taken for positive
    assert half.equal_error_rate == pytest.approx(0.25)
    assert 1.5 < half.equal_error_threshold <= 2.5
    with pytest.raises(ValueError, match="both are needed"):
        roc([], [1.0])
    with pytest.raises(ValueError, match="not finite"):
        roc([float("nan")], [1.0])


def test_the_calibration_error_is_the_gap_between_saying_and_being() -> None:
    assert calibration_error([0.75] * 4, [1, 1, 1, 0]) == pytest.approx(0, abs=1e-6)
    assert calibration_error([0.95] * 4, [1, 1, 0, 0]) == pytest.approx(0.45, abs=1e-6)
    assert calibration_error([0.05, 0.95], [1, 0]) == pytest.approx(0.95, abs=1e-6)


def test_both_kinds_have_one_length_and_come_after_the_prompt(recordings: Path, root: Path, tmp_path: Path) -> None:
    protocol = Protocol(samplings=2, prompt_seconds=0.6, seconds=1.5)
    clips = folder_clips(recordings)
    kinds = ("original", "reconstruction", "continuation")
    made = condition_clips(clips, kinds, generator=root / "generator", folder=tmp_path, protocol=protocol)
    cases = detector_cases(made["original"][0], made["reconstruction"][0], made["continuation"], prompt_seconds=0.6)
    assert len(cases) == 4 * 4
    for number, clip in enumerate(clips):
        of_clip = [case for case in cases if case.clip.id == clip.id]
        assert {(c.condition, c.sampling, c.truth) for c in of_clip} == {
            ("continuation", 0, "machine"),
            ("continuation", 1, "machine"),
            ("reconstruction", 0, "human"),
            ("original", 0, "human"),
        }
        seconds = [case.clip.samples / case.clip.sample_rate_hz for case in of_clip]
        assert seconds == pytest.approx(
            [1.1 + 0.1 * number] * 4, abs=2e-4
        )  # the recordings are shorter than 0.6 + 1.5 s
        original = next(case.clip for case in of_clip if case.condition == "original")
        assert original.start == round(0.6 * original.sample_rate_hz)
        spoken = next(case.clip for case in of_clip if case.condition == "continuation")
        assert spoken.start == next(c for c in made["continuation"][0] if c.id == clip.id).start


def test_the_verb_writes_curves_a_summary_and_a_picture(
    recordings: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "detector", "--root", str(root), "--data", str(recordings), "--out", str(tmp_path), *FEW]
    run_verb(command)
    printed = capsys.readouterr().out
    assert "cut to the shorter one's length" in printed
    assert "what it was trained on is not known" in printed
    assert "another generator" not in printed
    summary = json.loads((tmp_path / "summary.json").read_text())
    passed, raw = summary["rows"]
    assert (passed["against"], raw["against"]) == ("reconstruction", "original")
    assert (passed["machine"], passed["human"], passed["paper"], raw["paper"]) == (8, 4, 0.986, None)
    with open(tmp_path / "files.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = {
        condition: [row["label"] == row["truth"] for row in rows if row["condition"] == condition]
        for condition in ("continuation", "reconstruction", "original")
    }
    assert passed["machine_recall"] == np.mean(right["continuation"])
    expected = (np.mean(right["continuation"]) + np.mean(right["reconstruction"])) / 2
    assert passed["balanced_accuracy"] == pytest.approx(expected)
    scores = {
        kind: [
            float(row["probability"]) if kind == "continuation" else 1 - float(row["probability"])
            for row in rows
            if row["condition"] == kind
        ]
        for kind in right
    }
    assert raw["area"] == pytest.approx(slow_area(scores["continuation"], scores["original"]), abs=1e-6)
    with open(tmp_path / "roc.csv", newline="") as file:
        assert {row["against"] for row in csv.DictReader(file)} == {"reconstruction", "original"}
    assert (tmp_path / "detector.svg").read_text().startswith("<?xml")
    before = (tmp_path / "files.csv").read_bytes()
    (tmp_path / "files.csv").write_bytes(before[: len(before) // 2])
    run_verb(command)
    assert (tmp_path / "files.csv").read_bytes() == before
    elsewhere = ["--audio", str(tmp_path / "audio")]
    for other, differs in ((["--seed", "7"], "seed"), (["--limit", "3"], "recordings differ")):
        with pytest.raises(ValueError, match=differs):
            run_verb([*command, *elsewhere, *other])
    assert not (tmp_path / "audio").exists()  # refused before anything is generated


def test_recordings_that_it_was_trained_on_are_refused(recordings: Path, root: Path, tmp_path: Path) -> None:
    here = tmp_path / "root"
    shutil.copytree(root / "detector", here / "detector")
    shutil.copytree(root / "generator", here / "generator")
    split = {"trained": {"human": ["2.wav"], "machine": []}, "held_out": {"human": [], "machine": ["1.wav"]}}
    write_json(here / "detector" / "split.json", split)
    with pytest.raises(ValueError, match=r"trained on 1 of 4 of these recordings, such as 2.flac"):
        run_verb(["evaluate", "detector", "--root", str(here), "--data", str(recordings), *FEW])
    assert not (here / "evaluation").exists()
    with pytest.raises(ValueError, match=r"1 of 4 .* the folder above"):  # of a folder in the one it was trained on
        require_untrained(folder_clips(recordings), Split(frozenset({"s/2.wav"}), frozenset({"1.wav"})))
    above = [replace(clip, id=f"t/{clip.id}") for clip in folder_clips(recordings)]
    require_untrained(above, Split(frozenset({"s/2.wav"}), frozenset({"1.wav"})))
    write_json(here / "detector" / "split.json", {"trained": [], "held_out": {}})
    with pytest.raises(ValueError, match="does not say what was trained"):
        run_verb(["evaluate", "detector", "--root", str(here), "--data", str(recordings), *FEW])


def test_a_short_remainder_is_refused_before_anything_is_classified(
    recordings: Path, root: Path, tmp_path: Path
) -> None:
    command = ["evaluate", "detector", "--root", str(root), "--data", str(recordings), "--out", str(tmp_path / "out")]
    audio = ["--audio", str(tmp_path / "audio"), "--limit", "1"]
    with pytest.raises(ValueError, match=r"1 of 1 recordings have less than 1 s after a prompt of 0.9 s"):
        run_verb([*command, *FEW, *audio, "--prompt-seconds", "0.9"])
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "audio").exists()


def test_the_generator_that_spoke_is_read_from_its_folders(tmp_path: Path) -> None:
    for name, digest in (("a", "g"), ("b", "g"), ("c", "h")):
        write_json(tmp_path / name / "settings.json", {"generator": digest})
    (tmp_path / "samples").mkdir()
    assert generator_of([tmp_path / "a", tmp_path / "b"]) == "g"
    assert generator_of([tmp_path / "samples"]) is None
    with pytest.raises(ValueError, match="Several generators"):
        generator_of([tmp_path / "a", tmp_path / "c"])


def test_measuring_says_how_far_it_is(recordings: Path, root: Path, tmp_path: Path) -> None:
    from audiolm.evaluation.classified import Case
    from audiolm.evaluation.detection import load_detector

    clips = folder_clips(recordings)
    truths = {"continuation": "machine", "reconstruction": "human", "original": "human"}
    cases = [Case(kind, 0, truth, clip) for clip in clips[:2] for kind, truth in truths.items()]
    seen: list[tuple[int, int]] = []
    table = measure_detector(
        load_detector(root / "detector" / "best.ckpt").model,
        cases,
        tmp_path,
        about={},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (6, 6)
    assert next(c.human_recall for c in table.comparisons) == table.comparisons[1].human_recall  # the same audio
