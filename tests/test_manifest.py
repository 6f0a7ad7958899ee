import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiolm.manifest import (
    SPLITS,
    Manifest,
    ManifestError,
    Utterance,
    read_manifest,
    split_speakers,
    write_manifest,
)


def utterance(name: str = "a", **changes: object) -> Utterance:
    plain = Utterance(
        id=name, path=f"{name}.flac", speaker="s", split="train", start=0, samples=16000, sample_rate_hz=16000,
        true_end=True, dc_offset=0.0,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def corpus(root: Path) -> Manifest:
    return Manifest(
        root=root,
        utterances=(
            utterance("a/b", start=5, true_end=False, dc_offset=-0.25),
            utterance("é 語", split="test", speaker="ü"),
            utterance("bad\udcffname", split="validation"),  # how Python shows a file name that is not UTF-8
        ),
    )


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = corpus(tmp_path)
    write_manifest(manifest, tmp_path / "manifest.jsonl")
    assert read_manifest(tmp_path / "manifest.jsonl") == manifest
    assert read_manifest(tmp_path / "manifest.jsonl").digest == manifest.digest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


def test_an_empty_manifest_reads_back(tmp_path: Path) -> None:
    write_manifest(Manifest(tmp_path, ()), tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl").utterances == ()


def test_the_digest_follows_the_content_and_not_the_root(tmp_path: Path) -> None:
    manifest = corpus(tmp_path)
    assert replace(manifest, root=tmp_path / "moved").digest == manifest.digest
    for change in ({"samples": 15999}, {"split": "test"}, {"true_end": False}, {"dc_offset": 0.1}, {"id": "z"}):
        changed = (*manifest.utterances[:-1], replace(manifest.utterances[-1], **change))  # type: ignore[arg-type]
        assert replace(manifest, utterances=changed).digest != manifest.digest


def test_splits_and_hours_are_counted_at_each_files_own_rate(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, (utterance("a", samples=8000, sample_rate_hz=8000), utterance("b", split="test")))
    assert [u.id for u in manifest.split("train")] == ["a"]
    assert manifest.hours("train") == manifest.hours("test") == 1 / 3600
    assert manifest.hours() == 2 / 3600


def test_two_utterances_with_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="'a'"):
        write_manifest(Manifest(tmp_path, (utterance("a"), utterance("a", start=1))), tmp_path / "m.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_missing_manifest_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="audiolm prepare"):
        read_manifest(tmp_path / "manifest.jsonl")


def test_every_damage_to_a_manifest_is_noticed_and_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write_manifest(corpus(tmp_path), path)
    head, first, *rest = path.read_text().splitlines(keepends=True)

    def error(content: str) -> str:
        path.write_text(content)
        with pytest.raises(ManifestError, match="prepare") as caught:
            read_manifest(path)
        return str(caught.value)

    assert "header" in error("RIFF")
    assert "header" in error("")
    assert "version 2" in error(head.replace('"version": 1', '"version": 2') + first + "".join(rest))
    assert "line 3" in error(head + first + rest[0][:40])
    assert "line 2" in error(head + first.replace('"speaker"', '"who"') + "".join(rest))
    assert "3 utterances but holds 2" in error(head + first + rest[0])
    assert "edited" in error(head + first.replace("16000", "15000", 1) + "".join(rest))


def test_two_hundred_thousand_utterances_are_read_in_seconds(tmp_path: Path) -> None:
    speakers = [f"speaker {index}" for index in range(1000)]
    many = tuple(
        utterance(f"{speakers[index % 1000]}/book/{index:06d}", speaker=speakers[index % 1000])
        for index in range(200_000)
    )
    write_manifest(Manifest(tmp_path, many), tmp_path / "m.jsonl")
    start = time.process_time()
    read = read_manifest(tmp_path / "m.jsonl")
    assert time.process_time() - start < 6  # 1 s where nothing else runs
    assert read.utterances == many
    assert read.utterances[0].speaker is read.utterances[1000].speaker  # shared, or memory grows with every line


@given(
    speakers=st.sets(st.text(min_size=1, max_size=5), min_size=3, max_size=60),
    validation=st.sampled_from([0.01, 0.05, 0.3, 0.49]),
    test=st.sampled_from([0.01, 0.05, 0.3, 0.5]),
)
def test_every_speaker_gets_one_split_and_no_split_is_empty(speakers: set[str], validation: float, test: float) -> None:
    splits = split_speakers(speakers, validation=validation, test=test)
    assert set(splits) == speakers
    assert set(splits.values()) == set(SPLITS)


def test_from_20_speakers_on_a_newcomer_moves_nobody() -> None:
    speakers = [str(number) for number in range(200)]
    some, more = split_speakers(speakers[:150]), split_speakers(speakers)
    assert all(more[speaker] == split for speaker, split in some.items())
    counts = [list(more.values()).count(split) for split in SPLITS]
    assert counts == [184, 9, 7]  # pinned: the hash must stay the same for ever


def test_few_speakers_give_the_lowest_hashes_to_test_then_validation() -> None:
    speakers = [f"reader{number}" for number in range(12)]
    splits = split_speakers(speakers, validation=0.17, test=0.25)  # 2 and 3 of 12

    ranked = sorted(speakers, key=lambda speaker: hashlib.sha256(speaker.encode()).hexdigest())
    assert [splits[speaker] for speaker in ranked] == ["test"] * 3 + ["validation"] * 2 + ["train"] * 7


def test_splits_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2"):
        split_speakers(["a", "b", "a"])
    for shares in ({"validation": 0.0}, {"test": -0.1}, {"validation": 0.5, "test": 0.5}):
        with pytest.raises(ValueError, match="shares"):
            split_speakers("abcd", **shares)


def test_the_header_is_a_line_of_json_that_other_tools_can_read(tmp_path: Path) -> None:
    write_manifest(corpus(tmp_path), tmp_path / "m.jsonl")
    header, *rows = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert (header["format"], header["version"], header["root"]) == ("audiolm-manifest", 1, str(tmp_path))
    assert rows[0]["path"] == "a/b.flac"
