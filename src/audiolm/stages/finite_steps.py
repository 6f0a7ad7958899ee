"""Steps whose loss or gradient is not finite: skipped, counted, and past a limit the end of the run."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from audiolm.errors import TrainingFailedError
from audiolm.stages.base import StageModule


class FiniteSteps(StageModule):
    """A stage of one optimizer that skips steps without a finite gradient.

    Call `skip_unless_finite` with the norm of the gradient once it is reduced over processes: it is the same number on all of
    them, so they decide alike.

    Attributes:
        skip_limit: so many steps may be skipped in a run; the next one ends it.
        skipped_steps: () int64, in the checkpoint.
    """

    skip_limit: int
    skipped_steps: Tensor

    def __init__(self, *, skip_limit: int, root: str) -> None:
        super().__init__(root=root)
        if skip_limit < 0:
            raise ValueError(f"skip_limit must be at least 0, got {skip_limit}")
        self.skip_limit = skip_limit
        self.register_buffer("skipped_steps", torch.tensor(0))

    def on_load_checkpoint(self, checkpoint_: dict[str, object]) -> None:
        """See `StageModule.on_load_checkpoint`. Checkpoints of before steps were counted had skipped none."""
        super().on_load_checkpoint(checkpoint_)
        state = checkpoint_.get("state_dict")
        if isinstance(state, dict):
            state.setdefault("skipped_steps", torch.tensor(0))

    def skip_unless_finite(self, norm: Tensor, optimizer: Optimizer, *, remedy: str) -> None:
        """Take the gradient away from a step whose `norm` () is not finite: without one nothing moves.

        Raises:
            TrainingFailedError: past the limit, with the remedy.
        """
        self.log("train/skipped_steps", self.skipped_steps.float())
        if norm.isfinite():
            return
        self.skipped_steps += 1
        optimizer.zero_grad()
        if self.skipped_steps > self.skip_limit:
            broken = next((name for name, weight in self.named_parameters() if not weight.isfinite().all()), None)
            raise TrainingFailedError(
                f"{int(self.skipped_steps)} training steps of the {self.name} stage had a loss or gradient that was not "
                f"finite (skip_limit is {self.skip_limit}). "
                + (f"Weights are not finite themselves, such as {broken}. " if broken else "")
                + remedy
            )
