"""A batch depends on seed and number alone; crops are partial reads; nothing is lost between ranks."""

import os
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from tiny import tones_and_noise

from audiolm.audio import read_audio, write_audio
from audiolm.corpus import prepare
from audiolm.manifest import Manifest, read_manifest
from audiolm.tokens.layout import Stage, StageLayout, TokenBatch
from audiolm.tokens.spec import TokenSpec
from audiolm.tokens.store import TokenStore, TokenStoreWriter, create_store, seal
from audiolm.tokens.windows import Windows
from datamodules import LibriLightDataModule
from datamodules.sampling import BatchNumbers, EveryNth, in_length_buckets
from datamodules.sharing import Share, micro_batches
from datamodules.token_windows import TrainingWindows, ValidationWindows
from datamodules.views import VIEWS
from datamodules.waveforms import CropReader, TrainingCrops, ValidationCrops, WholeUtterances


@pytest.fixture(scope="module")
def manifest(tone_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("prepared")
    prepare(tone_corpus, root)
    return read_manifest(root / "manifest.jsonl")


@pytest.mark.parametrize("rows", [1, 7, 24])
def test_ranks_and_micro_batches_share_the_rows_of_a_batch_without_gap_or_overlap(rows: int) -> None:
    shares = [Share(rank=rank, ranks=4, micro_batches=3) for rank in range(4)]
    taken = [share.rows(piece, rows) for share in shares for piece in range(3)]
    assert sorted(row for piece in taken for row in piece) == list(range(rows))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_a_process_reads_its_pieces_of_every_step_from_anywhere() -> None:
    share = Share(micro_batches=3)
    assert [share.divide(number) for number in BatchNumbers(first=6, total=12)] == [
        (2, 0),
        (2, 1),
        (2, 2),
        (3, 0),
        (3, 1),
        (3, 2),
    ]
    every = [list(EveryNth(rank=rank, ranks=3, total=7)) for rank in range(3)]
    assert sorted(number for numbers in every for number in numbers) == list(range(7))


@pytest.mark.parametrize(
    ("ranks", "at_once", "pieces"),
    [(1, None, 1), (4, None, 1), (4, 2, 3), (24, 1, 1), (2, 16, 1), (2, 5, 3), (1, 7, 4)],
)
def test_accumulation_is_derived_from_the_batch_of_a_step(ranks: int, at_once: int | None, pieces: int) -> None:
    assert micro_batches(batch_size=24, micro_batch_size=at_once, ranks=ranks) == pieces


def test_a_batch_that_cannot_be_shared_names_numbers_that_can() -> None:
    with pytest.raises(ValueError, match=r"7 processes cannot share evenly.*1, 2, 3, 4, 6, 8, 12, 24"):
        micro_batches(batch_size=24, micro_batch_size=None, ranks=7)


def test_length_buckets_keep_every_item_and_put_like_with_like() -> None:
    lengths = [7, 1, 5, 5, 2, 9, 3]
    batches = in_length_buckets(list("abcdefg"), lengths, 3)
    assert batches == [["b", "e", "g"], ["c", "d", "a"], ["f"]]


def test_a_crop_is_exactly_that_part_of_the_recording(manifest: Manifest) -> None:
    reader, utterance = CropReader(manifest, sample_rate_hz=16000, window_samples=4000), manifest.utterances[0]
    whole = read_audio(manifest.root / utterance.path, sample_rate_hz=16000, dc_offset=utterance.dc_offset)
    assert torch.equal(reader.read(utterance, 5000), whole[5000:9000])


def test_training_crops_are_a_function_of_seed_and_number(manifest: Manifest) -> None:
    def batch(seed: int, number: int) -> torch.Tensor:
        reader = CropReader(manifest, sample_rate_hz=16000, window_samples=4000)
        return TrainingCrops(reader, manifest.split("train"), batch_size=3, seed=seed)[number].audio

    assert torch.equal(batch(0, 5), batch(0, 5))
    assert not torch.equal(batch(0, 5), batch(0, 6))
    assert not torch.equal(batch(0, 5), batch(1, 5))


def test_an_utterance_shorter_than_the_window_is_used_whole_and_its_length_is_known(manifest: Manifest) -> None:
    reader = CropReader(manifest, sample_rate_hz=16000, window_samples=80000)
    batch = TrainingCrops(reader, manifest.split("train"), batch_size=4, seed=0)[0]
    lengths = {utterance.samples for utterance in manifest.split("train")}
    assert batch.audio.shape == (4, 80000)
    for row, samples in zip(batch.audio, batch.samples.tolist(), strict=True):
        assert samples in lengths
        assert not row[samples:].any()


def test_files_of_another_rate_give_windows_of_the_asked_length(tmp_path: Path) -> None:
    for number in range(3):
        write_audio(tmp_path / "a" / f"s{number}" / "x.wav", tones_and_noise(44100), sample_rate_hz=44100)
    prepare(tmp_path / "a", tmp_path)
    manifest = read_manifest(tmp_path / "manifest.jsonl")
    reader = CropReader(manifest, sample_rate_hz=16000, window_samples=5001)
    batch = TrainingCrops(reader, manifest.split("train"), batch_size=4, seed=0)[0]
    assert batch.audio.shape == (4, 5001)
    assert batch.samples.tolist() == [5001] * 4


def test_validation_crops_cover_the_split_side_by_side(manifest: Manifest) -> None:
    reader = CropReader(manifest, sample_rate_hz=16000, window_samples=4000)
    dataset = ValidationCrops(reader, manifest.split("validation"), batch_size=3)
    covered = {(utterance.id, offset) for utterance, offset in dataset.crops}
    for utterance in manifest.split("validation"):
        assert {(utterance.id, 4000 * n) for n in range(utterance.samples // 4000)} <= covered
    assert sum(len(dataset[n].audio) for n in range(len(dataset))) == len(dataset.crops)


def test_a_recording_that_vanished_or_went_silent_is_a_named_defect(tmp_path: Path) -> None:
    for number in range(4):
        write_audio(tmp_path / "a" / f"s{number}" / "x.wav", tones_and_noise(16000), sample_rate_hz=16000)
    prepare(tmp_path / "a", tmp_path)
    manifest = read_manifest(tmp_path / "manifest.jsonl")
    (tmp_path / "a" / manifest.utterances[0].path).unlink()
    write_audio(tmp_path / "a" / manifest.utterances[1].path, torch.zeros(16000), sample_rate_hz=16000)
    write_audio(tmp_path / "a" / manifest.utterances[2].path, tones_and_noise(8000), sample_rate_hz=16000)
    whole = WholeUtterances(manifest, manifest.utterances, sample_rate_hz=16000)
    assert [whole[number].audio is None for number in range(4)] == [True, True, True, False]
    assert "silent" in whole[1].defect
    assert all(manifest.utterances[number].path in whole[number].defect for number in (0, 2))


def padding(batches: list[TokenBatch]) -> float:
    """Share of all tokens, not the mean of the batches' shares."""
    return sum(int(batch.padded) for batch in batches) / sum(batch.inputs.numel() for batch in batches)


@pytest.fixture(scope="module")
def read_speech(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Utterances of 2 to 16 s; a frame changes the unit in 40 to 70 % of the cases, which differs between utterances."""
    folder, random = tmp_path_factory.mktemp("read"), np.random.default_rng(0)
    create_store(folder, TokenSpec(levels=6, coarse_levels=4), {"codec": "a", "tokenizer": "b"})
    with TokenStoreWriter(folder) as writer:
        for number in range(800):
            frames = random.integers(2 * 25, 16 * 25)
            units = np.cumsum(random.random(frames) < random.uniform(0.4, 0.7)) % 1024
            writer.append(
                id=str(number),
                speaker="s",
                split="train" if number % 2 else "validation",
                true_end=True,
                units=torch.from_numpy(units),
                codes=torch.zeros(6, 2 * frames, dtype=torch.int64),
            )
    return seal(folder, expected=map(str, range(800)))


@pytest.mark.parametrize("batch_size", [4, 16])
@pytest.mark.parametrize(("stage", "seconds"), [("semantic", 30), ("coarse", 10), ("fine", 3)])
def test_padding_over_an_epoch_of_read_speech_is_under_5_percent(
    read_speech: TokenStore, stage: Stage, seconds: float, batch_size: int
) -> None:
    layout = StageLayout(read_speech.spec, stage)
    train = Windows(read_speech, split="train", seconds=seconds)
    training = TrainingWindows(train, layout, batch_size=batch_size, seed=0)
    epoch = len(train.all()) // batch_size
    assert padding([training[number] for number in range(epoch)]) < 0.05
    held_out = Windows(read_speech, split="validation", seconds=seconds)
    validation = ValidationWindows(held_out, layout, batch_size=batch_size)
    assert padding([validation[number] for number in range(len(validation))]) < 0.05


def test_token_batches_are_reproducible_little_padded_and_end_only_at_true_ends(chain: Path) -> None:
    store = TokenStore(chain / "tokens")
    layout = StageLayout(store.spec, "coarse")
    windows = Windows(store, split="train", seconds=0.8)
    dataset = TrainingWindows(windows, layout, batch_size=4, seed=0)
    assert torch.equal(dataset[17].inputs, TrainingWindows(windows, layout, batch_size=4, seed=0)[17].inputs)
    batches = [dataset[number] for number in range(64)]
    assert padding(batches) < 0.05
    ends = sum(int((batch.targets == layout.end_id).sum()) for batch in batches)
    assert 0 < ends < 64 * 4 / 4  # few of the random windows reach an end, and none is invented


def test_validation_windows_hold_every_token_once(chain: Path) -> None:
    store = TokenStore(chain / "tokens")
    layout = StageLayout(store.spec, "fine")
    dataset = ValidationWindows(Windows(store, split="validation", seconds=0.8), layout, batch_size=3)
    counted = sum(int(dataset[number].counted.sum()) for number in range(len(dataset)))
    assert counted == int(store.index["frames"][store.rows("validation")].sum()) * layout.phases


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine", "acoustic"])
def test_shares_of_token_batches_are_the_whole_batch_and_know_its_targets(
    read_speech: TokenStore, stage: Stage
) -> None:
    layout = StageLayout(read_speech.spec, stage)
    windows = {split: Windows(read_speech, split=split, seconds=3) for split in ("train", "validation")}

    def rows(batch: TokenBatch) -> list[bytes]:
        kept = (batch.inputs[row, : batch.lengths[row]] for row in range(len(batch.inputs)) if batch.counted[row].any())
        return [tokens.numpy().tobytes() for tokens in kept]

    shares = [Share(rank=rank, ranks=3, micro_batches=2) for rank in range(3)]
    training = [TrainingWindows(windows["train"], layout, batch_size=6, seed=0, share=share) for share in shares]
    whole = TrainingWindows(windows["train"], layout, batch_size=6, seed=0)
    held_out = [ValidationWindows(windows["validation"], layout, batch_size=5, share=share) for share in shares]
    every = ValidationWindows(windows["validation"], layout, batch_size=5)
    steps = ((training, whole, 40), (held_out, every, every.batches - 1))
    for parts, one, step in steps:
        pieces = [part[2 * step + piece] for part in parts for piece in range(2)]
        assert sorted(row for piece in pieces for row in rows(piece)) == sorted(rows(one[step]))
        assert {int(piece.step_targets) for piece in pieces} == {int(one[step].counted.sum())}
    assert {len(part) for part in held_out} == {2 * every.batches}


def test_the_size_of_a_sequence_is_known_before_its_codes_are_read(read_speech: TokenStore) -> None:
    for stage in ("semantic", "coarse", "fine", "acoustic"):
        layout, windows = StageLayout(read_speech.spec, stage), Windows(read_speech, split="train", seconds=3)
        for window in windows.all()[:200]:
            tokens = windows.read(window)
            sequence = layout.sequence(tokens.units, tokens.codes, true_end=tokens.true_end)
            size = layout.size(windows.units(window), windows.frames(window), true_end=windows.truly_ends(window))
            assert size == (len(sequence.inputs), int((sequence.phases >= 0).sum()))


def test_shares_of_crops_are_the_whole_batch(manifest: Manifest) -> None:
    reader = CropReader(manifest, sample_rate_hz=16000, window_samples=4000)
    shares = [Share(rank=rank, ranks=2) for rank in range(2)]
    utterances = manifest.split("train")
    parts = [TrainingCrops(reader, utterances, batch_size=6, seed=0, share=share)[3].audio for share in shares]
    whole = TrainingCrops(reader, utterances, batch_size=6, seed=0)[3].audio
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)
    every = ValidationCrops(reader, manifest.split("validation"), batch_size=64)
    last = [
        ValidationCrops(reader, manifest.split("validation")[:1], batch_size=64, share=Share(r, 64)) for r in (0, 63)
    ]
    assert every[0].counts
    assert [(len(part), part[0].counts, part[0].weight) for part in last] == [(1, True, 1), (1, False, 0)]


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"window_seconds": 0}, {"batch_size": 0}, {"workers": -1}):
        with pytest.raises(ValueError, match="window_seconds must be positive"):
            LibriLightDataModule(view="tokens", **wrong)


def test_every_view_that_a_yaml_may_name_is_there() -> None:
    assert get_args(get_type_hints(LibriLightDataModule.__init__)["view"]) == tuple(VIEWS)


def test_a_view_refuses_what_it_does_not_give() -> None:
    with pytest.raises(ValueError, match=r"tokens view gives nothing to predict from: set data\.init_args\.view"):
        LibriLightDataModule(view="tokens").predict_dataloader()
    with pytest.raises(ValueError, match="prompts view gives nothing to train on"):
        LibriLightDataModule(view="prompts").training_batches()
    with pytest.raises(ValueError, match="utterances view gives nothing to validate on"):
        LibriLightDataModule(view="utterances").validation_dataset()


def test_readers_are_as_many_as_the_cores_that_a_job_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((1, 0), (5, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert LibriLightDataModule(view="tokens").workers == workers
