"""The conditions of the paper's evaluation: the same recordings through the codec, said again, and spoken on from."""

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from audiolm.audio import AudioError, write_audio
from audiolm.corpus import prepare
from audiolm.evaluate_conditions import add_condition_options, chosen_clips, condition_clips_of
from audiolm.evaluation.clips import clips_digest, folder_clips, split_clips
from audiolm.evaluation.conditions import KINDS, Protocol, condition_clips, condition_id
from audiolm.generator import AudioLM
from audiolm.lock import FolderInUseError, only_one
from tests.tiny import tones_and_noise, write_tiny_generator

PROTOCOL = Protocol(samplings=2, prompt_seconds=0.6, seconds=0.5, batch_size=2)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    write_tiny_generator(folder)
    return folder


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    for number, (name, seconds) in enumerate([("s1/a.flac", 1.0), ("s1/b.wav", 0.7), ("s2/a.b.flac", 0.9)]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(folder / name, tones_and_noise(round(seconds * 16000), seed=number), sample_rate_hz=16000)
    return folder


def made(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.wav")}


def test_every_kind_has_the_same_recordings_in_the_same_order(
    recordings: Path, generator: Path, tmp_path: Path
) -> None:
    clips = folder_clips(recordings)
    seen: list[tuple[int, int]] = []
    found = condition_clips(
        clips,
        KINDS,
        generator=generator,
        folder=tmp_path / "audio",
        protocol=PROTOCOL,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert {kind: len(samplings) for kind, samplings in found.items()} == {
        "original": 1,
        "reconstruction": 1,
        "acoustic": 2,
        "continuation": 2,
    }
    for samplings in found.values():
        for sampling in samplings:
            assert [clip.id for clip in sampling] == [clip.id for clip in clips]
    assert seen[-1] == (15, 15)
    for kind, seconds in (
        ("reconstruction", [1.0, 0.7, 0.9]),
        ("acoustic", [1.0, 0.7, 0.9]),
        ("continuation", [0.5] * 3),
    ):
        for sampling in found[kind]:  # type: ignore[index]
            assert [clip.samples / clip.sample_rate_hz for clip in sampling] == pytest.approx(seconds)
            assert all(len(clip.read(sample_rate_hz=16000)) == clip.samples for clip in sampling)


def test_reconstructions_and_continuations_are_those_of_the_generator(
    recordings: Path, generator: Path, tmp_path: Path
) -> None:
    clip = folder_clips(recordings)[0]
    found = condition_clips([clip], KINDS, generator=generator, folder=tmp_path / "audio", protocol=PROTOCOL)
    model, audio = AudioLM.from_pretrained(generator), clip.read(sample_rate_hz=16000)
    audio = audio - audio.mean()
    expected = {
        "reconstruction": model.reconstruct(audio),
        "acoustic": model.resynthesize([audio], seed=1, ids=["s1/a"])[0].audio,
    }
    prompt = audio[:9600] - audio[:9600].mean()
    continued = model.continue_([prompt], seconds=0.5, seed=1, ids=["s1/a"])[0]
    expected["continuation"] = continued.audio[continued.prompt_samples :]
    for kind, waveform in expected.items():
        heard = found[kind][-1][0].read(sample_rate_hz=16000)  # type: ignore[index]
        torch.testing.assert_close(heard, waveform.clamp(-1, 1), atol=2e-3, rtol=0)


def test_what_is_there_is_used_and_a_killed_run_goes_on(
    recordings: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, folder = folder_clips(recordings), tmp_path / "audio"

    def make(out: Path) -> None:
        condition_clips(clips, ["acoustic"], generator=generator, folder=out, protocol=PROTOCOL)

    make(tmp_path / "whole")
    calls = 0
    original = AudioLM.resynthesize

    def dies(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(*arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(AudioLM, "resynthesize", dies)
        with pytest.raises(KeyboardInterrupt):
            make(folder)
    assert 0 < len(made(folder)) < 6
    make(folder)
    assert made(folder) == made(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(AudioLM, "resynthesize", dies)
        calls = 1  # the next call would die
        make(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda recordings: (recordings / "s1/b.wav").write_bytes(b"RIFFnothing"), "b.wav"),
        (lambda recordings: write_audio(recordings / "s1/b.wav", torch.zeros(16000), sample_rate_hz=16000), "silent"),
        (
            lambda recordings: write_audio(recordings / "s1/a.wav", tones_and_noise(16000), sample_rate_hz=16000),
            "differ in their suffix only",
        ),
    ],
)
def test_recordings_that_cannot_be_used_are_named_before_anything_is_made(
    recordings: Path, generator: Path, tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    change(recordings)
    with pytest.raises((ValueError, AudioError), match=words):
        condition_clips(
            folder_clips(recordings), KINDS, generator=generator, folder=tmp_path / "audio", protocol=PROTOCOL
        )
    assert not list(tmp_path.glob("audio/**/*.wav"))


def test_other_settings_never_get_into_the_same_folder(recordings: Path, generator: Path, tmp_path: Path) -> None:
    clips = folder_clips(recordings)
    condition_clips(clips, ["continuation"], generator=generator, folder=tmp_path / "audio", protocol=PROTOCOL)
    before = made(tmp_path / "audio")
    other = Protocol(samplings=1, prompt_seconds=0.6, seconds=0.4)
    with pytest.raises(ValueError, match="seconds: 0.5 there, 0.4 now.*--audio"):
        condition_clips(clips, ["continuation"], generator=generator, folder=tmp_path / "audio", protocol=other)
    assert made(tmp_path / "audio") == before


def test_two_runs_never_make_the_same_audio(recordings: Path, generator: Path, tmp_path: Path) -> None:
    clips = folder_clips(recordings)
    with (
        only_one(tmp_path / "audio" / "reconstruction", what="lightning predict, generate stage"),
        pytest.raises(FolderInUseError, match="lightning predict, generate stage"),
    ):
        condition_clips(clips, ["reconstruction"], generator=generator, folder=tmp_path / "audio", protocol=PROTOCOL)
    assert not made(tmp_path / "audio")


def test_ids_are_those_of_the_generate_stage(recordings: Path) -> None:
    assert [condition_id(clip) for clip in folder_clips(recordings)] == ["s1/a", "s1/b", "s2/a.b"]


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_condition_options(parser)
    return parser.parse_args(arguments)


def test_utterances_whose_audio_was_replaced_are_others(tone_corpus: Path, tmp_path: Path) -> None:
    """The manifest stays as it is, and so do lengths: rows of the old audio were taken for those of the new."""
    corpus = Path(shutil.copytree(tone_corpus, tmp_path / "corpus"))
    prepare(corpus, tmp_path)
    before = split_clips(tmp_path / "manifest.jsonl", "test")
    assert clips_digest(split_clips(tmp_path / "manifest.jsonl", "test")) == clips_digest(before)
    assert before[0].path.is_relative_to(corpus)
    stat = before[0].path.stat()
    os.utime(before[0].path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert clips_digest(split_clips(tmp_path / "manifest.jsonl", "test")) != clips_digest(before)


def test_recordings_are_chosen_by_length(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = chosen_clips(options("--data", str(recordings), "--least-seconds", "0.8", "--most-seconds", "inf"))
    assert [clip.id for clip in chosen] == ["s1/a.flac", "s2/a.b.flac"]
    assert "2 of 3 recordings are 0.8 to inf s long" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"none of 3 recordings \(0.7 to 1.0 s\) is 4 to 10 s long"):
        chosen_clips(options("--data", str(recordings)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit", "0"], "--limit"),
        (["--least-seconds", "5", "--most-seconds", "4"], "--least-seconds"),
        (["--samplings", "0"], "samplings"),
        (["--seconds", "nan"], "--seconds"),
        (["--generator", "nowhere"], "nowhere"),
    ],
)
def test_options_out_of_range_are_named(recordings: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    given = options("--data", str(recordings), "--least-seconds", "0.5", "--root", str(tmp_path), *arguments)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        condition_clips_of(given, KINDS, lambda done, total: None)


def test_the_options_make_what_the_function_makes(recordings: Path, generator: Path, tmp_path: Path) -> None:
    given = options(
        *("--data", str(recordings), "--least-seconds", "0.5", "--root", str(tmp_path), "--generator", str(generator)),
        *("--samplings", "1", "--prompt-seconds", "0.6", "--seconds", "0.5"),
    )
    found = condition_clips_of(given, ["original", "continuation"], lambda done, total: None)
    assert set(found) == {"original", "continuation"}
    listed = (tmp_path / "evaluation/audio/continuation-0/generated.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in listed] == ["s1/a", "s1/b", "s2/a.b"]
