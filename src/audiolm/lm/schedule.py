"""Learning-rate schedule: linear warm-up, then a cosine down to a floor."""

import math
from collections.abc import Callable


def warmup_cosine(*, warmup_steps: int, total_steps: int, floor: float = 0.1) -> Callable[[int], float]:
    """Factor on the peak learning rate by step, for `torch.optim.lr_scheduler.LambdaLR`.

    It rises from 1 / warmup_steps at step 0 to 1, then falls to `floor` at `total_steps` and stays there. In a short
    run the warm-up takes at most the first tenth.

    Raises:
        ValueError: for negative steps, no steps at all, or a floor outside [0, 1].
    """
    if warmup_steps < 0 or total_steps < 1 or not 0 <= floor <= 1:
        raise ValueError(
            "warmup_steps must be at least 0, total_steps at least 1 and floor 0 to 1, got "
            f"{warmup_steps}, {total_steps} and {floor}"
        )
    warmup_steps = min(warmup_steps, total_steps // 10)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor
