"""The fault matrix: what a user sees, that nothing finished is lost, and that the same command then ends as undisturbed.

`make test-long`. Faults are injected from here into a process of their own; no product code knows of them.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import (
    Fault,
    Outcome,
    before_call,
    fill,
    from_call,
    interrupt,
    kill,
    killed_at_replace,
    run,
    stage_command,
)

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.checksums import sidecar
from audiolm.demo_corpus.write import write_demo_corpus
from audiolm.evaluation.curves import read_curves
from audiolm.manifest import read_manifest
from audiolm.stages.resume import newest_valid
from audiolm.tokens.store import TokenStore, written_ids

SAMPLES = ("--seconds", "0.5", "--prompt-seconds", "0.5", "--count", "2")


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Every file below a folder; hidden ones are leftovers, which nobody reads."""
    files = (path for path in folder.rglob(pattern) if path.is_file() and path.name != "done.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def leftovers(folder: Path) -> list[Path]:
    """What a killed process had begun beside its folder; the lock stays there for the next."""
    return [path for path in folder.parent.glob(f".{folder.name}*") if not path.name.endswith(".lock")]


def tokens(folder: Path) -> dict[str, list[torch.Tensor]]:
    store = TokenStore(folder)
    return {id_: [store.units(row), store.codes(row)] for row, id_ in enumerate(store.ids)}


def equal_tokens(ours: Path, theirs: Path) -> bool:
    one, two = tokens(ours), tokens(theirs)
    return one.keys() == two.keys() and all(
        torch.equal(a, b) for id_ in one for a, b in zip(one[id_], two[id_], strict=True)
    )


def weights_digest(root: Path, stage: str) -> str:
    return load_stage_checkpoint(root / stage / "best.ckpt", stage=stage).digest


def assert_killed(outcome: Outcome) -> None:
    assert outcome.signal == signal.SIGKILL, outcome.screen


def assert_said(outcome: Outcome, *words: object, code: int = 1) -> None:
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.screen, outcome.screen
    missing = [word for word in words if str(word) not in " ".join(outcome.screen.split())]
    assert not missing, outcome.screen


def assert_finished(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.screen


# ------------------------------------------------------------------------------------- kill -9 while a store is written


def kill_in_append(moment: str) -> Fault:
    """kill -9 in the third append: after the units, after the codes, or in the middle of the line that counts them."""

    def torn(writer: Any, **_: Any) -> None:
        file = {"units": writer._units, "codes": writer._codes, "line": writer._lines}[moment]

        class Torn:
            def write(self, data: bytes) -> None:
                file.write(data[: len(data) // 2] if moment == "line" else data)
                file.flush()
                kill()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        setattr(writer, {"units": "_units", "codes": "_codes", "line": "_lines"}[moment], Torn())

    return before_call("audiolm.tokens.store:TokenStoreWriter.append", 3, torn)


@pytest.mark.parametrize("moment", ["units", "codes", "line"])
def test_a_kill_between_the_files_of_the_store_loses_one_utterance_at_most(
    root: Path, chain: Path, moment: str
) -> None:
    shutil.rmtree(root / "tokens")
    assert_killed(run(stage_command("tokenize", root), fault=kill_in_append(moment)))
    assert len(written_ids(root / "tokens")) == 2
    assert not (root / "tokens" / "sealed.json").exists()
    assert_finished(run(stage_command("tokenize", root)))
    assert equal_tokens(root / "tokens", chain / "tokens")


@pytest.mark.parametrize("name", ["index.npy", "ids.txt", "speakers.txt", "sealed.json"])
def test_a_kill_in_the_seal_leaves_an_unsealed_store_that_the_next_start_seals(
    root: Path, chain: Path, name: str
) -> None:
    shutil.rmtree(root / "tokens")
    assert_killed(run(stage_command("tokenize", root), fault=killed_at_replace(name)))
    assert written_ids(root / "tokens") == set(TokenStore(chain / "tokens").ids)
    with pytest.raises(ValueError, match="not sealed"):
        TokenStore(root / "tokens")
    assert_finished(run(stage_command("tokenize", root)))
    assert equal_tokens(root / "tokens", chain / "tokens")


# ------------------------------------------------------------------------------------------------ kill -9 in the verbs


@pytest.mark.parametrize("file", [1, 3, 5])
def test_a_kill_in_compose_keeps_the_generator_that_stood_there(root: Path, file: int) -> None:
    before = contents(root / "generator")
    command = ["audiolm", "compose", "--root", root]
    assert_killed(run(command, fault=before_call("audiolm.generator.folder:save_file", file, kill)))
    assert contents(root / "generator") == before
    assert_finished(run(command))
    assert contents(root / "generator") == before
    assert not leftovers(root / "generator")


@pytest.mark.parametrize("moment", ["scanning", "manifest.jsonl"])
def test_a_kill_in_prepare_keeps_what_was_scanned(corpus: Path, chain: Path, tmp_path: Path, moment: str) -> None:
    command = ["audiolm", "prepare", "--data", corpus, "--root", tmp_path / "new", "--workers", "1"]
    fault = before_call("audiolm.scan:_probe", 6, kill) if moment == "scanning" else killed_at_replace(moment)
    assert_killed(run(command, fault=fault))
    assert not (tmp_path / "new" / "manifest.jsonl").exists()
    assert_finished(run(command))
    assert read_manifest(tmp_path / "new" / "manifest.jsonl").digest == read_manifest(chain / "manifest.jsonl").digest


def test_a_kill_in_samples_keeps_those_that_stood_there(root: Path) -> None:
    before = contents(root / "samples", "*.wav")
    command = ["audiolm", "samples", "--root", root, *SAMPLES]
    assert_killed(run(command, fault=before_call("audiolm.evaluation.samples:_write", 4, kill)))
    assert contents(root / "samples", "*.wav") == before
    assert_finished(run(command))
    assert contents(root / "samples", "*.wav") == before
    assert not leftovers(root / "samples")


def test_a_kill_in_the_demo_corpus_leaves_none_and_the_next_start_writes_the_same(tmp_path: Path) -> None:
    command = ["audiolm", "demo-corpus", "--out", tmp_path / "demo", "--voices", "3", "--seconds-per-voice", "3"]
    assert_killed(run(command, fault=before_call("audiolm.demo_corpus.write:write_audio", 3, kill)))
    assert not (tmp_path / "demo").exists()
    assert_finished(run(command))
    write_demo_corpus(tmp_path / "undisturbed", voices=3, seconds_per_voice=3)
    assert contents(tmp_path / "demo") == contents(tmp_path / "undisturbed")
    assert not leftovers(tmp_path / "demo")


# ------------------------------------------------------------------------------------------------------------ full disk


def fill_before(target: str, number: int, disk: Path, *, free_bytes: int = 0) -> Fault:
    return before_call(target, number, lambda *_, **__: fill(disk, free_bytes=free_bytes))


@pytest.mark.parametrize("stage", ["semantic", "codec"])
def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(
    root: Path, chain: Path, small_disk: Callable[..., Path], stage: str
) -> None:
    shutil.rmtree(root / stage)
    disk = small_disk(root / stage, kilobytes=30_000)
    save = "lightning.pytorch.trainer.trainer:Trainer.save_checkpoint"
    outcome = run(stage_command(stage, root), fault=fill_before(save, 3, disk, free_bytes=30_000))
    assert_said(outcome, f"{stage}/", ".ckpt", "The disk is full", "free some space", "run the same command again")
    kept = newest_valid(root / stage / "resume")
    assert kept is not None
    assert torch.load(kept, weights_only=True)["global_step"] >= 4
    (disk / "filler").unlink()
    assert_finished(run(stage_command(stage, root)))
    assert weights_digest(root, stage) == weights_digest(chain, stage)
    assert not list(disk.glob(".*.part"))


def test_a_full_disk_at_a_checkpoint_of_two_processes_keeps_the_one_before(
    root: Path, small_disk: Callable[..., Path]
) -> None:
    shutil.rmtree(root / "fine")
    disk = small_disk(root / "fine", kilobytes=2_000)
    command = stage_command("fine", root, "--trainer.strategy", "fsdp")
    save = "lightning.pytorch.trainer.trainer:Trainer.save_checkpoint"

    def fill_it(*_: Any, **__: Any) -> None:
        if os.environ["LOCAL_RANK"] == "0":  # the other waits for it before it writes
            fill(disk, free_bytes=20_000)

    outcome = run(command, fault=before_call(save, 3, fill_it), processes=2)
    assert_said(outcome, root / "fine", "The disk is full", "free some space", "run the same command again")
    kept = newest_valid(root / "fine" / "resume")
    assert kept is not None
    assert kept.name == "step-00000004.ckpt"
    (disk / "filler").unlink()
    assert_finished(run(command, processes=2))
    assert not list(disk.glob(".*.part"))


def test_a_full_disk_at_the_log_keeps_its_lines_and_says_where(
    root: Path, chain: Path, small_disk: Callable[..., Path]
) -> None:
    shutil.rmtree(root / "semantic")
    disk = small_disk(root / "semantic" / "log", kilobytes=200)
    outcome = run(
        stage_command("semantic", root),
        fault=fill_before("lightning.pytorch.loggers.csv_logs:CSVLogger.save", 6, disk),
    )
    assert_said(outcome, "semantic/log", "The disk is full", "run the same command again")
    (disk / "filler").unlink()
    assert_finished(run(stage_command("semantic", root)))
    assert weights_digest(root, "semantic") == weights_digest(chain, "semantic")
    curve = read_curves(root / "semantic" / "log")["train/loss"]
    undisturbed = read_curves(chain / "semantic" / "log")["train/loss"]
    assert curve.steps.tolist() == undisturbed.steps.tolist()
    assert curve.values.tolist() == undisturbed.values.tolist()


@pytest.mark.parametrize("moment", ["append", "seal"])
def test_a_full_disk_while_tokenizing_keeps_whole_utterances(
    root: Path, chain: Path, small_disk: Callable[..., Path], moment: str
) -> None:
    shutil.rmtree(root / "tokens")
    disk = small_disk(root / "tokens", kilobytes=400)
    target = "audiolm.tokens.store:TokenStoreWriter.append" if moment == "append" else "audiolm.stages.tokenize:seal"
    outcome = run(stage_command("tokenize", root), fault=fill_before(target, 5 if moment == "append" else 1, disk))
    assert_said(outcome, root / "tokens", "The disk is full", "run the same command again")
    assert len(written_ids(root / "tokens")) >= 4
    (disk / "filler").unlink()
    assert_finished(run(stage_command("tokenize", root)))
    assert equal_tokens(root / "tokens", chain / "tokens")


def test_a_full_disk_in_compose_keeps_the_generator_that_stood_there(
    root: Path, small_disk: Callable[..., Path]
) -> None:
    before = contents(root / "generator")
    disk = small_disk(root / "disk", kilobytes=4_000)
    command = ["audiolm", "compose", "--root", root, "--out", disk / "generator"]
    assert_finished(run(command))
    outcome = run(command, fault=fill_before("audiolm.generator.folder:save_file", 2, disk, free_bytes=8_192))
    assert_said(outcome, disk / "generator", "The disk is full", "run the same command again")
    assert contents(disk / "generator") == before
    (disk / "filler").unlink()
    assert_finished(run(command))
    assert contents(disk / "generator") == before


def test_a_full_disk_in_prepare_keeps_what_was_scanned(
    corpus: Path, chain: Path, tmp_path: Path, small_disk: Callable[..., Path]
) -> None:
    disk = small_disk(tmp_path / "new", kilobytes=64)
    command = ["audiolm", "prepare", "--data", corpus, "--root", disk]
    outcome = run(command, fault=fill_before("audiolm.corpus:write_manifest", 1, disk))
    assert_said(outcome, disk, "The disk is full")
    assert (disk / "scan.jsonl").exists()
    (disk / "filler").unlink()
    assert_finished(run(command))
    assert read_manifest(disk / "manifest.jsonl").digest == read_manifest(chain / "manifest.jsonl").digest


def test_a_full_disk_in_samples_keeps_nothing_half_made(root: Path, small_disk: Callable[..., Path]) -> None:
    before = contents(root / "samples", "*.wav")
    new = small_disk(root.parent / "disk", kilobytes=8_000)
    for name in ("generator", "manifest.jsonl"):
        (shutil.copytree if (root / name).is_dir() else shutil.copy)(root / name, new / name)
    command = ["audiolm", "samples", "--root", new, *SAMPLES]
    outcome = run(command, fault=fill_before("audiolm.evaluation.samples:_write", 3, new))
    assert_said(outcome, "samples", "disk is full")
    assert not (new / "samples").exists()
    (new / "filler").unlink()
    assert_finished(run(command))
    assert contents(new / "samples", "*.wav") == before


# ------------------------------------------------------------------------- recordings that vanish while a stage trains


def vanish(path: Any, *_: Any, **__: Any) -> None:
    if len(list(path.parents[1].rglob("*.flac"))) == 12:  # one is enough, whoever reads
        os.unlink(path)


READ = "datamodules.waveforms:read_audio"
MORE_MAY = ("--data.max_unreadable_share", "0.2")  # of 12 files: 3


def audio_stage(stage: str, root: Path, *more: object) -> list[object]:
    shutil.rmtree(root / stage, ignore_errors=True)
    return stage_command(stage, root, *more)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stage", ["codec", "encoder", "tokenizer", "detokenizer_codes", "detokenizer_units"])
def test_a_recording_that_vanishes_is_replaced_named_and_listed(root: Path, stage: str, workers: int) -> None:
    outcome = run(audio_stage(stage, root, *MORE_MAY, "--data.workers", workers), fault=before_call(READ, 3, vanish))
    assert_finished(outcome)
    listed = [json.loads(line) for line in (root / stage / "unreadable.jsonl").read_text().splitlines()]
    assert len(listed) == 1
    assert outcome.screen.count(f"{listed[0]['path']} does not exist") == 1, outcome.screen
    if stage != "tokenizer":  # counts in its log are of k-means
        assert read_curves(root / stage / "log")["train/unreadable"].last == 1


@pytest.mark.parametrize("stage", ["encoder", "codec"])
def test_two_processes_keep_one_list_of_what_vanished(root: Path, stage: str) -> None:
    more = ("--trainer.max_steps", 6, "--trainer.callbacks+=spoiling.RecordingsVanish")
    outcome = run(audio_stage(stage, root, *MORE_MAY, *more), processes=2)
    assert_finished(outcome)
    listed = [json.loads(line)["path"] for line in (root / stage / "unreadable.jsonl").read_text().splitlines()]
    assert 1 <= len(listed) <= 2
    assert len(set(listed)) == len(listed)
    assert all(f"{path} does not exist" in outcome.screen for path in listed)
    assert read_curves(root / stage / "log")["train/unreadable"].last == len(listed)


def test_nan_on_one_of_two_processes_is_skipped_by_both(root: Path) -> None:
    shutil.rmtree(root / "coarse")
    more = ("--trainer.callbacks+=spoiling.NanOnOneProcess", "--trainer.callbacks+=processes.RankWeights")
    assert_finished(run(stage_command("coarse", root, *more), processes=2))
    ranks = [torch.load(root / "coarse" / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) and ranks[0][name].isfinite().all() for name in ranks[0])
    assert read_curves(root / "coarse" / "log")["train/skipped_steps"].last == 1


def test_a_second_run_in_the_same_folder_is_refused_by_name(root: Path) -> None:
    shutil.rmtree(root / "semantic")
    second: list[Outcome] = []

    def start_another(*_: Any, **__: Any) -> None:
        os.environ["PYTEST_SCREEN"] += ".second"
        second.append(run(stage_command("semantic", root)))
        assert_said(second[0], root / "semantic", "is in use", str(os.getpid()), "RUN=NAME")

    step = "audiolm.stages.language_model:LanguageModelStage.training_step"
    assert_finished(run(stage_command("semantic", root), fault=before_call(step, 3, start_another)))


def test_replacements_are_the_same_whoever_reads_them(root: Path) -> None:
    """Vanished before the start: with and without reading processes, and after a kill, the same weights."""
    path = read_manifest(root / "manifest.jsonl").split("train")[0].path
    os.unlink(read_manifest(root / "manifest.jsonl").root / path)
    digests = []
    for workers, killed in ((0, False), (2, False), (0, True)):
        command = audio_stage("codec", root, *MORE_MAY, "--data.workers", workers)
        if killed:
            step = "audiolm.stages.adversarial:AdversarialStage.training_step"
            assert_killed(run(command, fault=before_call(step, 7, kill)))
        outcome = run(command)
        assert_finished(outcome)
        digests.append(weights_digest(root, "codec"))
        assert path in (root / "codec" / "unreadable.jsonl").read_text()
    assert digests[0] == digests[1] == digests[2]


def test_past_the_limit_the_run_stops_with_its_name_and_goes_on_once_they_are_back(root: Path, corpus: Path) -> None:
    aside = shutil.copytree(corpus, root.parent / "aside")
    gone: set[str] = set()

    def two_vanish(path: Any, *_: Any, **__: Any) -> None:
        if str(path) not in gone and len(gone) < 2:
            gone.add(str(path))
            os.unlink(path)

    command = audio_stage("codec", root)
    outcome = run(command, fault=from_call(READ, 26, two_vanish))
    assert_said(outcome, "2 of 12 recordings", "unreadable.jsonl", "run the same command", "max_unreadable_share")
    assert len((root / "codec" / "unreadable.jsonl").read_text().splitlines()) == 2
    shutil.copytree(aside, corpus, dirs_exist_ok=True)
    outcome = run(command)
    assert_finished(outcome)
    assert not (root / "codec" / "unreadable.jsonl").read_text()  # they can be read again


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corpus_that_is_unmounted_ends_the_run_at_once_and_lists_nothing(
    root: Path, corpus: Path, chain: Path, workers: int
) -> None:
    def unmount(*_: Any, **__: Any) -> None:
        if not Path(f"{corpus}-away").exists():
            os.rename(corpus, f"{corpus}-away")
            corpus.mkdir()  # an empty mount point

    command = audio_stage("codec", root, "--data.workers", workers)
    outcome = run(command, fault=before_call(READ, 26 if not workers else 10, unmount))
    assert_said(outcome, "seems to be gone", corpus, "mounted", "Run the same command again")
    assert not (root / "codec" / "unreadable.jsonl").exists()
    corpus.rmdir()
    os.rename(f"{corpus}-away", corpus)
    assert_finished(run(command))
    assert weights_digest(root, "codec") == weights_digest(chain, "codec")


def test_nan_in_a_recording_is_unreadable_audio(root: Path) -> None:
    import numpy as np
    import soundfile

    manifest = read_manifest(root / "manifest.jsonl")
    path = manifest.root / manifest.split("train")[0].path
    samples = soundfile.info(path).frames
    soundfile.write(path, np.full(samples, np.nan, dtype="float32"), 16000, format="WAV", subtype="FLOAT")
    outcome = run(audio_stage("encoder", root, *MORE_MAY, "--trainer.max_steps", 8))
    assert_finished(outcome)
    assert "NaN or infinite samples" in (root / "encoder" / "unreadable.jsonl").read_text()


def test_a_vanished_recording_is_left_out_of_the_tokens_only_while_it_is_gone(root: Path, chain: Path) -> None:
    shutil.rmtree(root / "tokens")
    manifest = read_manifest(root / "manifest.jsonl")
    path = manifest.root / manifest.utterances[4].path
    os.rename(path, path.with_suffix(".away"))
    outcome = run(stage_command("tokenize", root))
    assert_said(outcome, "1 of 12 utterances are defective", path, "rejected-*.jsonl", "run the same command again")
    os.rename(path.with_suffix(".away"), path)
    assert_finished(run(stage_command("tokenize", root)))
    assert equal_tokens(root / "tokens", chain / "tokens")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unmounted_corpus_marks_no_utterance_as_defective(
    root: Path, corpus: Path, chain: Path, workers: int
) -> None:
    shutil.rmtree(root / "tokens")

    def unmount(*_: Any, **__: Any) -> None:
        os.rename(corpus, f"{corpus}-away")
        corpus.mkdir()

    outcome = run(stage_command("tokenize", root, "--data.workers", workers), fault=before_call(READ, 5, unmount))
    assert_said(outcome, "seems to be gone", corpus, "mounted")
    assert not list((root / "tokens").glob("rejected-*.jsonl"))
    corpus.rmdir()
    os.rename(f"{corpus}-away", corpus)
    assert_finished(run(stage_command("tokenize", root)))
    assert equal_tokens(root / "tokens", chain / "tokens")


# ------------------------------------------------------------------------------------------------------------------ NaN


def nan_losses(first: int, *, every: bool) -> Fault:
    """From the n-th training step on, or at that one only, the loss of a language model is NaN."""

    def inject() -> None:
        from audiolm.stages.language_model import LanguageModelStage

        original, calls = LanguageModelStage.training_step, [0]

        def step(self: Any, *arguments: Any) -> torch.Tensor:
            calls[0] += 1
            loss = original(self, *arguments)
            return loss * float("nan") if calls[0] == first or (every and calls[0] > first) else loss

        LanguageModelStage.training_step = step  # type: ignore[method-assign]

    return inject


def test_a_step_of_nan_is_skipped_and_counted(root: Path) -> None:
    shutil.rmtree(root / "coarse")
    assert_finished(run(stage_command("coarse", root), fault=nan_losses(3, every=False)))
    load_stage_checkpoint(root / "coarse" / "best.ckpt", stage="coarse")  # refuses NaN
    assert read_curves(root / "coarse" / "log")["train/skipped_steps"].last == 1


def test_nothing_but_nan_stops_the_run_with_the_remedy(root: Path, chain: Path) -> None:
    shutil.rmtree(root / "coarse")
    command = stage_command("coarse", root, "--model.skip_limit", 1)
    outcome = run(command, fault=nan_losses(5, every=True))
    assert_said(outcome, "2 training steps of the coarse stage", "skip_limit is 1", "learning rate is too high")


def test_a_checkpoint_of_nan_is_refused_by_the_next_stage_in_words(root: Path) -> None:
    path = root / "coarse" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    name = next(name for name in content["state_dict"] if name.startswith("model."))
    content["state_dict"][name].fill_(float("nan"))
    torch.save(content, path)
    sidecar(path).unlink()
    before = contents(root / "generator")
    assert_said(run(["audiolm", "compose", "--root", root]), path, "holds NaN or infinite weights", "Remove it")
    assert contents(root / "generator") == before


# ---------------------------------------------------------------------------------------- processes, files and folders


def test_a_reading_process_that_is_killed_is_said_in_words(root: Path, chain: Path) -> None:
    def kill_worker(*_: Any, **__: Any) -> None:
        if torch.utils.data.get_worker_info() is not None:
            kill()

    command = audio_stage("codec", root, "--data.workers", 1)
    outcome = run(command, fault=before_call(READ, 30, kill_worker))
    assert_said(outcome, "process that reads data", "memory", "data.init_args.workers", "Run the same command again")
    assert_finished(run(command))
    assert weights_digest(root, "codec") == weights_digest(chain, "codec")


def test_too_many_open_files_are_no_fault_of_a_recording(root: Path, chain: Path) -> None:
    def no_more_files(*_: Any, **__: Any) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    command = audio_stage("codec", root)
    outcome = run(command, fault=before_call(READ, 30, no_more_files))
    assert_said(outcome, "ulimit -n", "same command again")
    assert not (root / "codec" / "unreadable.jsonl").exists()
    assert_finished(run(command))
    assert weights_digest(root, "codec") == weights_digest(chain, "codec")


@pytest.mark.parametrize("verb", ["fit", "predict", "prepare", "compose", "samples"])
def test_a_folder_that_cannot_be_written_is_said_in_words(
    root: Path, corpus: Path, small_disk: Callable[..., Path], verb: str
) -> None:
    disk = small_disk(root.parent / "disk", kilobytes=20_000)
    shutil.copytree(root, disk / "chain")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    commands: dict[str, list[object]] = {
        "fit": stage_command("semantic", disk / "chain", "--trainer.max_steps", 9),
        "predict": stage_command("tokenize", disk / "chain", "--model.coarse_levels", 1),
        "prepare": ["audiolm", "prepare", "--data", corpus, "--root", disk / "chain"],
        "compose": ["audiolm", "compose", "--root", disk / "chain"],
        "samples": ["audiolm", "samples", "--root", disk / "chain", *SAMPLES],
    }
    assert_said(run(commands[verb]), "error:", disk / "chain", "ead-only file system")


# --------------------------------------------------------------------------------------------------------------- Ctrl-C

INTERRUPTED = {  # verb -> where
    "prepare": ("audiolm.scan:_probe", 5),
    "demo-corpus": ("audiolm.demo_corpus.write:write_audio", 3),
    "compose": ("audiolm.generator.folder:save_file", 3),
    "samples": ("audiolm.evaluation.samples:_write", 3),
    "generate": ("audiolm.lm.decoding:sample_next", 5),
    "report": ("audiolm.evaluation.report:write_report", 1),
    "fit": ("audiolm.stages.language_model:LanguageModelStage.training_step", 6),
    "predict": ("audiolm.tokens.store:TokenStoreWriter.append", 6),
}


@pytest.mark.parametrize("verb", INTERRUPTED)
def test_ctrl_c_ends_a_verb_with_one_line_and_the_same_command_finishes(
    root: Path, corpus: Path, chain: Path, tmp_path: Path, verb: str
) -> None:
    commands: dict[str, list[object]] = {
        "prepare": ["audiolm", "prepare", "--data", corpus, "--root", tmp_path / "new", "--workers", "1"],
        "demo-corpus": ["audiolm", "demo-corpus", "--out", tmp_path / "d", "--voices", "3", "--seconds-per-voice", "3"],
        "compose": ["audiolm", "compose", "--root", root],
        "samples": ["audiolm", "samples", "--root", root, *SAMPLES],
        "generate": ["audiolm", "generate", "--generator", root / "generator", "--seconds", "0.5", "--out", tmp_path],
        "report": ["audiolm", "report", "--root", root],
        "fit": stage_command("semantic", root),
        "predict": stage_command("tokenize", root),
    }
    for folder in {"fit": ["semantic"], "predict": ["tokens"]}.get(verb, []):
        shutil.rmtree(root / folder)
    outcome = run(commands[verb], fault=before_call(*INTERRUPTED[verb], interrupt))
    trainer = verb in ("fit", "predict")  # they finish the step under way
    words = "Stopped by a signal" if trainer else "Interrupted. Run the same command again to continue."
    assert_said(outcome, words, code=130)
    assert_finished(run(commands[verb]))
    if verb == "fit":
        assert weights_digest(root, "semantic") == weights_digest(chain, "semantic")
    if verb == "predict":
        assert equal_tokens(root / "tokens", chain / "tokens")
