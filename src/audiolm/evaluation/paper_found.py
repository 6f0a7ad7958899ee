"""What the steps of an experiment have left behind."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiolm.evaluation.paper_experiments import Experiment
from audiolm.evaluation.paper_runs import Run, is_stale, read_run
from audiolm.evaluation.paper_steps import Step


@dataclass
class Found:
    """What is known of one experiment.

    Attributes:
        numbers: all, by label and column.
        older: those of inputs that have changed since.
        contents, runs: by name of the step.
        stale: names of the steps whose results are of inputs that have changed since.
    """

    experiment: Experiment
    steps: Sequence[Step]
    numbers: dict[str, dict[str, float | None]] = field(default_factory=dict)
    older: dict[str, dict[str, float | None]] = field(default_factory=dict)
    contents: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    stale: set[str] = field(default_factory=set)

    @property
    def current(self) -> dict[str, dict[str, float | None]]:
        """The numbers that are of what is there now."""
        return {
            label: {name: value for name, value in row.items() if name not in self.older.get(label, {})}
            for label, row in self.numbers.items()
        }


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
                if stale := is_stale(step, last):
                    found.stale.add(step.name)
                for label, row in step.numbers(content).items():
                    found.numbers.setdefault(label, {}).update(row)
                    if stale:
                        found.older.setdefault(label, {}).update(row)
                found.contents[step.name] = content
        except (OSError, ValueError) as error:
            found.errors.append(str(error))
    return found
