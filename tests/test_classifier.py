"""The classifier of one second: its network, its windows, what is held out, its batches, its stages."""

import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tones_and_noise, write_tiny_generator
from torch import Tensor, nn

from audiolm.audio import write_audio
from audiolm.checkpoint import StageCheckpoint, load_stage_checkpoint
from audiolm.evaluation.audio_classifier import AudioClassifier, ClassifierConfig
from audiolm.evaluation.calibration import HeldOutScores
from audiolm.evaluation.clips import Clip
from audiolm.evaluation.detector_clips import codec_doubts, detector_clips, recording_of
from audiolm.evaluation.holding_out import SHARE, held_out, place
from audiolm.evaluation.labelled import LabelledClips
from audiolm.evaluation.speaker_clips import speaker_clips
from audiolm.evaluation.windowed import aggregate, window_log_probabilities, window_starts
from audiolm.files import write_json
from datamodules.labelled import LabelledTrainingCrops, LabelledValidationCrops
from datamodules.sharing import Share

Run = Callable[..., None]


def tiny(**sizes: object) -> AudioClassifier:
    torch.manual_seed(0)
    return AudioClassifier(ClassifierConfig(("a", "b", "c"), **{"channels": (4, 8, 8), **sizes}))  # type: ignore[arg-type]


# --- the network


def test_the_network_is_the_papers() -> None:
    convolutions = [m for m in AudioClassifier(ClassifierConfig(("a", "b"))).modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions[::2]] == [64, 128, 256, 256, 512, 512]
    assert [m.kernel_size for m in convolutions] == [(3, 1), (1, 3)] * 6
    model = AudioClassifier(ClassifierConfig(("a", "b")))
    shapes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    assert model.eval()(torch.zeros(1, 16000)).shape == (1, 2)
    assert shapes == [
        (64, 100, 64),
        (128, 50, 32),
        (256, 25, 16),
        (256, 25, 16),
        (512, 13, 8),
        (512, 13, 8),
    ]


@pytest.mark.parametrize(("gain", "offset"), [(0.01, 0.3), (0.5, 0.0), (1.0, -0.2)])
def test_loudness_and_constant_offset_are_not_heard(gain: float, offset: float) -> None:
    model = tiny()
    for _ in range(10):  # moves the running statistics
        model(torch.stack([tones_and_noise(16000, seed=seed) for seed in range(4)]))
    audio, other = tones_and_noise(16000)[None], tones_and_noise(16000, seed=5)[None]
    wanted = model.eval()(audio)
    torch.testing.assert_close(model(gain * audio + offset), wanted, atol=1e-5, rtol=0)  # float32; measured: 1e-6
    assert not torch.allclose(model(other), wanted, atol=1e-3)  # while other sounds are


@pytest.mark.parametrize("shape", [(16000,), (2, 15999), (2, 16001), (2, 1, 16000)])
def test_anything_but_crops_of_one_second_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"exactly 1 s at 16000 Hz"):
        tiny()(torch.zeros(shape))


def test_silence_has_a_finite_score() -> None:
    assert tiny().eval()(torch.zeros(1, 16000)).isfinite().all()


def test_a_classifier_survives_its_checkpoint() -> None:
    model = tiny()
    model(torch.stack([tones_and_noise(16000, seed=seed) for seed in range(4)]))  # moves the running statistics
    model.temperature.fill_(1.5)
    config = json.loads(json.dumps(model.config_dict()))
    again = AudioClassifier.from_checkpoint(StageCheckpoint("speaker", config, model.state_dict()))
    audio = tones_and_noise(16000, seed=9)[None]
    assert again.labels == ("a", "b", "c")
    assert torch.equal(again(audio), model.eval()(audio))
    assert torch.equal(again(audio), again.uncalibrated(audio) / 1.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": ["a"]},
        {"labels": ["a", "a"]},
        {"labels": [1, 2]},
        {"sample_rate_hz": 16001},
        {"channels": []},
        {"channels": [0]},
        {"more": 1},
    ],
)
def test_the_configuration_of_a_stranger_is_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"classifier|ClassifierConfig"):
        AudioClassifier.from_config({**tiny().config_dict(), **wrong})


