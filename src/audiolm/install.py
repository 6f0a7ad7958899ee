"""Repairs an installation: `python -m audiolm.install`, which `make setup` runs.

PyPI carries torchaudio with a CUDA-linked compiled library only. Beside a torch without CUDA that library cannot be loaded,
and a torchaudio that cannot be imported breaks transformers' audio models as well. torchaudio does without the library when
its file is absent, and everything needed here (resampling, spectrograms, MFCC) is pure Python. So the file is removed.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch


def unloadable_torchaudio_libraries() -> list[Path]:
    """The compiled libraries of torchaudio, if torch has no CUDA and torchaudio cannot be imported because of them."""
    if torch.version.cuda is not None or torch.version.hip is not None or _imports():
        return []
    found = importlib.util.find_spec("torchaudio")
    assert found is not None, "torchaudio is not installed; pyproject.toml names it"
    assert found.origin is not None, "torchaudio is a package"
    return sorted((Path(found.origin).parent / "lib").glob("*.so"))


def _imports() -> bool:
    command = [sys.executable, "-c", "import torchaudio"]  # a process of its own: a failed import cannot be undone
    return subprocess.run(command, capture_output=True).returncode == 0


def main() -> int:
    """Check that torchaudio can be imported; on a CPU-only torch remove its unloadable libraries and check again."""
    for library in unloadable_torchaudio_libraries():
        library.unlink()
        print(f"torch here has no CUDA: removed {library.name} of torchaudio, which only loads beside a CUDA torch.")
    if not _imports():
        print(
            "torchaudio cannot be imported. Reinstall it (pip install --force-reinstall --no-deps torchaudio), then run "
            "`make setup` again; `python -c 'import torchaudio'` shows the reason.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
