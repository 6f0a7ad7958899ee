"""A classifier of one second on longer audio: overlapping windows, and what they say together."""

from typing import Protocol

import torch
from torch import Tensor

HOPS_PER_SECOND = 4  # a window every 250 ms


class CropClassifier(Protocol):
    """What scores crops of one second."""

    sample_rate_hz: int

    def __call__(self, audio: Tensor) -> Tensor:
        """(batch, samples of one second) to (batch, classes) logits."""
        ...


def window_starts(samples: int, *, sample_rate_hz: int) -> list[int]:
    """Where the windows of one second begin: every 250 ms, and one that ends with the audio if they leave a rest.

    Raises:
        ValueError: for audio shorter than one second.
    """
    if samples < sample_rate_hz:
        raise ValueError(
            f"The audio lasts {samples / sample_rate_hz:.3f} s ({samples} samples), and a window 1 s: there is too little to "
            "classify. Give at least one second."
        )
    last = samples - sample_rate_hz
    starts = [
        number * sample_rate_hz // HOPS_PER_SECOND for number in range(HOPS_PER_SECOND * last // sample_rate_hz + 1)
    ]
    return starts if starts[-1] == last else [*starts, last]


@torch.no_grad()
def window_log_probabilities(model: CropClassifier, audio: Tensor, *, batch_size: int = 32) -> Tensor:
    """Classify every window of a recording.

    Args:
        model: in evaluation mode (else batch normalisation mixes the windows), on the device of `audio`.
        audio: (samples,) float32 mono in [-1, 1], at the model's rate, at least one second.
        batch_size: windows at once.

    Returns:
        (windows, classes) float32 natural logarithms of probabilities.

    Raises:
        ValueError: for audio of another shape, or shorter than one second.

    Source: AudioLM, Table III: 1-second windows every 250 ms. The last one, aligned to the end, is ours: nothing is unheard.
    """
    if audio.ndim != 1:
        raise ValueError(f"audio must be (samples,), one recording, got {tuple(audio.shape)}")
    starts = window_starts(len(audio), sample_rate_hz=model.sample_rate_hz)
    windows = [audio[start : start + model.sample_rate_hz] for start in starts]
    batches = [torch.stack(windows[at : at + batch_size]) for at in range(0, len(windows), batch_size)]
    return torch.cat([model(batch).log_softmax(-1) for batch in batches])


def aggregate(log_probabilities: Tensor) -> Tensor:
    """What all windows say together: the mean of their log-probabilities, renormalised.

    The geometric mean of the windows' probabilities: no window outvotes the others by being sure alone, and as the windows
    overlap, and hear one voice, they do not count as independent witnesses; their product would.

    Args:
        log_probabilities: (windows, classes), at least one window.

    Returns:
        (classes,) probabilities that add up to 1.

    Raises:
        ValueError: for another shape.

    The paper aggregates the windows' predictions and does not state how.
    """
    if log_probabilities.ndim != 2 or not len(log_probabilities):
        raise ValueError(f"log_probabilities must be (windows, classes), got {tuple(log_probabilities.shape)}")
    return log_probabilities.mean(0).softmax(-1)
