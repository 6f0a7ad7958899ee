"""Quality of position schemes at equal CPU time: a bias that levels off at 128 tokens, one that covers the window, rotary.

    .venv/bin/python benchmarks/positions.py --tokens checkpoints/tokens --stage coarse --minutes 6 [--json]

First a step of each is timed on the same random windows, in turn, in this run; the fastest of its steps counts, since what
interferes only slows down. Then each is trained with `lightning fit` for as many steps as fit into the minutes, with its
own whole learning-rate schedule. Printed is the best validation loss in nats per token, on speakers that
were not trained on.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the commands of this project do

WINDOW_SECONDS = {"semantic": 30.0, "coarse": 10.0, "fine": 3.0}
SIZE = {"layers": 4, "heads": 4, "dim": 192, "feed_forward": 768, "dropout": 0.0}
COVERING = {"semantic": 750, "coarse": 2253, "fine": 1801}  # tokens of a whole window
STAGES = Path(__file__).resolve().parents[1] / "stages"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True, help="a sealed token store")
    parser.add_argument("--stage", default="coarse", choices=list(WINDOW_SECONDS))
    parser.add_argument("--minutes", type=float, default=6.0, help="of training, per scheme")
    parser.add_argument("--batch-size", type=int, default=4, help="windows per step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--timed-steps", type=int, default=6, help="per scheme, after one to warm up")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    schemes: dict[str, dict[str, Any]] = {
        "t5, 128 tokens": {"positions": "t5", "max_distance": 128},
        f"t5, {COVERING[options.stage]} tokens": {"positions": "t5", "max_distance": COVERING[options.stage]},
        "rope": {"positions": "rope"},
    }
    seconds = step_seconds(options, schemes)
    rows = {}
    for name, scheme in schemes.items():
        steps = max(1, round(60 * options.minutes / seconds[name]))
        rows[name] = {"step_s": round(seconds[name], 4), "steps": steps, **train(options, scheme, steps)}
    if options.json:
        settings = {name: str(value) for name, value in vars(options).items()}
        print(json.dumps({"schemes": rows, "settings": {**settings, "size": SIZE}}))
    else:
        show(rows)


def step_seconds(options: argparse.Namespace, schemes: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Seconds of a training step of each scheme, timed in turn."""
    import torch

    from audiolm.lm.losses import next_token_loss
    from audiolm.lm.transformer import Transformer, TransformerConfig
    from audiolm.stage_cli import machine_precision
    from audiolm.tokens.layout import StageLayout
    from audiolm.tokens.store import TokenStore
    from audiolm.tokens.windows import Windows
    from datamodules.token_windows import TrainingWindows

    store = TokenStore(options.tokens)
    layout = StageLayout(store.spec, options.stage)
    windows = Windows(store, split="train", seconds=WINDOW_SECONDS[options.stage])
    batches = TrainingWindows(windows, layout, batch_size=options.batch_size, seed=1)
    mixed = machine_precision("cpu") == "bf16-mixed"
    models = {name: Transformer(TransformerConfig(**SIZE, **s), layout.vocabulary) for name, s in schemes.items()}
    optimizers = {name: torch.optim.AdamW(model.parameters(), fused=True) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in schemes}
    for number in range(options.timed_steps + 1):
        batch = batches[0]  # always the same: only the schemes differ
        for name, model in models.items():
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss = next_token_loss(model, layout, batch)
            optimizers[name].zero_grad()
            (loss.nats.sum() / loss.counted.sum()).backward()
            optimizers[name].step()
            if number:
                times[name].append(time.perf_counter() - started)
    return {name: min(values) for name, values in times.items()}


def train(options: argparse.Namespace, scheme: dict[str, Any], steps: int) -> dict[str, Any]:
    """Train with the command that users run; the best validation loss."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "tokens").symlink_to(options.tokens.resolve())
        configuration = {
            "model": {
                "init_args": {
                    "transformer": {**SIZE, **scheme},
                    "learning_rate": options.learning_rate,
                    "warmup_steps": 50,
                }
            },
            "data": {"init_args": {"batch_size": options.batch_size, "window_seconds": WINDOW_SECONDS[options.stage]}},
            "trainer": {"max_steps": steps, "val_check_interval": max(1, steps // 5), "limit_val_batches": 1000},
        }
        (root / "scheme.yaml").write_text(json.dumps(configuration))  # JSON is YAML
        command = [sys.executable, "-m", "audiolm", "fit", "-c", str(STAGES / f"{options.stage}.yaml")]
        command += ["-c", str(root / "scheme.yaml"), "--root", str(root)]
        subprocess.run(command, stdout=sys.stderr, check=True)
        done = json.loads((root / options.stage / "done.json").read_text())
        return {"validation_nats": round(done["validation_loss"], 4), "parameters": done["parameters"]}


def show(rows: dict[str, dict[str, Any]]) -> None:
    """A Markdown table."""
    print("| positions | step (s) | steps | validation nats per token |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['step_s']:.3f} | {row['steps']} | {row['validation_nats']:.4f} |")


if __name__ == "__main__":
    main()
