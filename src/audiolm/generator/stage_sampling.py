"""The sampling of the three stages from plain values, as command lines and YAML files give them."""

from collections.abc import Mapping
from typing import Any

from audiolm.generator.rows import StageSampling
from audiolm.lm.sampling import Sampling

STAGES = ("semantic", "coarse", "fine")


def stage_sampling(settings: Mapping[str, Mapping[str, Any]]) -> StageSampling:
    """Build each stage's `Sampling`.

    Args:
        settings: by stage ("semantic", "coarse", "fine"), the arguments of its `Sampling`.

    Raises:
        ValueError: for an unknown name or a number out of range, naming the stage, which a `Sampling` does not know.
    """
    stages = {}
    for stage, values in settings.items():
        if stage not in STAGES or not isinstance(values, Mapping):
            raise ValueError(
                f"sampling is told for {', '.join(STAGES)}, each with its numbers; got {str(stage)[:80]!r}"
            )
        try:
            stages[stage] = Sampling(**values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{stage} stage: {error}") from error
    return StageSampling(**stages)
