"""A folder of recordings becomes a folder of audio: each file a function of its own prompt, nothing lost, nothing mixed."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from tiny import tones_and_noise

from audiolm.audio import read_audio, read_prompt, write_audio
from audiolm.cli import errors_in_words
from audiolm.generator import AudioLM, Sampling, StageSampling
from audiolm.generator.outputs import LONGEST_ID_BYTES, OutputFolder
from audiolm.generator.prompts import Prompt
from audiolm.manifest import Manifest, read_manifest, write_manifest
from datamodules.prompts import PromptBatches

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings of unequal length, in two folders, three formats and two rates."""
    folder = tmp_path_factory.mktemp("prompts")
    for number, name in enumerate(("a.wav", "b.flac", "deep/a.wav", "deep/er/c.ogg", "deep/d.wav")):
        rate = 22050 if name == "a.wav" else 16000
        samples = 15000 if name == "a.wav" else 9000 + 1111 * number
        write_audio(folder / name, tones_and_noise(samples, seed=number), sample_rate_hz=rate)
    return folder


@pytest.fixture
def generate(chain: Path, prompts: Path, tmp_path: Path, run_stage_of: Callable[..., None]) -> Run:
    """Runs `lightning predict -c stages/generate.yaml` on the prompts; returns the output folder."""

    def run(*arguments: str, folder: Path | None = prompts, out: str = "out") -> Path:
        named = ["--model.prompts", str(folder)] if folder else []
        run_stage_of("generate", chain, *named, "--model.out", str(tmp_path / out), *arguments, verb="predict")
        return tmp_path / out

    return run


def audio_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.wav"))}


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "generated.jsonl").read_text().splitlines()]


def message_of(capsys: pytest.CaptureFixture[str], run: Callable[[], object]) -> str:
    with pytest.raises(SystemExit), errors_in_words():
        run()
    return capsys.readouterr().err


def test_every_recording_is_continued_as_the_generator_does(chain: Path, prompts: Path, generate: Run) -> None:
    out = generate("--data.batch_size", "1", "--seed_everything", "7")
    model = AudioLM.from_pretrained(chain / "generator")
    assert set(audio_bytes(out)) == {"a.wav", "b.wav", "deep/a.wav", "deep/er/c.wav", "deep/d.wav"}
    for path in ("a.wav", "b.flac", "deep/er/c.ogg"):
        id_ = path.rpartition(".")[0]
        prompt = read_prompt(prompts / path, sample_rate_hz=16000, samples=11025 if path == "a.wav" else 8000)
        expected = model.continue_([prompt], seconds=0.4, seed=7, ids=[id_])[0]
        audio = read_audio(out / f"{id_}.wav", sample_rate_hz=16000)
        assert len(audio) == expected.prompt_samples + 6400
        assert torch.allclose(audio, expected.audio.clamp(-1, 1), atol=2**-15)  # a step of 16 bits


def test_reconstructions_pass_the_codec_alone(chain: Path, prompts: Path, generate: Run) -> None:
    out = generate("--model.mode", "reconstruct", "--data.batch_size", "2")
    model = AudioLM.from_pretrained(chain / "generator")
    prompt = read_prompt(prompts / "deep/er/c.ogg", sample_rate_hz=16000)
    audio = read_audio(out / "deep/er/c.wav", sample_rate_hz=16000)
    assert torch.allclose(audio, model.reconstruct(prompt).clamp(-1, 1), atol=2**-15)
    row = json.loads((out / "deep/er/c.wav.json").read_text())
    assert (row["mode"], row["prompt_samples"]) == ("reconstruct", 0)
    assert "seed" not in row  # nothing is drawn


def test_no_more_than_a_limit_are_spoken_on_from_and_the_rest_later(generate: Run) -> None:
    out = generate("--model.limit", "2")
    few = audio_bytes(out)
    assert len(few) == len(rows_of(out)) == 2
    generate()
    every = audio_bytes(out)
    assert len(every) == len(rows_of(out)) == 5
    assert {name: every[name] for name in few} == few


def test_what_made_each_file_stands_beside_it_and_in_one_list(chain: Path, prompts: Path, generate: Run) -> None:
    out = generate("--model.sampling.coarse.top_k", "5", "--model.seed", "3")
    rows = {row["id"]: row for row in rows_of(out)}
    assert rows.keys() == {"a", "b", "deep/a", "deep/er/c", "deep/d"}
    row = json.loads((out / "deep/er/c.wav.json").read_text())
    assert rows["deep/er/c"] == row
    assert row["prompt"] == str(prompts / "deep/er/c.ogg")
    assert row["prompt_samples"] == 7680  # 0.5 s, cut to whole 40 ms
    assert row["samples"] == soundfile.info(out / "deep/er/c.wav").frames == 7680 + 6400
    assert (row["seed"], row["seconds"]) == (3, 0.88)
    settings = json.loads((out / "settings.json").read_text())
    assert settings["generator"] == row["generator"]
    assert settings["sampling"]["coarse"] == {"temperature": 0.8, "top_k": 5, "top_p": None}
    done = json.loads((out / "done.json").read_text())
    assert (done["stage"], done["processes"]) == ("generate", 1)


