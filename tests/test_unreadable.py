"""Unreadable audio is replaced by a function of the batch, and named once; errors from elsewhere are put in words."""

import errno
import os
from pathlib import Path

import pytest
import torch
from tiny import tones_and_noise

from audiolm.audio import write_audio
from audiolm.corpus import prepare
from audiolm.errors import in_words
from audiolm.files import atomic_path, remove_leftovers
from audiolm.manifest import Manifest, read_manifest
from audiolm.recordings import CorpusError
from datamodules.unreadable import Unreadable, UnreadableFiles
from datamodules.waveforms import CropReader, TrainingCrops, ValidationCrops, WholeUtterances


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    for number in range(12):
        audio = tones_and_noise(8000 + 500 * number, seed=number)
        write_audio(tmp_path / "a" / f"s{number}" / "x.flac", audio, sample_rate_hz=16000)
    prepare(tmp_path / "a", tmp_path)
    return read_manifest(tmp_path / "manifest.jsonl")


def crops(manifest: Manifest) -> TrainingCrops:
    reader = CropReader(manifest, sample_rate_hz=16000, window_samples=4000)
    return TrainingCrops(reader, manifest.split("train"), batch_size=4, seed=0)


def test_only_the_rows_that_cannot_be_read_change_and_always_alike(manifest: Manifest) -> None:
    before = [crops(manifest)[number] for number in range(8)]
    gone = manifest.split("train")[0]
    (manifest.root / gone.path).unlink()
    after, again = ([crops(manifest)[number] for number in range(8)] for _ in range(2))
    assert all(torch.equal(a.audio, b.audio) for a, b in zip(after, again, strict=True))
    changed = [int((a.audio != b.audio).any(1).sum()) for a, b in zip(before, after, strict=True)]
    assert sum(changed) > 0
    assert changed == [n if batch.unreadable else 0 for n, batch in zip(changed, after, strict=True)]
    assert {one.path for batch in after for one in batch.unreadable} == {gone.path}


def test_a_corpus_that_is_gone_is_said_at_once_by_every_reader(manifest: Manifest) -> None:
    os.rename(manifest.root, f"{manifest.root}-away")
    reader = CropReader(manifest, sample_rate_hz=16000, window_samples=4000)
    whole = WholeUtterances(manifest, manifest.utterances, sample_rate_hz=16000)
    for dataset in (crops(manifest), ValidationCrops(reader, manifest.split("validation"), batch_size=2), whole):
        with pytest.raises(CorpusError, match=r"seems to be gone.*mounted"):
            dataset[0]


def test_a_file_is_listed_once_by_all_processes_and_one_too_many_stops(tmp_path: Path) -> None:
    ours, theirs = (UnreadableFiles(tmp_path / "s" / "unreadable.jsonl", files=150, max_share=0.01) for _ in range(2))
    one, two, three = (Unreadable(name, f"{name}.flac", f"{name}.flac is damaged") for name in ("a", "b", "c"))
    with pytest.warns(UserWarning, match=r"a\.flac is damaged.*unreadable\.jsonl") as said:
        ours.note([one, one])
    theirs.note([one])
    assert len(said) == len(theirs) == 1
    with pytest.warns(UserWarning, match="is damaged"):
        theirs.note([two])
    assert (len(ours), len(theirs)) == (2, 2)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(CorpusError, match=r"3 of 150 recordings.*2 may.*c\.flac"),
    ):
        ours.note([three])
    ours.forget_those_that(lambda one: one.id != "b")
    assert len(ours) == len(UnreadableFiles(ours.path, files=150, max_share=0.01)) == 1


def test_a_share_of_nothing_lets_no_file_be_missing(tmp_path: Path) -> None:
    strict = UnreadableFiles(tmp_path / "unreadable.jsonl", files=150, max_share=0)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(CorpusError, match="and 0 may"):
        strict.note([Unreadable("a", "a.flac", "a.flac is damaged")])


def test_what_a_reading_process_raises_reaches_the_user_without_its_traceback(manifest: Manifest) -> None:
    os.rename(manifest.root, f"{manifest.root}-away")
    with pytest.raises(CorpusError) as caught:
        next(iter(torch.utils.data.DataLoader(crops(manifest), batch_size=None, sampler=[0], num_workers=1)))
    words = in_words(caught.value)
    assert words is not None
    assert words.startswith("The corpus in")
    assert "Traceback" not in words


def test_a_killed_reading_process_and_too_many_open_files_are_put_in_words() -> None:
    died = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    assert "process id 12" in str(in_words(died))
    assert "workers" in str(in_words(died))
    assert "ulimit -n" in str(in_words(OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x")))
    assert "ulimit -n" in str(in_words(RuntimeError("received 0 items of ancdata")))
    assert in_words(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_a_used_up_quota_is_a_full_disk_whatever_a_library_makes_of_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="The disk is full") as caught, atomic_path(tmp_path / "x"):
        try:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        except OSError as error:
            raise RuntimeError("writer failed") from error
    assert str(tmp_path / "x") in str(in_words(caught.value))


def test_only_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    for name in (f".x.{dead}.part", f".x.{dead}.old", f".x.{os.getpid()}.part", f".xy.{dead}.part", "x"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path / "x")
    assert {path.name for path in tmp_path.iterdir()} == {f".x.{os.getpid()}.part", f".xy.{dead}.part", "x"}
