"""How many units are drawn for so many seconds, and how far a plan of units has been spoken.

Units lose their repeats, so they carry no time. Two questions follow, and this is the one home of the answers.

How many units for N seconds? As many as N seconds of the training corpus hold on average (`units_per_second`, counted by
the semantic stage), rounded up.

Which units does a coarse window see once it slides? The audio of the last window is made (from the coarse levels) and
tokenized again. The units heard in it are aligned with the planned ones by least edit distance; the planned prefix that fits
best counts as spoken. The next window is conditioned on the units heard in the audio it keeps, followed by those not spoken.
"""

import math

import numpy as np
from torch import Tensor


def units_for(seconds: float, *, units_per_second: float) -> int:
    """How many units are drawn for so many seconds: at least one, rounded up."""
    return max(1, math.ceil(seconds * units_per_second - 1e-9))


def spoken_units(planned: Tensor, heard: Tensor) -> int:
    """How many of the planned units were spoken: the prefix of `planned` nearest to `heard` in edit distance.

    Args:
        planned: (n,) units that were to be spoken.
        heard: (m,) units that the audio holds, without repeats.

    Returns:
        0 to n. Of equally near prefixes the one whose length is nearest to the number of units heard.
    """
    distances = np.arange(len(planned) + 1)  # to the empty beginning of `heard`: insert everything
    for count, unit in enumerate(heard.tolist(), start=1):
        replaced = distances[:-1] + (planned.numpy() != unit)
        best = np.concatenate([[count], np.minimum(replaced, distances[1:] + 1)])
        offsets = np.arange(len(best))
        distances = np.minimum.accumulate(best - offsets) + offsets  # insertions along the row
    candidates = np.flatnonzero(distances == distances.min())
    return int(candidates[np.abs(candidates - len(heard)).argmin()])
