"""The fine stage of a generator: the remaining levels, chunk by chunk, all chunks of all rows side by side."""

from collections import defaultdict

import torch
from torch import Tensor

from audiolm.generator.rows import Draws, LanguageModel, Row
from audiolm.lm.decoding import decode
from audiolm.tokens.spec import TokenSpec

LONGEST_CHUNK_SECONDS = 3.0  # handed over at a time where there is no fine stage
CACHE_BYTES = 2 * 2**30  # of keys and values; they bound how many chunks are decoded at once


class FineWriter:
    """Adds the fine levels to coarse codes, in independent chunks counted from the end of the prompt.

    Args:
        stage: the fine stage; None for a codec whose levels are all coarse.
        spec: of the tokens.
        chunk_seconds: length of a chunk; by default the window the model was trained on, 3 s in the paper.

    Raises:
        ValueError: for a chunk longer than that window, or shorter than a frame.
    """

    def __init__(
        self, stage: LanguageModel | None, spec: TokenSpec, *, draws: Draws, chunk_seconds: float | None = None
    ) -> None:
        self.stage, self.draws = stage, draws
        longest = LONGEST_CHUNK_SECONDS if stage is None else stage.window_seconds
        seconds = longest if chunk_seconds is None else chunk_seconds
        if not 1 / spec.frame_rate_hz <= seconds <= longest:
            raise ValueError(
                f"a chunk must last from one frame ({1 / spec.frame_rate_hz} s) to the fine stage's window ({longest} s), "
                f"got {seconds} s"
            )
        self.chunk_frames = max(1, round(seconds * spec.frame_rate_hz))

    def write(self, rows: list[Row]) -> list[Tensor]:
        """All codes (levels, frames) of every row whose coarse codes are complete."""
        if self.stage is None:
            return [row.coarse for row in rows]
        parts = [[row.codes[row.coarse.shape[0] :]] for row in rows]
        jobs: dict[int, list[tuple[int, int, Tensor]]] = defaultdict(list)
        for number, row in enumerate(rows):
            generated = row.coarse[:, row.prompt_frames :]
            for place, chunk in enumerate(generated.split(self.chunk_frames, dim=1) if generated.shape[1] else ()):
                parts[number].append(chunk[:0])
                jobs[chunk.shape[1]].append((number, place, chunk))
        for chunks in jobs.values():
            at_once = self._chunks_at_once(chunks[0][2].shape[1])
            for at in range(0, len(chunks), at_once):
                batch = chunks[at : at + at_once]
                fine = self._chunks([(rows[number], place, chunk) for number, place, chunk in batch])
                for (number, place, _), codes in zip(batch, fine, strict=True):
                    parts[number][place + 1] = codes
        return [torch.cat([row.coarse, torch.cat(part, dim=1)]) for row, part in zip(rows, parts, strict=True)]

    def chunk(self, row: Row, place: int) -> Tensor:
        """(levels, frames) of one generated chunk of a row, counted from 0; its coarse codes are there already."""
        first = row.prompt_frames + place * self.chunk_frames
        coarse = row.coarse[:, first : first + self.chunk_frames]
        return coarse if self.stage is None else torch.cat([coarse, *self._chunks([(row, place, coarse)])])

    def _chunks_at_once(self, frames: int) -> int:
        """How many chunks of so many frames have room in the cache, and at least one."""
        assert self.stage is not None
        layout, model = self.stage.layout, self.stage.model
        tokens = frames * layout.spec.levels + 1
        of_one = 2 * model.config.layers * model.config.dim * tokens * model.head.weight.element_size()
        return max(1, CACHE_BYTES // of_one)

    def _chunks(self, batch: list[tuple[Row, int, Tensor]]) -> list[Tensor]:
        """(fine levels, frames) of chunks of one length."""
        assert self.stage is not None
        layout = self.stage.layout
        steps = batch[0][2].shape[1] * layout.phases
        targets = decode(
            self.stage.model,
            layout,
            [layout.prefix(None, chunk) for _, _, chunk in batch],
            steps=steps,
            sampling=self.draws.sampling.fine,
            uniforms=torch.stack([self.draws.stream(row, "fine", place).draw(steps) for row, place, _ in batch]),
        )
        return [layout.parse(row)[0] for row in targets]
