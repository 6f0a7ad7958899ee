"""Benchmarks print what their readers look for."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from audiolm.tokens.layout import StageLayout

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


def run_lm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """benchmarks/lm.py on models of a few thousand weights."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "lm.py"), "--json", "--sizes", "tiny", *arguments]
    command += ["--threads", "1", "--steps", "1", "--repeats", "1", "--matrix-size", "64", "--array-gb", "0.001"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_language_model_benchmark_prints_one_object_with_figures_and_settings() -> None:
    done = run_lm("--stages", "coarse", "--precisions", "fp32", "--seconds", "0.4")
    result = json.loads(done.stdout)
    step = result["by_size"]["tiny"]["train"]["auto"]["coarse"]["fp32"]
    assert result["train_step_s"] == {"coarse": {"fp32": step["step_s"]}}
    assert 0 < step["peak_over_imports_gb"] < step["peak_gb"] == result["train_peak_gb"]["coarse"]
    assert step["positions"] == 2253
    assert abs(step["first_loss_nats"] / 6.93 - 1) < 0.05  # ln 1024: the step is a real one
    assert set(result["matrix_gflops"]) == {"fp32", "bf16"}
    assert min(*result["matrix_gflops"].values(), result["bandwidth_gbs"]) > 0
    rate = step["gflop"] / step["step_s"] / result["matrix_gflops"]["fp32"]
    assert abs(step["of_matrix_rate"] / rate - 1) < 0.01
    decoding = result["by_size"]["tiny"]["decode"]["auto"]["0.4 s"]["batch 1"]["coarse"]
    assert (decoding["prefix_tokens"], decoding["new_tokens"]) == (75 + 10 + 1 + 600, 80)
    assert decoding["ms_per_step_mean"] > 0
    assert 0 < result["continuation_s"] == result["by_size"]["tiny"]["continue"]["0.4 s"]["batch 1"]["seconds"]
    settings = result["settings"]
    assert (settings["sizes"], settings["threads"], settings["prompt_seconds"]) == (["tiny"], 1, 3.0)
    assert settings["torch"]
    assert settings["processor"]


def test_the_peer_is_asked_for_its_language_models_and_its_figures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import lm

    script = tmp_path / "peer.py"
    script.write_text(
        "import json, sys\n"
        "given = dict(zip(sys.argv[2::2], sys.argv[3::2]))\n"
        "cases = {case: {'threads': given['--threads']} for case in given['--cases'].split(',')}\n"
        "open(given['--out'], 'w').write(json.dumps({'cases': cases}))\n"
    )
    options = argparse.Namespace(peer=sys.executable, peer_script=str(script), threads=2, repeats=1)
    figures = lm.measure_peer(options)
    assert {"train:coarse", "gen:fine:cache"} < set(figures)
    assert figures["train:coarse"] == {"threads": "2"}


def test_a_peer_without_its_script_is_refused() -> None:
    done = run_lm("--peer", "python")
    assert done.returncode == 2
    assert "--peer and --peer-script belong together" in done.stderr


def test_the_count_of_operations_is_that_of_the_matrices_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    from lm_models import SPEC, build_model, training_batch
    from lm_training import training_flop

    layout = StageLayout(SPEC, "fine")
    model, batch = build_model(layout, size="tiny", attention="auto"), training_batch(layout, rows=2)
    with FlopCounterMode(display=False) as counter:
        for block in model.blocks:
            block(torch.zeros(2, 1800, 16), lambda queries, keys, values: values)
        for phase in range(8):
            model.head_logits(torch.zeros(2 * 150, 16), *layout.legal_range(phase))
    pairs = sum(range(1, 1801))
    attention = 2 * 2 * 16 * pairs * (2 + 2)  # rows x layers x dim x pairs, twice a multiplication and an addition
    assert training_flop(model, layout, batch) == 3 * (counter.get_total_flops() + attention)


@pytest.mark.parametrize("seconds", [2.0, 7.0])
def test_the_benchmark_decodes_from_the_prefixes_of_the_generator(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    from lm_decoding import continuation_tokens
    from lm_models import SPEC

    sizes = {}
    for stage in ("semantic", "coarse", "fine"):
        prefix, steps, rows = continuation_tokens(StageLayout(SPEC, stage), 3.0, seconds)
        sizes[stage] = (len(prefix), steps, rows)
    frames = min(int(50 * seconds), 150)  # of a fine chunk
    assert sizes == {
        "semantic": (1 + 75, int(25 * seconds), 1),
        "coarse": (int(25 * (3 + seconds)) + 1 + 600, int(200 * seconds), 1),
        "fine": (4 * frames + 1, 8 * frames, int(seconds) // 3 or 1),
    }


def test_the_schemes_of_positions_are_trained_for_equal_times(chain: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "positions.py"), "--json", "--stage", "semantic"]
    command += ["--tokens", str(chain / "tokens"), "--minutes", "0.0005", "--batch-size", "2", "--timed-steps", "2"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    assert list(result["schemes"]) == ["t5, 128 tokens", "t5, 750 tokens", "rope"]
    for row in result["schemes"].values():
        assert row["steps"] == max(1, round(0.03 / row["step_s"]))
        assert 0 < row["validation_nats"] < 10
    parameters = [row["parameters"] for row in result["schemes"].values()]
    assert parameters[0] == parameters[1] == parameters[2] + 32 * 4  # a number per bucket and head
