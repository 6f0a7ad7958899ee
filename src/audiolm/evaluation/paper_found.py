"""What the steps of an experiment have left behind."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiolm.evaluation.paper_experiments import Experiment
from audiolm.evaluation.paper_runs import Run, read_run
from audiolm.evaluation.paper_steps import Step


@dataclass
class Found:
    """What is known of one experiment."""

    experiment: Experiment
    steps: Sequence[Step]
    numbers: dict[str, dict[str, float | None]] = field(default_factory=dict)
    contents: dict[str, Any] = field(default_factory=dict)  # by name of the step
    runs: dict[str, Run] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def find(experiment: Experiment, steps: Sequence[Step], records: Path) -> Found:
    """Read what its steps have left behind; a damaged file becomes an error of this experiment."""
    found = Found(experiment, steps)
    for step in steps:
        try:
            if (last := read_run(step, records)) is not None:
                found.runs[step.name] = last
                if last.error:
                    found.errors.append(f"{step.command}: {last.error}")
            if (content := step.content()) is not None:
                for label, row in step.numbers(content).items():
                    found.numbers.setdefault(label, {}).update(row)
                found.contents[step.name] = content
        except (OSError, ValueError) as error:
            found.errors.append(str(error))
    return found
