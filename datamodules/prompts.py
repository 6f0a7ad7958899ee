"""Prompts in batches of similar length, for generating."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiolm.generator.prompts import Prompt
from datamodules.sampling import in_length_buckets


@dataclass(frozen=True)
class PromptBatch:
    """Prompts to speak on from, side by side; `audio` holds (samples,) of each, nothing of one that speaks freely."""

    prompts: list[Prompt]
    audio: list[Tensor]

    def to(self, device: torch.device, non_blocking: bool = False) -> "PromptBatch":
        """The same batch on another device."""
        return PromptBatch(self.prompts, [audio.to(device, non_blocking=non_blocking) for audio in self.audio])


class PromptBatches(Dataset[PromptBatch]):
    """Every batch that holds an unfinished prompt, the longest first: what does not fit into memory says so at once.

    Batches are cut from all prompts and not from those left, so that an utterance keeps its batch mates whenever a run is
    stopped and on however many processes it goes on: not even rounding differs.

    Args:
        unfinished: ids that are still to be spoken.
        processes: empty batches are added at the end until their number divides by this, so that all are asked alike often.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        unfinished: AbstractSet[str],
        batch_size: int,
        sample_rate_hz: int,
        processes: int,
    ) -> None:
        buckets = in_length_buckets(prompts, [round(1000 * prompt.seconds) for prompt in prompts], batch_size)
        todo = [bucket for bucket in reversed(buckets) if any(prompt.id in unfinished for prompt in bucket)]
        self.batches = [*todo, *[[] for _ in range(-len(todo) % processes)]]
        self.sample_rate_hz = sample_rate_hz

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> PromptBatch:
        prompts = self.batches[number]
        return PromptBatch(prompts, [prompt.read(sample_rate_hz=self.sample_rate_hz) for prompt in prompts])
