"""A two-node SLURM cluster for the session, and a copy of the repository in which chains are trained."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clone import Clone
from cluster import Cluster, install

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Up and idle; taken down at the end, whatever happens."""
    if os.geteuid() != 0:
        pytest.skip("a SLURM cluster of one's own needs root")
    install()
    folder = Path(tempfile.mkdtemp(prefix="audiolm-slurm-"))
    folder.chmod(0o755)  # munge's clients look into it
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def clone(cluster: Cluster, tone_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """With the presets `tiny`, of a few steps a stage, and `long`, whose codec has some hundred."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("Makefile", "lightning.yaml", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("src", "datamodules", "stages"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    tiny = REPOSITORY / "tests" / "tiny_stages"
    for preset in ("tiny", "long", "mended"):
        shutil.copytree(tiny, folder / "stages" / preset)
    codec = folder / "stages" / "long" / "codec.yaml"
    codec.write_text(
        codec.read_text()
        .replace("max_steps: 12,", "max_steps: 36,")
        .replace("val_check_interval: 4", "val_check_interval: 12")
    )
    return Clone(folder, cluster, tone_corpus)
