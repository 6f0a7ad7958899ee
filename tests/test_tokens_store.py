"""A store gives back what was written, whatever kills its writers, and refuses to be read half-made."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.tokens.spec import TokenSpec
from audiolm.tokens.store import StoreError, TokenStore, TokenStoreWriter, create_store, seal, written_ids
from audiolm.tokens.windows import Window, Windows

SPEC = TokenSpec(clusters=20, codebook_size=16, levels=6, coarse_levels=2)
MADE_BY = {"codec": "a", "tokenizer": "b"}


def utterance(number: int, blocks: int) -> dict:
    random = torch.Generator().manual_seed(number)
    return {
        "id": f"u{number}",
        "speaker": f"s{number % 3}",
        "split": ("train", "validation", "test")[number % 3],
        "true_end": number % 2 == 0,
        "units": torch.randint(0, SPEC.clusters, (blocks,), generator=random),
        "codes": torch.randint(0, SPEC.codebook_size, (SPEC.levels, 2 * blocks), generator=random),
    }


@pytest.fixture
def store_of(tmp_path: Path) -> Callable[..., TokenStore]:
    def make(*blocks: int, writers: int = 1) -> TokenStore:
        folder = tmp_path / "tokens"
        create_store(folder, SPEC, MADE_BY)
        for writer in range(writers):
            with TokenStoreWriter(folder, name=f"rank{writer}") as open_writer:
                for number in range(writer, len(blocks), writers):
                    open_writer.append(**utterance(number, blocks[number]))
        return seal(folder, expected=[f"u{number}" for number in range(len(blocks))])

    return make


@given(blocks=st.lists(st.integers(1, 30), min_size=3, max_size=8), writers=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[int], writers: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    create_store(folder, SPEC, MADE_BY)
    for writer in range(writers):
        with TokenStoreWriter(folder, name=f"rank{writer}") as open_writer:
            for number in range(writer, len(blocks), writers):
                open_writer.append(**utterance(number, blocks[number]))
    store = seal(folder, expected=[f"u{number}" for number in range(len(blocks))])
    for row, id_ in enumerate(store.ids):
        expected = utterance(int(id_[1:]), blocks[int(id_[1:])])
        assert torch.equal(store.units(row), expected["units"])
        assert torch.equal(store.codes(row), expected["codes"])
        assert torch.equal(store.codes(row, 1, 2), expected["codes"][:, 1:2])
        assert store.speakers[store.index["speaker"][row]] == expected["speaker"]
        assert bool(store.index["true_end"][row]) == expected["true_end"]


def test_splits_are_kept(store_of: Callable[..., TokenStore]) -> None:
    store = store_of(5, 6, 7, 8, 9, 10)
    assert [store.ids[row] for row in store.rows("validation")] == ["u1", "u4"]
    with pytest.raises(StoreError, match="A split is one of"):
        store.rows("dev")


@pytest.mark.parametrize("torn", ["units", "codes", "jsonl"])
def test_a_killed_writer_leaves_whole_utterances_and_the_next_run_completes_them(tmp_path: Path, torn: str) -> None:
    create_store(tmp_path, SPEC, MADE_BY)
    with TokenStoreWriter(tmp_path) as writer:
        for number in range(3):
            writer.append(**utterance(number, 10))
    file = next((tmp_path / "parts").glob(f"*.{torn}"))
    file.write_bytes(file.read_bytes()[:-1])  # as if the power had failed while the third was on its way
    assert written_ids(tmp_path) == {"u0", "u1"}
    with pytest.raises(StoreError, match="lacks 1 of 3"):
        seal(tmp_path, expected=["u0", "u1", "u2"])
    with TokenStoreWriter(tmp_path) as writer:
        writer.append(**utterance(2, 10))
    store = seal(tmp_path, expected=["u0", "u1", "u2"])
    assert torch.equal(store.units(store.ids.index("u2")), utterance(2, 10)["units"])


def test_an_utterance_that_two_runs_wrote_counts_once(tmp_path: Path) -> None:
    create_store(tmp_path, SPEC, MADE_BY)
    for name in ("a", "b"):
        with TokenStoreWriter(tmp_path, name=name) as writer:
            writer.append(**utterance(0, 10))
    assert len(seal(tmp_path, expected=["u0"])) == 1


def test_an_unsealed_store_is_not_read_and_a_sealed_one_not_written(tmp_path: Path) -> None:
    create_store(tmp_path, SPEC, MADE_BY)
    with pytest.raises(StoreError, match="not sealed"):
        TokenStore(tmp_path)
    with TokenStoreWriter(tmp_path) as writer:
        writer.append(**utterance(0, 10))
    seal(tmp_path, expected=["u0"])
    with pytest.raises(StoreError, match="is sealed"):
        TokenStoreWriter(tmp_path)


def test_a_store_made_by_other_checkpoints_is_refused(tmp_path: Path) -> None:
    create_store(tmp_path, SPEC, MADE_BY)
    create_store(tmp_path, SPEC, MADE_BY)  # the same again: fine
    with pytest.raises(StoreError, match="made_by differ"):
        create_store(tmp_path, SPEC, {"codec": "other", "tokenizer": "b"})


def test_foreign_utterances_and_parts_copied_in_part_are_refused(
    store_of: Callable[..., TokenStore], tmp_path: Path
) -> None:
    store = store_of(5, 6, 7)
    part = next((store.folder / "parts").glob("*.codes"))
    part.write_bytes(part.read_bytes()[:-2])
    with pytest.raises(StoreError, match="were sealed"):
        TokenStore(store.folder)
    create_store(tmp_path / "other", SPEC, MADE_BY)
    with TokenStoreWriter(tmp_path / "other") as writer:
        writer.append(**utterance(0, 10))
        writer.append(**utterance(1, 10))
    with pytest.raises(StoreError, match="the manifest lacks"):
        seal(tmp_path / "other", expected=["u0"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"units": torch.tensor([20] * 10)}, "units must lie in"),
        ({"codes": torch.full((6, 20), 16)}, "codes must lie in"),
        ({"codes": torch.zeros(5, 20, dtype=torch.int64)}, r"codes \(6, frames\)"),
        ({"codes": torch.zeros(6, 30, dtype=torch.int64)}, "did not see the same audio"),
        ({"split": "dev"}, "a split is one of"),
    ],
)
def test_tokens_that_do_not_fit_the_spec_are_refused(tmp_path: Path, change: dict, word: str) -> None:
    create_store(tmp_path, SPEC, MADE_BY)
    with TokenStoreWriter(tmp_path) as writer, pytest.raises(StoreError, match=word):
        writer.append(**{**utterance(0, 10), **change})


def test_a_full_disk_is_said_and_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_store(tmp_path, SPEC, MADE_BY)
    writer = TokenStoreWriter(tmp_path)
    writer.append(**utterance(0, 10))

    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    good, writer._codes = writer._codes, Full()
    with pytest.raises(OSError, match="The disk is full") as caught:
        writer.append(**utterance(1, 10))
    assert caught.value.filename == str(tmp_path)
    writer._codes = good
    writer.close()
    assert written_ids(tmp_path) == {"u0"}


def test_windows_stay_aligned_and_end_only_where_the_utterance_ends(store_of: Callable[..., TokenStore]) -> None:
    store = store_of(30, 7, 9, 25, 8, 9)
    windows = Windows(store, split="train", seconds=0.4)  # 10 blocks of 40 ms
    drawn = windows.draw(np.random.default_rng(0), 500)
    for window in drawn:
        tokens, whole_units = windows.read(window), store.units(window.row)
        assert torch.equal(tokens.units, whole_units[window.first_block : window.first_block + window.blocks])
        assert tokens.codes.shape[1] == 2 * len(tokens.units)
        at_end = window.first_block + window.blocks == len(whole_units)
        assert tokens.true_end == (at_end and store.ids[window.row] == "u0")  # u3 is cut in the middle: no true end
    assert {window.first_block for window in drawn if store.ids[window.row] == "u0"} == set(range(21))
    share = sum(store.ids[window.row] == "u0" for window in drawn) / len(drawn)
    assert abs(share - 30 / 55) < 0.07  # in proportion to length; 3 deviations of 500 draws


def test_windows_side_by_side_cover_everything_once(store_of: Callable[..., TokenStore]) -> None:
    store = store_of(30, 7, 9, 25, 8, 9)
    windows = Windows(store, split="train", seconds=0.4)
    joined: dict[int, list[int]] = {}
    for window in windows.all():
        joined.setdefault(window.row, []).extend(windows.read(window).units.tolist())
    assert joined == {int(row): store.units(row).tolist() for row in store.rows("train")}


def test_windows_are_drawn_and_laid_side_by_side_as_a_loop_over_utterances_does(
    store_of: Callable[..., TokenStore],
) -> None:
    store = store_of(*range(1, 40))
    for split, seconds in (("train", 0.4), ("validation", 0.04), ("test", 3.0)):
        windows, most = Windows(store, split=split, seconds=seconds), int(seconds / 0.04)
        lengths = {int(row): int(store.index["frames"][row]) // 2 for row in store.rows(split)}
        expected = [
            Window(row, first, min(most, total - first))
            for row, total in lengths.items()
            for first in range(0, total, most)
        ]
        every = windows.all()
        assert every[:] == [*every] == expected
        assert every[1:9:3] == expected[1:9:3]
        order = np.random.default_rng(1).permutation(len(every))
        assert every.in_order(order)[2:7] == [expected[position] for position in order[2:7]]
        random, drawn = np.random.default_rng(2), []
        ends = np.cumsum(list(lengths.values()))
        picks = [[*lengths][int(np.argmax(ends > at))] for at in random.integers(0, ends[-1], 100)]
        firsts = random.integers(0, np.array([lengths[row] - min(most, lengths[row]) + 1 for row in picks]))
        drawn = [Window(row, first, min(most, lengths[row])) for row, first in zip(picks, firsts.tolist(), strict=True)]
        assert windows.draw(np.random.default_rng(2), 100) == drawn
        for window in drawn[:9]:
            tokens = windows.read(window)
            assert torch.equal(tokens.units, windows.units(window))
            assert torch.equal(tokens.codes, windows.codes(window))


def test_a_store_and_its_windows_can_be_sent_to_another_process(store_of: Callable[..., TokenStore]) -> None:
    windows = Windows(store_of(*range(3, 12)), split="train", seconds=0.4)
    sent = pickle.dumps(windows)
    assert len(sent) < 1000  # the name of the folder, not its index
    drawn = windows.draw(np.random.default_rng(0), 5)
    received = pickle.loads(sent)
    assert received.draw(np.random.default_rng(0), 5) == drawn
    assert all(torch.equal(received.units(window), windows.units(window)) for window in drawn)


def test_a_part_that_is_cut_off_while_it_is_read_is_an_error(store_of: Callable[..., TokenStore]) -> None:
    store = store_of(5, 6, 7)
    part = next((store.folder / "parts").glob("*.codes"))
    os.truncate(part, 10)
    with pytest.raises(StoreError, match="cut off since this run began"):
        store.codes(2)


def test_more_parts_than_may_be_open_are_read(
    store_of: Callable[..., TokenStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audiolm.tokens.store.OPEN_FILES", 2)
    blocks = range(3, 12)
    store = store_of(*blocks, writers=9)
    for _ in range(2):
        for row, id_ in enumerate(store.ids):
            number = int(id_[1:])
            assert torch.equal(store.units(row), utterance(number, blocks[number])["units"])
    assert store._file.cache_info().currsize == 2
