"""The asr stage and its data: whole utterances in length buckets, nothing left out silently, and a loss that falls."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import lightning as L
import pytest
import torch
from tiny import write_tiny_checkpoint

from audiolm.audio import write_audio
from audiolm.checkpoint import load_stage_checkpoint
from audiolm.corpus import prepare
from audiolm.manifest import Manifest, Utterance, read_manifest
from audiolm.recognition.alphabet import LETTERS, decode
from audiolm.recognition.network import HeadConfig
from audiolm.recognition.transcripts import Transcripts, read_transcripts
from audiolm.semantic.augmentation import Augmentation
from audiolm.semantic.conformer import ConformerConfig, ConformerEncoder
from audiolm.semantic.encoders import EncoderConfig
from audiolm.stages.asr import RecogniserStage, letter_edits
from datamodules import LibriLightDataModule
from datamodules.sharing import Share
from datamodules.transcribed import (
    TrainingTranscribed,
    Transcribed,
    TranscribedReader,
    ValidationTranscribed,
    transcribed,
)

RATE = 16000
HERTZ = {"a": 400.0, "b": 900.0, "c": 1800.0, "d": 3200.0}  # a letter is a tone


def spoken(text: str) -> torch.Tensor:
    """A tone for each letter, that comes and goes in 0.15 s."""
    time = torch.arange(round(0.15 * RATE)) / RATE
    swell = torch.sin(torch.pi * time / 0.15).square()
    return torch.cat([0.3 * swell * torch.sin(2 * torch.pi * HERTZ[letter] * time) for letter in text])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight speakers who say four words each; the folder of the chain is `<corpus>/chain`."""
    folder, random = tmp_path_factory.mktemp("letters"), torch.Generator().manual_seed(0)
    rows = ["utterance\ttext"]
    for speaker in range(8):
        for number in range(4):
            word = "".join("abcd"[i] for i in torch.randint(4, (4 + number,), generator=random))
            name = f"s{speaker}-{number}"
            write_audio(folder / "audio" / f"s{speaker}" / f"{name}.wav", spoken(word), sample_rate_hz=RATE)
            rows.append(f"{name}\t{word.upper()}")
    (folder / "utterances.tsv").write_text("\n".join(rows) + "\n")
    prepare(folder / "audio", folder / "chain")
    return folder


def manifest_of(corpus: Path) -> Manifest:
    return read_manifest(corpus / "chain" / "manifest.jsonl")


def found_in(manifest: Manifest, corpus: Path, **changes: Any) -> Transcribed:
    options = {"longest_seconds": 5.0, "frames": lambda seconds: round(50 * seconds), **changes}
    return transcribed(manifest.utterances, read_transcripts(corpus / "utterances.tsv"), **options)


def test_every_utterance_has_its_own_words(corpus: Path) -> None:
    found = found_in(manifest_of(corpus), corpus)
    assert len(found.utterances) == len(found.texts) == 32
    assert not found.left_out
    texts = dict(line.split("\t") for line in (corpus / "utterances.tsv").read_text().splitlines()[1:])
    for utterance, text in zip(found.utterances, found.texts, strict=True):
        assert texts[Path(utterance.path).stem].lower() == text


def test_what_is_left_out_is_counted_and_named(corpus: Path, tmp_path: Path) -> None:
    manifest, table = manifest_of(corpus), tmp_path / "t.tsv"
    lines = (corpus / "utterances.tsv").read_text().splitlines()
    lines[1] = lines[1].split("\t")[0] + "\t101 dogs"
    table.write_text("\n".join(lines[:-1]) + "\n")
    found = transcribed(
        manifest.utterances, read_transcripts(table), longest_seconds=0.95, frames=lambda s: round(7 * s)
    )
    said = str(found)
    assert found.utterances
    assert "1 without a transcript (s7/s7-3)" in said
    assert "other characters than letters (s0/s0-0)" in said
    assert "longer than 0.95 s" in said
    assert "more letters than frames, at 7 frames a second" in said
    assert len(found.utterances) + sum(map(len, found.left_out.values())) == 32


