"""A few hundred mutated files per reader, always the same. More: `python -m tests.fuzz --files 20000 --seed 0`."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_no_mutated_file_crashes_hangs_eats_memory_or_leads_outside(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--files", "2000", "--seed", "1", "--keep", str(tmp_path / "failed")]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "| all | " in done.stdout