def test_without_a_folder_the_test_speakers_are_continued(chain: Path, generate: Run) -> None:
    out = generate(folder=None)
    expected = {utterance.id for utterance in read_manifest(chain / "manifest.jsonl").split("test")}
    assert {row["id"] for row in rows_of(out)} == expected
    out = generate("--data.split", "validation", folder=None, out="other")
    expected = {utterance.id for utterance in read_manifest(chain / "manifest.jsonl").split("validation")}
    assert {row["id"] for row in rows_of(out)} == expected


def test_killed_and_run_again_is_as_never_stopped(generate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = audio_bytes(generate(out="whole"))
    real, written = OutputFolder.write, []

    def killed(self, id_, generation, **arguments):
        if len(written) == 3:
            write_audio(self.audio_path(id_), torch.zeros(99), sample_rate_hz=16000)  # the audio, but not yet its JSON
            raise KeyboardInterrupt
        real(self, id_, generation, **arguments)
        written.append(id_)

    monkeypatch.setattr(OutputFolder, "write", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        generate()
    monkeypatch.setattr(OutputFolder, "write", lambda *a, **k: (written.append(a[1]), real(*a, **k)))
    out = generate()
    assert sorted(written) == ["a", "b", "deep/a", "deep/d", "deep/er/c"]  # none twice
    assert audio_bytes(out) == whole
    assert (out / "done.json").exists()


def test_a_run_that_was_told_to_stop_early_says_how_much_is_left_and_goes_on(
    generate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = audio_bytes(generate(out="whole"))
    for arguments, made in ((("--trainer.limit_predict_batches", "1"), 1), (("--trainer.fast_dev_run", "true"), 3)):
        capsys.readouterr()
        out = generate(*arguments)
        assert f"{made} of 5 wav files are made, {5 - made} are left" in capsys.readouterr().out
        assert len(audio_bytes(out)) == made
        assert not (out / "generated.jsonl").exists()
        assert not (out / "done.json").exists()
    assert audio_bytes(generate()) == whole
    assert len(rows_of(out)) == 5
    assert (out / "done.json").exists()


def test_a_finished_folder_with_new_prompts_is_unfinished_until_they_are_made(
    prompts: Path, tmp_path: Path, generate: Run
) -> None:
    mine = Path(shutil.copytree(prompts, tmp_path / "prompts"))
    out = generate(folder=mine)
    for number in range(2):
        write_audio(mine / f"new-{number}.wav", tones_and_noise(9999, seed=number), sample_rate_hz=16000)
    generate("--trainer.limit_predict_batches", "1", "--data.batch_size", "1", folder=mine)
    assert len(audio_bytes(out)) == 6
    assert not (out / "generated.jsonl").exists()
    assert not (out / "done.json").exists()


@pytest.mark.parametrize(
    ("mode", "change", "word"),
    [
        ("continue", {"start": 100}, "prompt_start: 0 there, 100 now"),
        ("resynthesize", {"samples": 20000}, "now"),
    ],
)
def test_another_stretch_of_the_same_file_is_another_prompt(
    chain: Path, tmp_path: Path, generate: Run, capsys: pytest.CaptureFixture[str], mode: str, change: dict, word: str
) -> None:
    before = audio_bytes(generate("--model.mode", mode, folder=None))
    manifest = read_manifest(chain / "manifest.jsonl")
    moved = manifest.split("test")[0]
    assert (moved.start, moved.samples > 20100) == (0, True)
    others = tuple(utterance for utterance in manifest.utterances if utterance != moved)
    changed = replace(moved, **{"samples": moved.samples - 100, **change})
    write_manifest(Manifest(manifest.root, (*others, changed)), tmp_path / "manifest.jsonl")
    again = ("--model.mode", mode, "--data.manifest", str(tmp_path / "manifest.jsonl"))
    message = message_of(capsys, lambda: generate(*again, folder=None))
    assert "1 recordings are others" in message
    assert f"{moved.id}.wav" in message
    assert word in message
    assert audio_bytes(tmp_path / "out") == before


def test_a_finished_folder_is_left_alone_and_a_new_prompt_is_added(
    prompts: Path, tmp_path: Path, generate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Path(shutil.copytree(prompts, tmp_path / "prompts"))
    before = audio_bytes(generate(folder=mine))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.wav")}
    (tmp_path / "out" / "generated.jsonl").unlink()  # killed before the list
    row = json.loads((tmp_path / "out" / "b.wav.json").read_text())
    del row["prompt_file_samples"]  # as the first version wrote it
    (tmp_path / "out" / "b.wav.json").write_text(json.dumps(row))
    generate(folder=mine)
    assert len(rows_of(tmp_path / "out")) == 5
    write_audio(mine / "new.wav", tones_and_noise(9999, seed=9), sample_rate_hz=16000)
    after = audio_bytes(generate(folder=mine))
    assert after.items() > before.items()
    assert "new.wav" in after
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert len(rows_of(tmp_path / "out")) == 6


def test_other_settings_prompts_or_files_of_the_same_name_are_never_mixed(
    prompts: Path, tmp_path: Path, generate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Path(shutil.copytree(prompts, tmp_path / "prompts"))
    before = audio_bytes(generate(folder=mine))
    message = message_of(capsys, lambda: generate("--model.seconds", "0.5", folder=mine))
    assert "seconds: 0.4 there, 0.5 now" in message
    assert "--model.out" in message
    write_audio(mine / "b.flac", tones_and_noise(9000, seed=33), sample_rate_hz=16000)
    assert "1 recordings are others" in message_of(capsys, lambda: generate(folder=mine))
    assert audio_bytes(tmp_path / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.wav").write_bytes(b"my own")
    assert "a.wav is there" in message_of(capsys, lambda: generate(out="mine"))
    assert (tmp_path / "mine" / "a.wav").read_bytes() == b"my own"


def test_another_generator_is_another_setting(
    chain: Path, tmp_path: Path, generate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    generate()
    other = Path(shutil.copytree(chain / "generator", tmp_path / "generator"))
    weights = load_file(other / "fine.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, other / "fine.safetensors")
    message = message_of(capsys, lambda: generate("--model.generator", str(other)))
    assert "generator:" in message


def test_recordings_are_said_again_at_their_own_length(prompts: Path, generate: Run) -> None:
    out = generate("--model.mode", "resynthesize")
    row = {row["id"]: row for row in rows_of(out)}["deep/d"]
    assert row["samples"] == soundfile.info(prompts / "deep" / "d.wav").frames
    assert row["prompt_samples"] == 0


def test_speaking_freely_needs_no_prompts_and_more_can_be_asked_for(chain: Path, generate: Run) -> None:
    free = ("--model.mode", "unconditional", "--data.batch_size", "1")
    before = audio_bytes(generate(*free, "--model.count", "2", folder=None))
    after = audio_bytes(generate(*free, "--model.count", "3", folder=None))
    assert sorted(after) == ["free-0.wav", "free-1.wav", "free-2.wav"]
    assert after.items() > before.items()
    expected = AudioLM.from_pretrained(chain / "generator").unconditional(seconds=0.4, ids=["free-1"])[0].audio
    audio = read_audio(generate(*free, "--model.count", "3", folder=None) / "free-1.wav", sample_rate_hz=16000)
    assert torch.allclose(audio, expected.clamp(-1, 1), atol=2**-15)


def test_the_trainers_precision_changes_nothing_or_is_refused(
    generate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = audio_bytes(generate())
    assert audio_bytes(generate("--trainer.precision", "bf16-mixed", out="mixed")) == whole
    assert "32-true" in message_of(capsys, lambda: generate("--trainer.precision", "bf16-true", out="half"))


def test_unusable_prompts_are_all_named_before_anything_is_generated(
    prompts: Path, tmp_path: Path, generate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Path(shutil.copytree(prompts, tmp_path / "prompts"))
    write_audio(mine / "silent.wav", torch.zeros(16000), sample_rate_hz=16000)
    write_audio(mine / "short.wav", tones_and_noise(1000), sample_rate_hz=16000)
    (mine / "words.wav").write_bytes(b"these are words, not sounds")
    message = message_of(capsys, lambda: generate(folder=mine))
    assert "3 of 8 prompts" in message
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rejected] == ["short", "silent", "words"]
    assert [word in row["reason"] for row, word in zip(rejected, ("100 ms", "silent", "read"), strict=True)] == [
        True
    ] * 3
    assert not audio_bytes(tmp_path / "out")
    for name in ("silent", "short", "words"):
        (mine / f"{name}.wav").unlink()
    generate("--model.seconds", "0.3", folder=mine)  # nothing was generated yet: any settings will do
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


def test_names_that_no_output_can_have_are_named_before_anything_is_generated(
    prompts: Path, tmp_path: Path, generate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, not_utf8, longest = tmp_path / "prompts", os.fsdecode(b"caf\xe9"), "é" * (LONGEST_ID_BYTES // 2)
    mine.mkdir()
    for name in (not_utf8, f"{longest}x", longest):
        shutil.copy(prompts / "a.wav", mine / f"{name}.wav")
    assert len(os.fsencode(longest)) == LONGEST_ID_BYTES
    message = message_of(capsys, lambda: generate(folder=mine))
    assert "2 of 3 prompts" in message
    assert "caf\\udce9.wav': this name is not UTF-8" in message
    assert f"{longest}x.wav: without its suffix the name has {LONGEST_ID_BYTES + 1} bytes" in message
    assert not audio_bytes(tmp_path / "out")
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rejected] == [not_utf8, f"{longest}x"]
    for row in rejected:
        (mine / f"{row['id']}.wav").unlink()
    assert list(audio_bytes(generate(folder=mine))) == [f"{longest}.wav"]  # the longest name that fits does


def test_speaking_elsewhere_notes_nothing_in_the_chains_own_folder(chain: Path, generate: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in (chain / "generate").rglob("*")}
    assert audio_bytes(generate("--model.seconds", "0.2"))
    assert {path: path.stat().st_mtime_ns for path in (chain / "generate").rglob("*")} == before


def test_what_cannot_work_is_said_before_it_starts(
    prompts: Path, tmp_path: Path, generate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"mine")
    twins = tmp_path / "twins"
    for name in ("a.wav", "a.flac"):
        write_audio(twins / name, tones_and_noise(9000), sample_rate_hz=16000)
    for arguments, folder, word in (
        ((), tmp_path / "empty", "no audio file below"),
        ((), tmp_path / "nowhere", "is not there"),
        ((), prompts / "a.wav", "`audiolm generate --prompt` takes files"),
        (("--model.out", str(tmp_path / "file")), prompts, "file is no folder: name another `--model.out`"),
        (("--model.out", str(tmp_path / "file" / "below")), prompts, "file is no folder: name another `--model.out`"),
        ((), twins, "holds both a.flac and a.wav"),
        (("--model.seconds", "0"), prompts, "seconds must be positive"),
        (("--model.prompt_seconds", "0.01"), prompts, "prompt_seconds must be at least"),
        (("--model.out", str(prompts / "out")), prompts, "inside the folder of prompts"),
        (("--model.generator", str(tmp_path)), prompts, "make generator"),
        (("--model.mode", "unconditional"), prompts, "uses no prompts"),
        (("--model.sampling.fine.temperature", "0"), prompts, "fine stage: temperature must be above 0"),
    ):
        assert word in message_of(capsys, lambda a=arguments, f=folder: generate(*a, folder=f)), word
    assert not (tmp_path / "out").exists()
    assert not (prompts / "out").exists()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_batches_keep_their_members_and_are_dealt_alike_whatever_is_left(processes: int) -> None:
    prompts = [Prompt(str(number), samples=100 * (7 * number % 10), sample_rate_hz=100) for number in range(10)]

    def batches(unfinished: set[str]) -> list[list[str]]:
        dataset = PromptBatches(prompts, unfinished=unfinished, batch_size=3, sample_rate_hz=16000, processes=processes)
        return [[prompt.id for prompt in batch] for batch in dataset.batches]

    every = batches({prompt.id for prompt in prompts})
    assert sorted(id_ for batch in every for id_ in batch) == [str(number) for number in range(10)]
    lengths = [max(prompts[int(id_)].samples for id_ in batch) for batch in every if batch]
    assert lengths == sorted(lengths, reverse=True)  # the longest first
    left = batches({"0", "7"})
    assert [batch for batch in left if batch] == [batch for batch in every if {"0", "7"} & set(batch)]
    assert len(every) % processes == len(left) % processes == 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_running_out_of_memory_says_what_to_reduce(
    generate: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AudioLM, "continue_", full)
    message = message_of(capsys, generate)
    assert "--data.batch_size" in message
    assert "--model.seconds" in message


def test_any_sampling_of_the_generator_can_be_set(chain: Path, prompts: Path, generate: Run) -> None:
    names = [("semantic", "temperature", "0.3"), ("coarse", "top_p", "0.9"), ("fine", "top_k", "2")]
    options = [part for stage, name, value in names for part in (f"--model.sampling.{stage}.{name}", value)]
    out = generate("--data.batch_size", "1", *options)
    sampling = StageSampling(Sampling(0.3), Sampling(0.8, top_p=0.9), Sampling(0.6, top_k=2))
    prompt = read_prompt(prompts / "b.flac", sample_rate_hz=16000, samples=8000)
    model = AudioLM.from_pretrained(chain / "generator")
    expected = model.continue_([prompt], seconds=0.4, ids=["b"], sampling=sampling)[0].audio
    audio = read_audio(out / "b.wav", sample_rate_hz=16000)
    assert torch.allclose(audio, expected.clamp(-1, 1), atol=2**-15)
