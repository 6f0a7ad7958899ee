"""What the tests of faults share: a chain of their own, whose corpus may be spoilt, and small disks."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audiolm.corpus import prepare


@pytest.fixture(autouse=True)
def _screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_SCREEN", str(tmp_path / "screen.txt"))


@pytest.fixture
def corpus(tone_corpus: Path, tmp_path: Path) -> Path:
    """A copy of the corpus of tones."""
    return Path(shutil.copytree(tone_corpus, tmp_path / "corpus"))


@pytest.fixture
def root(chain: Path, corpus: Path, tmp_path: Path) -> Path:
    """A copy of the whole tiny chain, over that copy of the corpus. Tests remove what they make anew."""
    copy = Path(shutil.copytree(chain, tmp_path / "chain"))
    prepare(corpus, copy)  # the same manifest, with another root
    return copy


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small disk (in memory) on a folder."""
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    mounted: list[Path] = []

    def mount(folder: Path, *, kilobytes: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        options = f"size={kilobytes}k"
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        ).returncode:
            pytest.skip("no small disk can be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