def test_nothing_to_learn_from_is_an_error_that_says_why(corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing can be learned from 32 utterances.*32 longer than 0.1 s"):
        found_in(manifest_of(corpus), corpus, longest_seconds=0.1)


def test_a_transcript_of_two_recordings_is_refused(corpus: Path) -> None:
    utterances = list(manifest_of(corpus).utterances)
    twin = replace(utterances[0], id="other", path="other/" + Path(utterances[0].path).name)
    with pytest.raises(ValueError, match=r"have one transcript.*utterances.tsv:2"):
        found_in(Manifest(Path("/"), [*utterances, twin]), corpus)


def test_stretches_with_times_become_utterances_and_pieces_without_are_said(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("file\tstart\tend\ttext\nx.wav\t0\t1.5\tone\nx.wav\t1.5\t3.25\ttwo\nx.wav\t3\t5\tthree\n")
    common = {
        "path": "a/x.wav",
        "speaker": "a",
        "split": "train",
        "sample_rate_hz": 8000,
        "true_end": True,
        "dc_offset": 0.0,
    }
    halves = [Utterance(id=f"a/x@{at}", start=at, samples=26000, **common) for at in (0, 26000)]
    options: dict[str, Any] = {"longest_seconds": 9.0, "frames": lambda seconds: round(50 * seconds)}
    found = transcribed(halves, read_transcripts(table), **options)
    cut = [(u.id, u.start, u.samples, text) for u, text in zip(found.utterances, found.texts, strict=True)]
    assert cut == [("a/x@0@0", 0, 12000, "one"), ("a/x@0@12000", 12000, 14000, "two")]  # three lies on the cut
    (tmp_path / "w.tsv").write_text("utterance\ttext\nx\tone two three\n")
    with pytest.raises(ValueError, match="2 that are pieces of a recording whose transcript has no times"):
        transcribed(halves, read_transcripts(tmp_path / "w.tsv"), **options)


def training(corpus: Path, *, share: Share = Share(), batch_size: int = 6, seed: int = 3) -> TrainingTranscribed:  # noqa: B008
    manifest = manifest_of(corpus)
    reader = TranscribedReader(manifest, found_in(manifest, corpus), sample_rate_hz=RATE)
    return TrainingTranscribed(reader, batch_size=batch_size, seed=seed, share=share)


def test_a_batch_is_a_function_of_seed_and_number_and_an_epoch_has_everybody(corpus: Path) -> None:
    data = training(corpus)
    assert data.batches == 6
    for epoch in range(3):
        rows = [row for number in range(6) for row in data.rows(6 * epoch + number)]
        assert set(rows) == set(range(32))
        assert len(rows) == 36
        spread = [
            max(data.seconds[data.rows(6 * epoch + n)]) - min(data.seconds[data.rows(6 * epoch + n)]) for n in range(6)
        ]
        assert sum(spread) / 6 < 0.5 * (max(data.seconds) - min(data.seconds))  # of similar length
    assert data.rows(2) == training(corpus).rows(2)
    assert [data.rows(n) for n in range(6)] != [training(corpus, seed=4).rows(n) for n in range(6)]
    assert [data.rows(n) for n in range(6)] != [data.rows(n + 6) for n in range(6)]
    assert pickle.loads(pickle.dumps(data)).rows(9) == data.rows(9)


def test_processes_and_pieces_share_a_batch_and_rows_hold_their_own_audio_and_letters(corpus: Path) -> None:
    whole = training(corpus)[1]
    parts = [training(corpus, share=Share(r, 2, 3))[3 + piece] for r in range(2) for piece in range(3)]
    texts = sorted(tuple(b.targets[0, : b.letters[0]].tolist()) for b in parts)
    assert texts == sorted(tuple(row[:count].tolist()) for row, count in zip(whole.targets, whole.letters, strict=True))
    for row in range(6):
        letters = "".join(LETTERS[number - 1] for number in whole.targets[row, : whole.letters[row]].tolist())
        audio = spoken(letters)
        assert int(whole.samples[row]) == len(audio)
        torch.testing.assert_close(whole.audio[row, : len(audio)], audio, atol=1e-3, rtol=0)  # 16 bits, DC removed
        assert not whole.audio[row, len(audio) :].any()


def test_validation_has_every_utterance_once_on_any_number_of_processes(corpus: Path) -> None:
    manifest = manifest_of(corpus)
    reader = TranscribedReader(manifest, found_in(manifest, corpus), sample_rate_hz=RATE)
    for ranks in (1, 3):
        seen = 0
        for rank in range(ranks):
            data = ValidationTranscribed(reader, batch_size=9, share=Share(rank, ranks))
            assert len(data) == 4
            seen += sum(len(data[n].letters) for n in range(4) if data[n].counts)
        assert seen == 32


def test_an_utterance_that_vanished_is_replaced_with_its_own_words_and_named(corpus: Path) -> None:
    manifest = manifest_of(corpus)
    found = found_in(manifest, corpus)
    broken = replace(found, utterances=[replace(found.utterances[0], path="gone.wav"), *found.utterances[1:]])
    reader = TranscribedReader(manifest, broken, sample_rate_hz=RATE)
    data = ValidationTranscribed(reader, batch_size=32)
    batch = data[0]
    assert [one.path for one in batch.unreadable] == ["gone.wav"]
    for samples, letters in zip(batch.samples.tolist(), batch.letters.tolist(), strict=True):
        assert samples == round(0.15 * RATE) * letters


def tiny_stage(corpus: Path, **changes: Any) -> RecogniserStage:
    torch.manual_seed(0)
    config = ConformerConfig(
        dim=32, contrastive_layers=1, masked_layers=1, heads=2, feed_forward=32, subsampling_channels=4, dropout=0.0
    )
    encoder, path = ConformerEncoder(config, layer=1), corpus / "chain" / "encoder" / "best.ckpt"
    encoder.spectrogram.set_statistics(torch.tensor(-9.0), torch.tensor(4.0))
    path.parent.mkdir(exist_ok=True)
    write_tiny_checkpoint(path, "encoder", encoder, encoder.config_dict())
    options = {"head": HeadConfig(dim=24, layers=1), "learning_rate": 1e-2, "warmup_steps": 5, **changes}
    return RecogniserStage(encoder=EncoderConfig(), root=str(corpus / "chain"), **options)


def fit(stage: RecogniserStage, corpus: Path, steps: int, **options: Any) -> L.Trainer:
    data = LibriLightDataModule(
        view="transcribed", window_seconds=3, batch_size=8, workers=0, root=str(corpus / "chain"), micro_batch_size=4
    )
    trainer = L.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, precision="32-true",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=2,
        val_check_interval=steps * 2, check_val_every_n_epoch=None, **options,
    )  # fmt: skip
    trainer.fit(stage, data)
    return trainer


def test_a_tiny_recogniser_learns_its_letters_in_seconds(corpus: Path) -> None:
    torch.manual_seed(0)
    head, root = HeadConfig(dim=32, layers=1), str(corpus / "chain")
    mfcc = {"encoder": EncoderConfig(kind="mfcc"), "head": head, "fine_tune": False}
    stage = RecogniserStage(**mfcc, learning_rate=2e-2, warmup_steps=2, root=root)
    losses: list[float] = []

    class Note(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, *_: Any) -> None:
            losses.append(float(outputs["loss"]))

    fit(stage, corpus, 60, callbacks=[Note()])
    assert losses[0] > 2.5  # nats a letter
    assert sum(losses[-4:]) / 4 < 1.1  # four letters guessed alike would still be ln 4 = 1.4


def test_a_trained_encoder_learns_too_up_to_its_layer(corpus: Path) -> None:
    stage = tiny_stage(corpus, augmentation=Augmentation(tilt=0.1))
    before = {name: weight.clone() for name, weight in stage.model.encoder.named_parameters()}

    class InTraining(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
            assert module.model.encoder.training

    fit(stage, corpus, 2, callbacks=[InTraining()])
    changed = {name for name, weight in stage.model.encoder.named_parameters() if not torch.equal(weight, before[name])}
    assert any(name.startswith("blocks.0") for name in changed)
    assert not any(name.startswith("blocks.1") for name in changed)


def test_a_frozen_encoder_stays_as_it_was(corpus: Path) -> None:
    stage = tiny_stage(corpus, fine_tune=False)
    before = {name: weight.clone() for name, weight in stage.model.encoder.state_dict().items()}
    fit(stage, corpus, 2)
    assert all(torch.equal(weight, before[name]) for name, weight in stage.model.encoder.state_dict().items())


def test_edits_are_those_of_greedy_decoding_pooled() -> None:
    torch.manual_seed(0)
    scores, frames = torch.randn(3, 9, len(LETTERS) + 1), torch.tensor([9, 5, 7])
    targets, letters = torch.randint(1, len(LETTERS) + 1, (3, 4)), torch.tensor([4, 2, 3])
    expected = 0
    for row in range(3):
        heard = decode(scores[row, : frames[row]].argmax(-1).tolist())
        said = "".join(LETTERS[number - 1] for number in targets[row, : letters[row]].tolist())
        result = jiwer.process_characters(said, heard)
        expected += result.substitutions + result.deletions + result.insertions
    assert letter_edits(scores, frames, targets, letters) == expected


def test_the_stage_runs_by_its_yaml_and_knows_its_transcripts(
    chain: Path,
    tone_corpus: Path,
    tmp_path: Path,
    run_stage_of: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    import shutil

    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    run_stage_of("asr", root)
    assert "utterances with transcripts" in capsys.readouterr().out
    checkpoint = load_stage_checkpoint(root / "asr" / "best.ckpt", stage="asr")
    assert checkpoint.config["letters"] == LETTERS
    other = tmp_path / "other.tsv"
    other.write_text((tone_corpus / "utterances.tsv").read_text().replace("TONE", "NOISE"))
    run_stage_of("asr", root, "--data.transcripts", str(other))
    assert (root / "asr.before-1").exists()
    assert isinstance(read_transcripts(other), Transcripts)