# --- longer audio


def starts_by_loop(samples: int, rate: int) -> list[int]:
    starts, at = [], 0
    while at * rate // 4 + rate <= samples:
        starts.append(at * rate // 4)
        at += 1
    return starts if starts[-1] + rate == samples else [*starts, samples - rate]


@given(rate=st.sampled_from([1000, 1010, 16000, 22050]), rest=st.integers(0, 100_000))
def test_windows_begin_where_a_loop_puts_them_and_hear_everything(rate: int, rest: int) -> None:
    starts = window_starts(rate + rest, sample_rate_hz=rate)
    assert starts == starts_by_loop(rate + rest, rate)
    assert starts[-1] + rate == rate + rest
    assert starts == sorted(set(starts))


class Beginnings:
    """Scores a crop by its first sample."""

    sample_rate_hz = 1000

    def __call__(self, audio: Tensor) -> Tensor:
        assert audio.shape[1] == 1000
        return torch.stack([audio[:, 0], -audio[:, 0]], dim=1)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_window_is_scored_whatever_the_batch(batch_size: int) -> None:
    audio = torch.arange(2600.0) / 1000
    found = window_log_probabilities(Beginnings(), audio, batch_size=batch_size)
    wanted = torch.tensor([[x, -x] for x in (0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.6)]).log_softmax(-1)
    torch.testing.assert_close(found, wanted)


def test_too_short_audio_is_refused_with_its_length() -> None:
    with pytest.raises(ValueError, match=r"0\.999 s \(999 samples\)"):
        window_log_probabilities(Beginnings(), torch.zeros(999))
    with pytest.raises(ValueError, match=r"one recording"):
        window_log_probabilities(Beginnings(), torch.zeros(1, 1000))


def test_windows_agree_on_the_geometric_mean() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], dtype=torch.float64)
    product = probabilities.prod(0) ** (1 / 3)
    torch.testing.assert_close(aggregate(probabilities.log()), product / product.sum())
    torch.testing.assert_close(aggregate(probabilities[:1].log()), probabilities[0])
    torch.testing.assert_close(aggregate(probabilities.log()), aggregate(probabilities.log().flip(0)))
    with pytest.raises(ValueError, match=r"\(0, 2\)"):
        aggregate(torch.zeros(0, 2))


# --- what is held out


IDS = st.sets(st.text("abcdefgh/0123", min_size=1, max_size=8), min_size=2, max_size=60)


@given(ids=IDS)
def test_some_are_held_out_and_some_are_left(ids: set[str]) -> None:
    assert set() < held_out(ids) < ids


@given(ids=IDS, more=IDS)
def test_what_was_trained_on_is_never_held_out_as_the_corpus_grows(ids: set[str], more: set[str]) -> None:
    if all(place(id_) < SHARE for id_ in ids):
        return  # the exception that is documented
    assert not (ids - held_out(ids)) & held_out(ids | more)


def test_a_tenth_is_held_out_of_many_and_none_of_one() -> None:
    ids = {f"utterance {number}" for number in range(5000)}
    assert len(held_out(ids)) == pytest.approx(500, abs=70)  # three deviations of a binomial are 64
    assert held_out(["alone"]) == set()


def test_speakers_are_read_from_manifests_and_folders_alike(chain: Path, tone_corpus: Path) -> None:
    of_manifest, of_folder = speaker_clips([chain / "manifest.jsonl"]), speaker_clips([tone_corpus])
    assert of_manifest.labels == of_folder.labels == tuple(f"speaker{n}" for n in range(6))
    for known in (of_manifest, of_folder):
        held = known.part(held_out=True)
        assert Counter(held.classes) == dict.fromkeys(range(6), 1)  # of two each
        assert not {(c.path, c.start) for c in held.clips} & {
            (c.path, c.start) for c in known.part(held_out=False).clips
        }
        assert all(known.labels[number] in str(clip.path) for clip, number in known.with_classes())


