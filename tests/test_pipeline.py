"""From tones and noise to a wav file, through every stage, as a user would go; and what stands where afterwards."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import soundfile
import torch
from tiny import tones_and_noise

from audiolm.audio import write_audio
from audiolm.checkpoint import load_stage_checkpoint
from audiolm.checksums import sidecar
from audiolm.errors import OutOfMemoryError, is_out_of_memory
from audiolm.evaluation.results import results_tables
from audiolm.evaluation.samples import by_turns
from audiolm.generator import AudioLM
from audiolm.generator.folder import GeneratorError, compose
from audiolm.manifest import Utterance, read_manifest
from audiolm.stages.checkpoint_io import AtomicCheckpointIO
from audiolm.stages.resume import newest_valid
from audiolm.tokens.store import TokenStore
from audiolm.verbs import run_verb


def test_the_chain_ends_in_a_generator_that_speaks(chain: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "prompt.wav", tones_and_noise(20000), sample_rate_hz=22050)
    run_verb(
        [
            "generate",
            "--generator",
            str(chain / "generator"),
            "--prompt",
            str(tmp_path / "prompt.wav"),
            "--seconds",
            "1.5",
        ]
        + ["--out", str(tmp_path / "out")]
    )
    audio, rate = soundfile.read(tmp_path / "out" / "prompt-seed0.wav")
    prompt_samples = math.ceil(20000 * 16000 / 22050) // 640 * 640
    assert (rate, len(audio)) == (16000, prompt_samples + 24000)


def test_every_utterance_is_tokenized_with_aligned_streams(chain: Path) -> None:
    store, manifest = TokenStore(chain / "tokens"), read_manifest(chain / "manifest.jsonl")
    assert store.ids == sorted(utterance.id for utterance in manifest.utterances)
    by_id = {utterance.id: utterance for utterance in manifest.utterances}
    for row, id_ in enumerate(store.ids):
        assert store.index["frames"][row] == math.ceil(by_id[id_].samples / 320)
        assert store.index["units"][row] == math.ceil(by_id[id_].samples / 640)
        assert ("train", "validation", "test")[store.index["split"][row]] == by_id[id_].split


def test_stages_leave_a_record_and_checkpoints_that_say_what_they_are(chain: Path) -> None:
    digest = TokenStore(chain / "tokens").digest
    for stage in ("semantic", "coarse", "fine"):
        record = json.loads((chain / stage / "done.json").read_text())
        checkpoint = load_stage_checkpoint(chain / stage / "best.ckpt", stage=stage)
        assert (record["stage"], record["steps"]) == (stage, 8)
        assert checkpoint.sources == {"tokens": digest}
        assert checkpoint.config["window_seconds"] == 0.8
        baselines = json.loads((chain / stage / "baselines.json").read_text())
        assert 0 < baselines["bigram"] < math.log(40)


def test_first_losses_are_near_the_logarithm_of_the_legal_ids(chain: Path) -> None:
    for stage, legal in (("semantic", 12), ("coarse", 16.5), ("fine", 16)):
        rows = (chain / stage / "log" / "version_0" / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("train/loss")
        first = float(next(row.split(",")[column] for row in rows[1:] if row.split(",")[column]))
        assert first == pytest.approx(math.log(legal), rel=0.05)


def test_a_generator_read_from_its_folder_is_the_composed_one(chain: Path, tmp_path: Path) -> None:
    shutil.copytree(chain / "generator", tmp_path / "moved")
    prompt = tones_and_noise(9600)
    results = [
        AudioLM.from_pretrained(f).continue_([prompt], seconds=0.4)[0].audio
        for f in (chain / "generator", tmp_path / "moved")
    ]
    assert torch.equal(*results)
    card = (tmp_path / "moved" / "README.md").read_text()
    assert "Misuse" in card
    assert "Accents" in card


def test_samples_are_of_test_speakers_and_say_where_the_prompt_ends(chain: Path) -> None:
    samples = json.loads((chain / "samples" / "samples.json").read_text())
    test_speakers = {utterance.speaker for utterance in read_manifest(chain / "manifest.jsonl").split("test")}
    assert samples["items"]
    for item in samples["items"]:
        assert item["speaker"] in test_speakers
        assert item["samples"] == item["prompt_samples"] + 8000
        assert soundfile.info(chain / "samples" / item["continuation"]).frames == item["samples"]
        assert set(item["reconstructions"]) == {"1", "2", "4"}
    assert [row["levels"] for row in samples["reconstruction"]] == [1, 2, 4]


def test_samples_take_one_utterance_of_each_speaker_before_a_second_of_any() -> None:
    def utterance(speaker: str, number: int) -> Utterance:
        return Utterance(f"{speaker}/{number}", "a", speaker, "test", 0, 1, 1, True, 0.0)

    every = (utterance("b", 1), utterance("b", 0), utterance("a", 0), utterance("b", 2))
    assert [u.id for u in by_turns(every)] == ["a/0", "b/0", "b/1", "b/2"]


def test_the_results_hold_every_stage_and_the_chains_own_numbers(chain: Path) -> None:
    text = results_tables(chain)
    baselines = json.loads((chain / "coarse" / "baselines.json").read_text())
    row = next(line for line in text.splitlines() if line.startswith("| coarse |"))
    assert f"{baselines['bigram']:.3f} |" in row
    assert all(f"| {stage} |" in text for stage in ("codec", "tokenizer", "tokens", "semantic", "coarse", "fine"))


def test_an_unfinished_chain_has_no_results_and_says_what_to_run(chain: Path, tmp_path: Path) -> None:
    root = copied(chain, tmp_path)
    (root / "coarse" / "done.json").unlink()
    with pytest.raises(FileNotFoundError, match="make coarse"):
        results_tables(root)


def copied(chain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(chain, tmp_path / "chain"))


def test_compose_refuses_a_codec_that_did_not_make_the_tokens(chain: Path, tmp_path: Path) -> None:
    root = copied(chain, tmp_path)
    content = torch.load(root / "codec" / "best.ckpt", weights_only=True)
    next(value for name, value in content["state_dict"].items() if name.startswith("model.decoder")).add_(1)
    torch.save(content, root / "codec" / "best.ckpt")
    sidecar(root / "codec" / "best.ckpt").unlink()
    with pytest.raises(GeneratorError, match="not the codec that made"):
        compose(root, root / "other")


def test_compose_refuses_a_model_of_other_tokens_and_leaves_the_old_generator(chain: Path, tmp_path: Path) -> None:
    root = copied(chain, tmp_path)
    content = torch.load(root / "coarse" / "best.ckpt", weights_only=True)
    content["audiolm"]["sources"]["tokens"] = "others"
    torch.save(content, root / "coarse" / "best.ckpt")
    sidecar(root / "coarse" / "best.ckpt").unlink()
    before = (root / "generator" / "config.json").read_bytes()
    with pytest.raises(GeneratorError, match="trained on other tokens"):
        compose(root, root / "generator")
    assert (root / "generator" / "config.json").read_bytes() == before


def test_an_interrupted_compose_leaves_nothing_under_the_final_name(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from audiolm.generator import folder

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "model_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compose(chain, tmp_path / "generator")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["config.json", "codec.safetensors", "fine.safetensors"])
def test_a_damaged_or_missing_file_of_a_generator_is_named(chain: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(chain / "generator", tmp_path / "generator"))
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=name):
        AudioLM.from_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        AudioLM.from_pretrained(folder)


def test_weights_of_another_size_are_refused(chain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(chain / "generator", tmp_path / "generator"))
    shutil.copy(folder / "coarse.safetensors", folder / "fine.safetensors")
    with pytest.raises(ValueError, match="weights of .*fine.safetensors do not fit"):
        AudioLM.from_pretrained(folder)


def test_a_finished_stage_started_again_does_nothing_and_a_changed_one_starts_afresh(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    root = copied(chain, tmp_path)
    before = (root / "fine" / "best.ckpt").read_bytes()
    run_stage_of("fine", root, "--ckpt_path", "last", "--trainer.precision", "32-true")
    assert (root / "fine" / "best.ckpt").read_bytes() == before
    arguments = ("--ckpt_path", "last", "--trainer.precision", "32-true", "--model.init_args.learning_rate", "0.002")
    run_stage_of("fine", root, *arguments)
    assert (root / "fine.before-1" / "best.ckpt").read_bytes() == before
    assert json.loads((root / "fine" / "done.json").read_text())["steps"] == 8


def test_a_run_goes_on_when_it_is_computed_otherwise(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    """Attention and activation checkpointing say how fast a step is, not what it is: not a reason to start afresh."""
    root = copied(chain, tmp_path)
    shutil.rmtree(root / "coarse")
    precise = ("--trainer.precision", "32-true", "--ckpt_path", "last")
    with pytest.raises(RuntimeError, match="power"):
        run_stage_of("coarse", root, *precise, "--trainer.callbacks+=test_pipeline.PowerCut")
    switched = ("--model.init_args.attention", "reference", "--model.init_args.activation_checkpointing", "true")
    switched += ("--data.init_args.split", "validation")  # of prompts only
    run_stage_of("coarse", root, *precise, *switched)
    assert not (root / "coarse.before-1").exists()
    ours, plain = (
        torch.load(newest_valid(folder / "coarse" / "resume"), weights_only=True)["state_dict"]
        for folder in (root, chain)
    )
    for name in plain:  # steps 5 to 8 rounded otherwise, the dropout is the same
        assert torch.allclose(ours[name], plain[name], atol=1e-5)


class OutOfMemory(L.Callback):
    """Fails as the CPU's allocator does, in the second step."""

    def on_before_backward(self, trainer, *_: object) -> None:
        if trainer.global_step == 1:
            torch.empty(2**60, dtype=torch.uint8)


