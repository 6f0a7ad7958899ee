"""The exact binomial test of a coin's fairness, and the exact interval of a share: no dependency, no approximation."""

import math

BISECTIONS = 60  # of [0, 1]: the bound is exact to the last digits of a double


def p_at_least(successes: int, trials: int) -> float:
    """The one-sided test: how often a fair coin gives so many successes or more. Exact in whole numbers, rounded once.

    Raises:
        ValueError: unless 0 <= successes <= trials and there is a trial.
    """
    _check(successes, trials)
    return sum(math.comb(trials, k) for k in range(successes, trials + 1)) / 2**trials


def p_two_sided(successes: int, trials: int) -> float:
    """The two-sided test: how often a fair coin is as far from half as this, to either side.

    Raises:
        ValueError: as `p_at_least`.
    """
    _check(successes, trials)
    return min(1.0, 2 * p_at_least(max(successes, trials - successes), trials))  # a fair coin's tails are alike


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of success rates that are not refuted from either side at (1 - confidence) / 2.

    It holds the true rate at least as often as `confidence` says.

    Raises:
        ValueError: as `p_at_least`, or if `confidence` is not between 0 and 1.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits" (1934).
    """
    _check(successes, trials)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    tail = (1 - confidence) / 2
    return _lowest_rate(successes, trials, tail), 1 - _lowest_rate(trials - successes, trials, tail)


def _lowest_rate(successes: int, trials: int, tail: float) -> float:
    """The rate at which `successes` or more come with probability `tail`."""
    if successes == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _p_at_least(successes, trials, middle) < tail else (low, middle)
    return (low + high) / 2


def _p_at_least(successes: int, trials: int, rate: float) -> float:
    """As `p_at_least`, of a coin of any rate inside (0, 1)."""
    ways = math.lgamma(trials + 1)
    logs = (
        ways - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * math.log(rate) + (trials - k) * math.log1p(-rate)
        for k in range(successes, trials + 1)
    )
    return math.fsum(math.exp(log) for log in logs)


def _check(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials cannot be: at least one trial, 0 to all successes")