def test_two_corpora_have_different_people_of_the_same_name(tone_corpus: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tone_corpus, tmp_path / "other"))
    both = speaker_clips([tone_corpus, other])
    assert len(both.labels) == 12
    assert "other/speaker3" in both.labels
    with pytest.raises(ValueError, match=r"of different names"):
        speaker_clips([other, other])


def test_a_speaker_of_one_recording_is_named_or_only_trained_on(tone_corpus: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tone_corpus, tmp_path / "corpus"))
    (folder / "speaker4" / "1.flac").unlink()
    with pytest.raises(ValueError, match=r"1 of 6 speakers.*such as speaker4.*single_utterance train"):
        speaker_clips([folder])
    known = speaker_clips([folder], single_utterance="train")
    assert 4 in known.part(held_out=False).classes
    assert 4 not in known.part(held_out=True).classes


def test_what_is_shorter_than_a_second_is_left_out_by_name(tone_corpus: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tone_corpus, tmp_path / "corpus"))
    write_audio(folder / "speaker1" / "brief.flac", tones_and_noise(15999), sample_rate_hz=16000)
    known = speaker_clips([folder])
    assert known.as_dict()["too_short"] == ["speaker1/brief.flac"]
    assert len(known.clips) == 12


@pytest.fixture(scope="module")
def both_sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ten recordings of tones, and continuations of them in noise, as the generate stage writes them."""
    human, machine = tmp_path_factory.mktemp("human"), tmp_path_factory.mktemp("machine")
    for number in range(10):
        id_, random = f"speaker/{number}", torch.Generator().manual_seed(number)
        write_audio(human / f"{id_}.wav", tones_and_noise(40000, seed=number), sample_rate_hz=16000)
        audio = torch.cat([tones_and_noise(16000, seed=number), 0.1 * torch.randn(24000, generator=random)])
        write_audio(machine / f"{id_}.wav", audio, sample_rate_hz=16000)
        row = {"id": id_, "prompt_samples": 16000, "samples": 40000, "mode": "continue", "seed": 0}
        write_json(machine / f"{id_}.wav.json", row)
    return human, machine


def test_a_recording_is_on_one_side_of_the_split_and_prompts_are_not_heard(both_sides: tuple[Path, Path]) -> None:
    human, machine = both_sides
    known = detector_clips([human], [machine])
    assert known.labels == ("human", "machine")
    parts = [{recording_of(clip) for clip in known.part(held_out=held).clips} for held in (False, True)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {f"speaker/{number}" for number in range(10)}
    assert {(clip.start, clip.samples) for clip, number in known.with_classes() if number} == {(16000, 24000)}
    later = detector_clips([human], [machine], human_start_seconds=1.0)
    assert {(clip.start, clip.samples) for clip in later.clips} == {(16000, 24000)}


def test_numbered_samples_are_on_the_side_of_what_they_were_spoken_on_from(
    both_sides: tuple[Path, Path], tmp_path: Path
) -> None:
    """`audiolm samples` numbers its files; its list says of which utterances they are."""
    items = []
    for number in range(10):
        path = both_sides[1] / "speaker" / f"{number}.wav"
        (tmp_path / f"{number}-continuation.wav").write_bytes(path.read_bytes())
        row = json.loads(path.with_name(path.name + ".json").read_text())
        items.append({**row, "id": f"speaker/{number}", "continuation": f"{number}-continuation.wav"})
    write_json(tmp_path / "samples.json", {"items": items})
    known = detector_clips([both_sides[0]], [tmp_path])
    assert {recording_of(clip) for clip in known.clips} == {f"speaker/{number}" for number in range(10)}
    parts = [{recording_of(clip) for clip in known.part(held_out=held).clips} for held in (False, True)]
    assert not parts[0] & parts[1]


def test_an_utterance_that_was_cut_counts_as_its_recording() -> None:
    assert recording_of(Clip("a/b@1600", Path("x.flac"), 0, 1, 16000)) == "a/b"
    assert recording_of(Clip("a/b.c.wav", Path("b.c.wav"), 0, 1, 16000)) == "a/b.c"


def test_exchanged_or_missing_sides_are_refused(both_sides: tuple[Path, Path], tmp_path: Path) -> None:
    human, machine = both_sides
    with pytest.raises(ValueError, match=r"is a continuation.*exchanged"):
        detector_clips([machine], [machine])
    with pytest.raises(FileNotFoundError, match=r"--model.mode reconstruct"):
        detector_clips([tmp_path / "none"], [machine])
    with pytest.raises(FileNotFoundError, match=r"no continuation"):
        detector_clips([human], [human])


def test_recordings_that_did_not_pass_the_machine_s_codec_are_named(tmp_path: Path) -> None:
    rows = [{"mode": "reconstruct", "generator": "g"}, {"mode": "reconstruct", "generator": "h"}, None]
    for number, row in enumerate(rows):
        write_audio(tmp_path / f"{number}.wav", tones_and_noise(16000, seed=number), sample_rate_hz=16000)
        if row:
            write_json(tmp_path / f"{number}.wav.json", row)
    raw, other = codec_doubts([tmp_path], "g")
    assert raw.startswith(f"1 of 3 recordings of {tmp_path} do not say that they passed a codec")
    assert other.startswith(f"1 of 3 recordings of {tmp_path} passed the codec of another generator (h…)")
    assert codec_doubts([tmp_path], None) == [raw]  # who spoke is not known
    (tmp_path / "2.wav").unlink()
    (tmp_path / "1.wav").unlink()
    assert codec_doubts([tmp_path], "g") == []


# --- batches


def three_speakers(folder: Path) -> LabelledClips:
    """One of 20 s at 8 kHz, two of 1 s and 1.5 s; the sound of each is a constant of its own."""
    clips, held = [], []
    for number, seconds in enumerate((20, 1, 1.5)):
        rate = 8000 if number == 0 else 16000
        path = folder / f"{number}.wav"
        write_audio(path, torch.full((int(seconds * rate),), 0.1 * (number + 1)), sample_rate_hz=rate)
        clips.append(Clip(str(number), path, 0, int(seconds * rate), rate))
        held.append(False)
    return LabelledClips(("a", "b", "c"), tuple(clips), (0, 1, 2), tuple(held))


def test_every_class_is_heard_equally_often_and_batches_are_shared(tmp_path: Path) -> None:
    known = three_speakers(tmp_path)
    crops = LabelledTrainingCrops(known, sample_rate_hz=16000, batch_size=4, seed=3)
    batches = [crops[number] for number in range(6)]
    assert Counter(torch.cat([batch.classes for batch in batches]).tolist()) == {0: 8, 1: 8, 2: 8}
    for batch in batches:
        assert batch.audio.shape == (4, 16000)
        torch.testing.assert_close(
            batch.audio[:, 8000], 0.1 * (batch.classes + 1), atol=2e-3, rtol=0
        )  # 16 bits, resampled
    halves = [
        LabelledTrainingCrops(known, sample_rate_hz=16000, batch_size=4, seed=3, share=Share(rank, 2))
        for rank in (0, 1)
    ]
    for rank, half in enumerate(halves):
        assert torch.equal(half[2].audio, batches[2].audio[rank::2])
        assert torch.equal(half[2].classes, batches[2].classes[rank::2])
    other = LabelledTrainingCrops(known, sample_rate_hz=16000, batch_size=4, seed=4)
    assert any(not torch.equal(other[n].classes, batches[n].classes) for n in range(6))


def test_a_file_that_vanished_is_listed_and_another_crop_keeps_its_own_label(tmp_path: Path) -> None:
    known = three_speakers(tmp_path)
    known.clips[1].path.unlink()
    crops = LabelledTrainingCrops(known, sample_rate_hz=16000, batch_size=6, seed=0)
    batch = crops[0]
    assert {one.id for one in batch.unreadable} == {"1"}
    assert 1 not in batch.classes
    torch.testing.assert_close(batch.audio[:, 8000], 0.1 * (batch.classes + 1), atol=2e-3, rtol=0)


def test_validation_hears_every_crop_once_and_weighs_classes_alike(tmp_path: Path) -> None:
    known = three_speakers(tmp_path)
    crops = LabelledValidationCrops(known, sample_rate_hz=16000, batch_size=4)
    batches = [crops[number] for number in range(len(crops))]
    classes, weights = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("classes", "weights"))
    assert Counter(classes.tolist()) == {0: 20, 1: 1, 2: 1}
    sums = [float(weights[classes == number].sum()) for number in range(3)]
    np.testing.assert_allclose(sums, 22 / 3, rtol=1e-6)
    shares = [LabelledValidationCrops(known, sample_rate_hz=16000, batch_size=4, share=Share(r, 4)) for r in range(4)]
    assert len({len(share) for share in shares}) == 1
    total = sum(float(share[n].weights.sum()) for share in shares for n in range(len(share)))
    assert total == pytest.approx(22, rel=1e-6)  # what is read twice has no weight


# --- calibration


def test_the_temperature_undoes_what_made_scores_too_sure() -> None:
    random = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(4000, 3, generator=random)
    classes = torch.multinomial(honest.softmax(-1), 1, generator=random)[:, 0]
    scores = HeldOutScores()
    for part in range(4):
        rows = slice(part, None, 4)
        scores.update(4 * honest[rows], classes[rows], torch.ones(1000))
    found = scores.compute()
    assert float(found["temperature"]) == pytest.approx(4, rel=0.1)  # the grid is 9 % apart
    assert found["loss"] < found["uncalibrated_loss"]
    torch.testing.assert_close(
        found["uncalibrated_loss"], nn.functional.cross_entropy(4 * honest, classes), rtol=1e-4, atol=0
    )
    assert float(found["accuracy"]) == pytest.approx(float((honest.argmax(-1) == classes).float().mean()), abs=1e-6)


@pytest.mark.parametrize("count", [20, 200])
def test_what_was_never_wrong_on_n_crops_is_not_surer_than_n_crops_can_tell(count: int) -> None:
    """Platt's targets: without them the temperature runs to the grid's end, and a detector says 1e-300."""
    classes = torch.arange(2 * count) % 2
    scores = HeldOutScores()
    logits = 20.0 * nn.functional.one_hot(classes, 2)
    scores.update(logits, classes, torch.ones(len(classes)))
    temperature = float(scores.compute()["temperature"])
    sure = float((logits / temperature).softmax(-1).max())
    assert sure == pytest.approx((count + 1) / (count + 2), abs=0.5 / count)


# --- the stages


@pytest.fixture(scope="module")
def made(both_sides: tuple[Path, Path], run_stage_of: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a detector that was trained for seconds to tell tones from noise."""
    root = tmp_path_factory.mktemp("root")
    run_stage_of("detector", root, *options(both_sides), "--trainer.precision", "32-true")
    return root


