"""A damaged checkpoint is told from a whole one, whatever happened to it, and a kill while it is written damages none."""

import contextlib
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiolm import checksums
from audiolm.checkpoint import load_stage_checkpoint
from audiolm.checksums import DamagedError, discard, publish, remove_leftovers, sealed_path, sidecar, verify

CONTENT = bytes(range(256)) * 4


def sealed(path: Path, content: bytes = CONTENT) -> Path:
    with sealed_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def sealed_folder(path: Path, parts: dict[str, bytes]) -> Path:
    with sealed_path(path) as temporary:
        for name, content in parts.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
    return path


def test_the_sidecar_is_what_sha256sum_reads(tmp_path: Path) -> None:
    sealed(tmp_path / "best.ckpt")
    folder = sealed_folder(tmp_path / "step.ckpt", {"rank0.bin": b"a", "deep/rank1.bin": b"b"})
    for place, list_ in ((tmp_path, "best.ckpt.sha256"), (folder, "SHA256SUMS")):
        assert (
            subprocess.run(["sha256sum", "--check", "--strict", list_], cwd=place, capture_output=True).returncode == 0
        )


@given(place=st.integers(0, len(CONTENT) - 1), bit=st.integers(0, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
def test_any_flipped_bit_is_found(tmp_path: Path, place: int, bit: int) -> None:
    path = sealed(tmp_path / "best.ckpt")
    assert verify(path)
    altered = bytearray(CONTENT)
    altered[place] ^= 1 << bit
    path.write_bytes(altered)
    with pytest.raises(DamagedError, match=r"best.ckpt is damaged: its 1024 bytes"):
        verify(path)


@given(left=st.integers(0, len(CONTENT) - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
def test_any_truncation_is_found(tmp_path: Path, left: int) -> None:
    path = sealed(tmp_path / "best.ckpt")
    path.write_bytes(CONTENT[:left])
    with pytest.raises(DamagedError, match="truncated or altered"):
        verify(path)


def test_a_folder_names_the_file_that_is_missing_or_altered(tmp_path: Path) -> None:
    folder = sealed_folder(tmp_path / "step.ckpt", {"rank0.bin": b"aaaa", "deep/rank1.bin": b"bbbb"})
    assert verify(folder)
    (folder / "deep" / "rank1.bin").write_bytes(b"bbxb")
    with pytest.raises(DamagedError, match=r"rank1.bin is damaged"):
        verify(folder)
    (folder / "deep" / "rank1.bin").unlink()
    with pytest.raises(DamagedError, match=r"incomplete: deep/rank1.bin is missing"):
        verify(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(DamagedError, match="which is written last"):
        verify(folder)


def test_a_file_without_a_checksum_must_be_a_whole_archive(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(100)}, tmp_path / "a.ckpt")
    assert not verify(tmp_path / "a.ckpt")
    whole = (tmp_path / "a.ckpt").read_bytes()
    place = whole.index(torch.ones(100).numpy().tobytes())
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:place] + b"\1" + whole[place + 1 :]):
        (tmp_path / "a.ckpt").write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"a.ckpt (cannot be read as a checkpoint|is damaged)"):
            verify(tmp_path / "a.ckpt")


class Killed(BaseException):
    """Stands for a kill: nothing that follows is run."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Die before the `step`-th change of a name on the disk."""
    left = [step]

    def dying(original):
        def call(*arguments, **options):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return original(*arguments, **options)

        return call

    for owner, name in ((checksums.os, "rename"), (checksums.os, "replace"), (Path, "unlink"), (Path, "write_text")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("step", range(8))
def test_a_kill_at_any_instant_leaves_the_old_or_the_new_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, folder: bool
) -> None:
    """A kill runs no clean-up either: what stands under the final name must be accepted as it is."""
    path, temporary = tmp_path / "best.ckpt", tmp_path / ".best.ckpt.part"

    def write(at: Path, value: int) -> None:
        if folder:
            at.mkdir()
        torch.save({"value": value}, at / "part.bin" if folder else at)

    write(temporary, 1)
    publish(temporary, path)
    write(temporary, 2)
    with monkeypatch.context() as patched:
        kill_at(patched, step)
        with contextlib.suppress(Killed):
            publish(temporary, path)
    remove_leftovers(tmp_path)  # as the next start does
    verify(path)
    content = torch.load(path / "part.bin" if folder else path, weights_only=True)
    assert content["value"] in (1, 2)
    assert {file.name for file in tmp_path.iterdir()} <= {"best.ckpt", "best.ckpt.sha256"}
    write(temporary, 3)
    publish(temporary, path)  # the next save is not hindered by what was left
    assert verify(path)


def test_what_is_discarded_leaves_no_checksum(tmp_path: Path) -> None:
    discard(sealed(tmp_path / "best.ckpt"))
    discard(sealed_folder(tmp_path / "step.ckpt", {"a": b"a"}))
    assert not list(tmp_path.iterdir())


def test_a_damaged_best_checkpoint_is_named_with_its_remedy(chain: Path, tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    content = bytearray((chain / "codec" / "best.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    sidecar(path).write_text(sidecar(chain / "codec" / "best.ckpt").read_text())
    with pytest.raises(ValueError, match=r"best.ckpt is damaged.*put a copy back.*train the codec stage again"):
        load_stage_checkpoint(path, stage="codec")


def test_what_others_named_is_no_leftover(tmp_path: Path) -> None:
    """A folder for checkpoints may be one that holds other things, such as a home."""
    for name in (".bashrc.old", ".film.part"):
        (tmp_path / name).write_text("mine")
    for name in (".best.ckpt.71.part", ".step-00000004.ckpt.part", ".done.json.71.part"):
        (tmp_path / name).write_text("half")
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".bashrc.old", ".film.part"]