def test_out_of_memory_says_which_settings_to_lower(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    root = copied(chain, tmp_path)
    shutil.rmtree(root / "fine")
    with pytest.raises(OutOfMemoryError) as raised:
        run_stage_of("fine", root, "--trainer.callbacks+=test_pipeline.OutOfMemory")
    message = str(raised.value)
    for named in ("fine stage", "micro_batch_size (at most 2 now)", "window_seconds, 0.8 now"):
        assert named in message
    assert message.index("activation_checkpointing: true") < message.index("start the stage afresh")
    assert "can't allocate memory" in str(raised.value.__cause__)


def test_other_failures_of_training_are_not_called_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("power"))


def test_flex_attention_on_a_cpu_is_refused_before_a_step_is_made(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    root = copied(chain, tmp_path)
    with pytest.raises(ValueError, match="flex has no gradients on a CPU"):
        run_stage_of("fine", root, "--model.init_args.attention", "flex")


@pytest.mark.parametrize("stage", ["codec", "coarse"])
def test_a_run_that_stopped_and_went_on_is_the_run_that_never_stopped(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None], stage: str
) -> None:
    weights = []
    for stops in (False, True):
        root = copied(chain, tmp_path / str(stops))
        shutil.rmtree(root / stage)
        if stops:  # max_steps shapes the schedule, so the stop is a crash in the middle, after the checkpoint of step 4
            with pytest.raises(RuntimeError, match="power"):
                run_stage_of(
                    stage, root, "--trainer.precision", "32-true", "--trainer.callbacks+=test_pipeline.PowerCut"
                )
        run_stage_of(stage, root, "--trainer.precision", "32-true", "--ckpt_path", "last")
        weights.append(torch.load(newest_valid(root / stage / "resume"), weights_only=True)["state_dict"])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class PowerCut(L.Callback):
    """Stops a run after its sixth step, past the checkpoint of the fourth."""

    def on_train_batch_end(self, trainer, *_: object) -> None:
        if trainer.global_step == 6:
            for callback in trainer.checkpoint_callbacks:
                callback.save_on_exception = False  # a power cut asks nobody
            raise RuntimeError("power")