def options(sides: tuple[Path, Path]) -> list[str]:
    training = ["--trainer.max_steps", "40", "--trainer.val_check_interval", "20", "--resume.every_n_train_steps", "10"]
    rate = ["--model.learning_rate", "0.02", "--model.warmup_steps", "2", "--data.batch_size", "8"]
    return ["--model.human", f"[{sides[0]}]", "--model.machine", f"[{sides[1]}]", *training, *rate]


def test_a_detector_learns_to_tell_tones_from_noise(made: Path, both_sides: tuple[Path, Path]) -> None:
    checkpoint = load_stage_checkpoint(made / "detector" / "best.ckpt", stage="detector")
    model = AudioClassifier.from_checkpoint(checkpoint)
    assert model.labels == ("human", "machine")
    held = detector_clips([both_sides[0]], [both_sides[1]]).part(held_out=True)
    for clip, number in held.with_classes():
        probabilities = aggregate(window_log_probabilities(model, clip.read(sample_rate_hz=16000)))
        assert int(probabilities.argmax()) == number
    split = json.loads((made / "detector" / "split.json").read_text())
    assert sorted(split["held_out"]["human"]) == sorted(clip.id for clip, number in held.with_classes() if number == 0)


def test_a_stopped_detector_goes_on_as_if_it_had_not_been(
    made: Path, both_sides: tuple[Path, Path], run_stage_of: Run, tmp_path: Path
) -> None:
    from kills import differences, last_state, logged
    from test_resume import ask_options

    more = ("--trainer.precision", "32-true", "--ckpt_path", "last")
    with pytest.raises(SystemExit):
        run_stage_of("detector", tmp_path, *options(both_sides), *more, *ask_options(signal.SIGTERM, 15))
    assert not (tmp_path / "detector" / "done.json").exists()
    run_stage_of("detector", tmp_path, *options(both_sides), *more)
    assert not differences(last_state(tmp_path / "detector"), last_state(made / "detector"))
    assert logged(tmp_path / "detector") == logged(made / "detector")


