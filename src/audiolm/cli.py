"""The two commands. `lightning fit|validate|predict -c stages/…` trains a stage; `audiolm VERB` does everything else."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiolm.early_signal import note_sigusr1

# Threads that wait for each other should soon sleep instead of spinning: with the default, other busy processes on the same
# cores made a training step up to fifteen times slower; on a quiet machine a short spin costs nothing that can be measured.
# GNU OpenMP reads it when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# oneDNN keeps code for every shape it has met, and batches differ in length: 256 shapes instead of 1024 took 0.4 GB less in
# a small model, and no more time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

TRAINER_VERBS = ("fit", "validate", "test", "predict")
BASE_CONFIG = "lightning.yaml"


def main() -> None:
    """The `lightning` command: a LightningCLI over the stages, with `lightning.yaml` beneath every configuration."""
    note_sigusr1()  # before the imports, which take seconds
    from audiolm.stage_cli import run_stage

    with errors_in_words():
        run_stage(base_config(sys.argv[1:]))


def verbs() -> None:
    """The `audiolm` command (and `python -m audiolm`): what is not a trainer's verb; trainer verbs are handed on."""
    if len(sys.argv) > 1 and sys.argv[1] in TRAINER_VERBS:
        main()
        return
    from audiolm.verbs import run_verb

    with errors_in_words():
        run_verb(sys.argv[1:])


def base_config(arguments: list[str]) -> Path:
    """Find `lightning.yaml`: beside or above the first `-c` file, in or above the working directory, or in the sources.

    Raises:
        FileNotFoundError: if there is none. It is never left out silently: without it a stage would train otherwise.
    """
    starts = [Path(value).resolve().parent for value in _config_arguments(arguments)]
    starts += [Path.cwd(), Path(__file__).resolve().parents[2]]
    for start in starts:
        for folder in (start, *start.parents):
            if (folder / BASE_CONFIG).is_file():
                return folder / BASE_CONFIG
    raise FileNotFoundError(
        f"{BASE_CONFIG}, the defaults beneath every stage, was found neither above the -c file nor above {Path.cwd()}. "
        "Run from a clone of the repository, or copy the file beside your stage's YAML."
    )


def _config_arguments(arguments: list[str]) -> Iterator[str]:
    for position, argument in enumerate(arguments):
        if argument in ("-c", "--config") and position + 1 < len(arguments):
            yield arguments[position + 1]
        elif argument.startswith("--config="):
            yield argument.removeprefix("--config=")


@contextlib.contextmanager
def errors_in_words() -> Iterator[None]:
    """Show errors about input (files, values, a full disk) as one message and exit with 1; AUDIOLM_DEBUG=1 shows where."""
    from audiolm.errors import in_words

    try:
        yield
    except Exception as raised:
        message = in_words(_first_cause(raised))
        if message is None or os.environ.get("AUDIOLM_DEBUG") == "1":
            raise
        print(f"error: {message}", file=sys.stderr)
        print("(AUDIOLM_DEBUG=1 shows where this happened)", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to continue.", file=sys.stderr)
        sys.exit(130)


def _first_cause(error: BaseException) -> BaseException:
    """jsonargparse wraps what a class raises while it is built: what was raised first says it best."""
    while "Does not validate against" in str(error) and (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def load(class_path: str) -> Any:
    """The class that a YAML's `class_path` names."""
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)
