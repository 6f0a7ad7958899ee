"""Columns are the text over again: same utterances, same draws; and they are used for the very text they were written with."""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm import manifest_columns
from audiolm.manifest import SPLITS, Manifest, ManifestError, Utterance, Utterances, read_manifest, write_manifest
from audiolm.manifest_columns import columns_folder, text_is_the_same
from datamodules.sampling import generator
from datamodules.waveforms import CropReader, ShuffledCrops, TrainingCrops

# surrogates too: file names that are not UTF-8; but nothing that leads out of the corpus
texts = st.text(st.characters(exclude_categories=(), exclude_characters="\0/"), min_size=1, max_size=8).filter(
    lambda t: t != ".."
)


@st.composite
def corpora(draw: Callable) -> tuple[Utterance, ...]:
    ids = draw(st.lists(texts, unique=True, max_size=8))
    return tuple(
        Utterance(
            id=id_,
            path=draw(texts),
            speaker=draw(st.sampled_from(["a", "ü", "語\udcff"])),
            split=draw(st.sampled_from(SPLITS)),
            start=draw(st.integers(0, 2**40)),
            samples=draw(st.integers(1, 2**31)),
            sample_rate_hz=draw(st.sampled_from([8000, 16000, 44100])),
            true_end=draw(st.booleans()),
            dc_offset=draw(st.floats(-1, 1)),
        )
        for id_ in ids
    )


@pytest.fixture(autouse=True)
def small_manifests_have_columns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_columns, "FROM_UTTERANCES", 0)


@given(utterances=corpora(), data=st.data())
@settings(deadline=None, max_examples=50)
def test_utterances_in_columns_are_a_tuple_of_them(utterances: tuple[Utterance, ...], data: st.DataObject) -> None:
    columns = Utterances.of(utterances)
    assert tuple(columns) == utterances
    assert columns == utterances
    assert [columns[n] for n in range(-len(utterances), len(utterances))] == [*utterances, *utterances]
    cut = data.draw(st.slices(len(utterances)))
    assert tuple(columns[cut]) == utterances[cut]
    assert [*columns[cut].ids()] == [utterance.id for utterance in utterances[cut]]
    for split in SPLITS:
        assert tuple(columns.split(split)) == tuple(u for u in utterances if u.split == split)
        assert columns.split(split).speakers == {u.speaker for u in utterances if u.split == split}
    some = {utterance.id for utterance in utterances[cut]}
    assert tuple(columns.without(some)) == tuple(u for u in utterances if u.id not in some)
    assert columns.seconds.tolist() == [u.seconds for u in utterances]
    assert columns != (*utterances, *utterances[:1]) or not utterances
    with pytest.raises(IndexError):
        columns[len(utterances)]


@given(utterances=corpora())
@settings(deadline=None, max_examples=25)
def test_columns_and_text_read_alike(
    tmp_path_factory: pytest.TempPathFactory, utterances: tuple[Utterance, ...]
) -> None:
    path = tmp_path_factory.mktemp("m") / "manifest.jsonl"
    written = Manifest(path.parent, utterances)
    write_manifest(written, path)
    assert columns_folder(path).exists() == bool(utterances)
    mapped = read_manifest(path)
    shutil.rmtree(columns_folder(path), ignore_errors=True)
    parsed = read_manifest(path)
    assert mapped == parsed == written
    assert tuple(mapped.utterances) == utterances
    assert mapped.digest == parsed.digest == written.digest


def utterances_of(count: int, *, rate: int = 16000) -> tuple[Utterance, ...]:
    random = np.random.default_rng(count)
    return tuple(
        Utterance(
            f"u{n}", f"{n}.flac", f"s{n % 5}", SPLITS[n % 3], 0, int(random.integers(1, 9 * rate)), rate, True, 0.0
        )
        for n in range(count)
    )