def test_tokenizing_killed_before_the_seal_is_sealed_by_the_next_start(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    root = copied(chain, tmp_path)
    for name in ("sealed.json", "index.npy", "done.json"):
        (root / "tokens" / name).unlink()
    run_stage_of("tokenize", root)
    assert TokenStore(root / "tokens").ids == TokenStore(chain / "tokens").ids
    assert (root / "tokens" / "done.json").exists()


def test_tokens_of_another_codec_are_set_aside_and_made_again(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    root = copied(chain, tmp_path)
    run_stage_of("tokenize", root, "--model.init_args.coarse_levels", "3")
    assert TokenStore(root / "tokens").spec.coarse_levels == 3
    assert TokenStore(root / "tokens.before-1").spec.coarse_levels == 2


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"step": 1}, path)

    def half(content: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]


def test_tokenizing_that_was_killed_continues_without_loss_or_duplicates(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    root = copied(chain, tmp_path)
    shutil.rmtree(root / "tokens")
    from audiolm.stages import tokenize

    original, done = tokenize.TokenStoreWriter.append, []

    def killed(self, **arguments):
        if len(done) == 5:
            raise KeyboardInterrupt
        original(self, **arguments)
        done.append(arguments["id"])

    tokenize.TokenStoreWriter.append = killed
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run_stage_of("tokenize", root)
    finally:
        tokenize.TokenStoreWriter.append = original
    assert not (root / "tokens" / "sealed.json").exists()
    run_stage_of("tokenize", root)
    again, before = TokenStore(root / "tokens"), TokenStore(chain / "tokens")
    assert again.ids == before.ids
    assert all(torch.equal(again.codes(row), before.codes(row)) for row in range(len(again)))
    assert all(torch.equal(again.units(row), before.units(row)) for row in range(len(again)))
