import errno
from pathlib import Path

import pytest

from audiolm.files import atomic_path, read_json, set_aside, write_json


def test_an_interrupted_file_leaves_the_old_one_and_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["two"]
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="free some space") as caught, atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_json_that_is_missing_or_broken_names_its_maker(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make something"):
        read_json(tmp_path / "a.json", made_by="make something")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="make something"):
        read_json(tmp_path / "a.json", made_by="make something")
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", float("nan"))


def test_what_is_set_aside_never_overwrites(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "codec").mkdir()
        assert set_aside(tmp_path / "codec").name == f"codec.before-{number}"
