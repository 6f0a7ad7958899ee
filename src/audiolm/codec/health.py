"""Is a codec's training going anywhere? Says what is wrong, and what helps."""

import torch
from torch import Tensor, nn

from audiolm.codec.quantizer import perplexity

EXPLODED = 2.0  # times the best reconstruction loss so far
NOTHING_LEARNED = 0.98  # of the loss that silence would have
SILENT = 1.0  # the loss of silence against audio that is itself about silent; speech gives hundreds
FEW_ENTRIES = 0.05  # of a codebook in effective use
JUDGED_FRAMES = 10  # per codebook entry: perplexity of fewer says more about the sample than about the codebook


class TrainingHealth(nn.Module):
    """Watches a smoothed reconstruction loss, and the use of every codebook. Its buffers resume with the run.

    Args:
        levels: codebooks.
        grace: observations before a loss is judged.
        patience: observations in a row that must be bad before it is said; for codebooks, `usage_patience` intervals.
        smoothing: decay of the running mean of the loss.
    """

    loss: Tensor
    silence: Tensor
    best: Tensor
    seen: Tensor
    bad: Tensor
    poor: Tensor

    def __init__(
        self, *, levels: int, grace: int = 50, patience: int = 20, usage_patience: int = 3, smoothing: float = 0.9
    ) -> None:
        super().__init__()
        self.grace, self.patience, self.usage_patience, self.smoothing = grace, patience, usage_patience, smoothing
        for name, value in (("loss", 0.0), ("silence", 0.0), ("best", 1e30)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        for name in ("seen", "bad"):
            self.register_buffer(name, torch.tensor(0))
        self.register_buffer("poor", torch.zeros(levels, dtype=torch.int64))

    def observe_loss(self, loss: float, silence: float) -> str | None:
        """Take the reconstruction loss of a step and what silence would have scored on the same audio.

        Returns:
            What is wrong, once it has been for `patience` observations: the loss has grown to twice its best, or is no
            better than silence's. None otherwise.
        """
        self.seen += 1
        rate = max(1 - self.smoothing, 1 / float(self.seen))  # a plain mean at first
        self.loss += rate * (loss - self.loss)
        self.silence += rate * (silence - self.silence)
        if self.seen <= 1 / (1 - self.smoothing):
            return None
        self.best = torch.minimum(self.best, self.loss)
        exploded = bool(self.loss > EXPLODED * self.best)
        useless = bool(self.seen > self.grace and self.loss > NOTHING_LEARNED * self.silence)
        self.bad = (self.bad + 1) * (exploded or useless)
        if self.bad < self.patience:
            return None
        if self.hears_silence:
            return (
                f"The audio is nearly silent: silence scores {float(self.silence):.4g} against it, and the codec "
                f"{float(self.loss):.4g}. Look at the recordings and their level."
            )
        if exploded:
            return (
                f"The reconstruction loss has exploded: {float(self.loss):.4g}, after it had been down to "
                f"{float(self.best):.4g} (silence would score {float(self.silence):.4g})."
            )
        return (
            f"The codec has learned nothing: its reconstruction loss is {float(self.loss):.4g}, and silence would score "
            f"{float(self.silence):.4g}."
        )

    @property
    def hears_silence(self) -> bool:
        """Whether there is next to nothing in the audio to learn from."""
        return bool(self.silence < SILENT)

    def observe_usage(self, usage: Tensor) -> tuple[list[str], Tensor]:
        """Take how often every entry was used, (levels, codebook_size), since each level's count was last begun anew.

        Returns:
            One sentence per level whose perplexity has stayed under 5 % of its codebook for `usage_patience` intervals, and
            (levels,) bool: the levels that were judged, whose count is to begin anew. A level with fewer than ten frames
            per entry is not judged yet.
        """
        size = usage.size(1)
        judged = usage.sum(1) >= JUDGED_FRAMES * size
        in_use = perplexity(usage)
        poor = in_use < FEW_ENTRIES * size
        self.poor = torch.where(judged, (self.poor + 1) * poor, self.poor)
        said = [
            f"Level {level + 1} has collapsed: of its {size} entries only {float(in_use[level]):.1f} are in effective use."
            for level in torch.nonzero(judged & (self.poor >= self.usage_patience))[:, 0].tolist()
        ]
        return said, judged