@pytest.mark.parametrize("preset", ["paper", "small", "demo"])
def test_the_speaker_stage_runs_at_tiny_size(chain: Path, tmp_path: Path, run_stage_of: Run, preset: str) -> None:
    shutil.copy(chain / "manifest.jsonl", tmp_path)
    run_stage_of("speaker", tmp_path, presets=() if preset == "paper" else (preset,))
    checkpoint = load_stage_checkpoint(tmp_path / "speaker" / "best.ckpt", stage="speaker")
    assert AudioClassifier.from_checkpoint(checkpoint).labels == tuple(f"speaker{number}" for number in range(6))
    assert (tmp_path / "speaker" / "done.json").exists()


@pytest.mark.parametrize("preset", ["paper", "small", "demo"])
def test_the_detector_stage_runs_at_tiny_size(
    both_sides: tuple[Path, Path], tmp_path: Path, run_stage_of: Run, preset: str
) -> None:
    for folder, name in zip(both_sides, ("reconstruction", "continuation-0"), strict=True):
        shutil.copytree(folder, tmp_path / "evaluation" / "audio-train" / name)
    run_stage_of("detector", tmp_path, presets=() if preset == "paper" else (preset,))
    assert (tmp_path / "detector" / "done.json").exists()


def test_the_detector_learns_from_what_the_generate_stage_writes(
    tone_corpus: Path, tmp_path: Path, run_stage_of: Run
) -> None:
    write_tiny_generator(tmp_path / "generator")
    made = tmp_path / "evaluation" / "audio-train"
    for mode, name in (("reconstruct", "reconstruction"), ("continue", "continuation-0")):
        more = ("--model.seconds", "1.2", "--model.prompts", str(tone_corpus), "--model.out", str(made / name))
        run_stage_of("generate", tmp_path, "--model.mode", mode, *more, verb="predict")
    run_stage_of("detector", tmp_path)
    split = json.loads((tmp_path / "detector" / "split.json").read_text())
    assert len(split["held_out"]["human"]) == len(split["held_out"]["machine"]) > 0
    known = detector_clips([made / "reconstruction"], [made / "continuation-0"])
    starts = {clip.start for clip, number in known.with_classes() if known.labels[number] == "machine"}
    assert starts == {7680}  # half a second of prompt in whole units: 12 of 40 ms


def test_pieces_and_other_lengths_of_crops_are_refused(chain: Path, tmp_path: Path, run_stage_of: Run) -> None:
    shutil.copy(chain / "manifest.jsonl", tmp_path)
    with pytest.raises(ValueError, match=r"SpeakerStage does not add up gradients.*Set it to null"):
        run_stage_of("speaker", tmp_path, "--data.micro_batch_size", "2")
    with pytest.raises(ValueError, match=r"1 s at once: window_seconds is 2"):
        run_stage_of("speaker", tmp_path, "--data.window_seconds", "2")
