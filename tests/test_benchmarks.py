"""Benchmarks print what their readers look for."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_the_semantic_benchmark_prints_one_object_with_figures_and_settings() -> None:
    tiny = REPOSITORY / "tests" / "tiny_stages" / "encoder.yaml"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "semantic.py"), "--json", "--sizes", str(tiny)]
    command += ["--precisions", "fp32", "--threads", "1", "--steps", "1", "--repeats", "1", "--seconds", "1"]
    command += ["--kmeans", "500", "16", "8", "2", "--abx-speakers", "2"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    for name in ("pretrain_step_s", "features_rtf", "kmeans_s", "abx_triples_per_s"):
        assert result[name] > 0
    assert result["pretrain_step_s"] == result["by_size"][str(tiny)]["fp32"]["pretrain_step_s"]
    settings = result["settings"]
    assert settings["kmeans"] == {
        "frames": 500, "dim": 16, "clusters": 8, "iterations": 2, "restarts": 1, "full": False
    }  # fmt: skip
    assert settings["sizes"][str(tiny)]["encoder"]["dim"] == 16
    assert settings["sizes"][str(tiny)]["batch"] == "2 crops of 1 s"
    assert settings["abx"]["triples"] > 0
    assert (settings["precision"], settings["threads"]) == ("fp32", 1)
    assert settings["torch"]
    assert settings["processor"]


def test_a_size_that_does_not_exist_is_refused_by_name() -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "semantic.py"), "--sizes", "huge"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "paper, or the path of a YAML" in done.stderr