def written(folder: Path, count: int = 20) -> Path:
    write_manifest(Manifest(folder, utterances_of(count)), folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def test_an_edited_text_is_refused_although_its_columns_are_whole(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = path.read_text()
    path.write_text(content.replace('"s1"', '"s2"', 1))
    with pytest.raises(ManifestError, match="edited"):
        read_manifest(path)
    path.write_text(content[: len(content) // 2])
    with pytest.raises(ManifestError, match="is not an utterance"):
        read_manifest(path)


def break_byte(folder: Path) -> None:
    file = folder / "samples.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "changed or cut off": break_byte,
    "cut off": lambda folder: (folder / "id.bytes.npy").write_bytes((folder / "id.bytes.npy").read_bytes()[:-1]),
    "missing": lambda folder: (folder / "path.npy").unlink(),
    "another manifest": lambda folder: written(folder.parent / "other", 21) and shutil.copytree(
        folder.parent / "other" / "manifest.columns", folder, dirs_exist_ok=True
    ),
    "cannot be read": lambda folder: (folder / "columns.json").write_text("[]"),
}  # fmt: skip


@pytest.mark.parametrize("reason", DAMAGES)
def test_columns_that_are_damaged_or_of_another_text_are_named_and_the_text_is_read(
    tmp_path: Path, reason: str
) -> None:
    path = written(tmp_path)
    (tmp_path / "other").mkdir()
    DAMAGES[reason](columns_folder(path))
    with pytest.warns(UserWarning, match=rf"{reason}.*text is read.*audiolm prepare"):
        assert tuple(read_manifest(path).utterances) == utterances_of(20)


def test_writing_again_replaces_the_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_manifest(written(tmp_path, 30)).utterances) == 30
        monkeypatch.setattr(manifest_columns, "FROM_UTTERANCES", 1000)
        assert len(read_manifest(written(tmp_path, 10)).utterances) == 10
    assert not columns_folder(tmp_path / "manifest.jsonl").exists()


class ReadNothing(CropReader):
    """Remembers what it was asked for."""

    asked: list[tuple[Utterance, int]]

    def read(self, utterance: Utterance, offset: int) -> torch.Tensor:
        self.asked.append((utterance, offset))
        return torch.zeros(1)


@pytest.mark.parametrize("rate", [16000, 11025])
def test_crops_are_drawn_as_a_loop_over_objects_draws_them(rate: int) -> None:
    utterances = utterances_of(50, rate=rate)
    reader = ReadNothing(Manifest(Path("/"), utterances), sample_rate_hz=16000, window_samples=16000)
    crops = TrainingCrops(reader, Utterances.of(utterances), batch_size=64, seed=7)
    ends, expected = np.cumsum([utterance.seconds for utterance in utterances]), []
    reader.asked = []
    for number in (0, 3):
        crops[number]
        random = generator(7, number)
        for pick in np.searchsorted(ends, random.uniform(0, ends[-1], 64), side="right"):
            room = max(0, utterances[pick].samples - -(-16000 * rate // 16000))
            expected.append((utterances[pick], int(random.integers(0, room + 1))))
    assert reader.asked == expected


@pytest.mark.parametrize("rate", [16000, 11025])
def test_validation_crops_are_those_of_a_loop_in_its_order(rate: int) -> None:
    utterances = utterances_of(40, rate=rate)
    reader = CropReader(Manifest(Path("/"), utterances), sample_rate_hz=16000, window_samples=16000)
    crops = []
    for utterance in utterances:
        window = reader.file_samples(utterance)
        crops += [(utterance, n * window) for n in range(max(1, round(utterance.samples / window)))]
    shuffled = ShuffledCrops(reader, Utterances.of(utterances))
    assert shuffled[:] == [crops[position] for position in generator(0).permutation(len(crops))]
    assert shuffled[3] == shuffled[:][3]


def test_a_text_is_trusted_by_size_and_time_only_where_an_edit_would_show(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert not text_is_the_same(path)  # both are too fresh to tell
    said, later = columns_folder(path) / "columns.json", path.stat().st_mtime + 10
    os.utime(said, (later, later))
    assert text_is_the_same(path)
    assert tuple(read_manifest(path).utterances) == utterances_of(20)
    path.write_text(path.read_text().replace('"s1"', '"s2"', 1))  # as long as before
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with pytest.raises(ManifestError, match="edited"):
        read_manifest(path)
