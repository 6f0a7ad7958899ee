"""Decoding: prefill and step for any (transformer, layout), rows side by side, in one go or piece by piece."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from audiolm.lm.cache import StaticCache
from audiolm.lm.recording import RecordedSteps, can_record
from audiolm.lm.sampling import Sampling, require_drawn, sample_next
from audiolm.lm.transformer import Transformer
from audiolm.tokens.layout import StageLayout

RECORDED_FROM_STEPS = 32  # of a phase: about as many as recording one takes
LOOK_EVERY_STEPS = 16  # whether all rows have ended: on a GPU, looking means waiting


def decode(
    model: Transformer,
    layout: StageLayout,
    prefixes: list[Tensor],
    *,
    steps: int,
    sampling: Sampling,
    uniforms: Tensor,
    stop_at_end: bool = False,
) -> list[Tensor]:
    """Continue each prefix by `steps` targets, never with an id that the layout forbids; see `Decoder`.

    Args:
        uniforms: (rows, steps) float64 in [0, 1): one number per drawn token.

    Returns:
        The new targets of each row (at most `steps`,) int64 on the CPU, the end token included if it was drawn.

    Raises:
        ValueError: as `Decoder`, and for uniforms of another shape.
    """
    if uniforms.shape != (len(prefixes), steps) and prefixes and steps >= 1:
        raise ValueError(f"uniforms must be (rows, steps) = {(len(prefixes), steps)}, got {tuple(uniforms.shape)}")
    return Decoder(model, layout, prefixes, steps=steps, sampling=sampling, stop_at_end=stop_at_end).draw(uniforms)


class Decoder:
    """Prompts, read once, and as many draws after them as are asked for, in pieces of any size.

    A row depends on nothing but its own prefix and uniforms: not on its batch mates, up to the rounding of the matrix
    products, and not on the pieces. The model works in eval mode (no dropout) and has its own mode back after every call.
    float32 is the fastest on CPU.

    Args:
        prefixes: from `layout.prefix`, of any lengths, on any device. The phase of a row's next token follows from its
            prefix, so rows may stand at different phases.
        steps: how many targets will be drawn at most, in all pieces together: the cache is made for them.
        stop_at_end: make the end token legal; a row that draws it ends there. Else it is illegal and rows are full.

    Raises:
        ValueError: for no prefixes, no steps, a model made for another vocabulary, or a prefix without its start token.
    """

    def __init__(
        self,
        model: Transformer,
        layout: StageLayout,
        prefixes: list[Tensor],
        *,
        steps: int,
        sampling: Sampling,
        stop_at_end: bool = False,
    ) -> None:
        if not prefixes or steps < 1:
            raise ValueError(f"there is nothing to decode: {len(prefixes)} prompts, {steps} steps")
        layout.require_vocabulary(model.vocabulary)
        self.model, self.layout, self.sampling = model, layout, sampling
        self.steps, self.drawn = steps, 0
        self._may_end = stop_at_end and layout.end_id is not None
        self._known = [layout.known_targets(prefix) % layout.phases for prefix in prefixes]
        self._device = model.head.weight.device
        lengths = torch.tensor([len(prefix) for prefix in prefixes])
        tokens = torch.nn.utils.rnn.pad_sequence([p.flip(0).cpu() for p in prefixes], batch_first=True).flip(1)
        self._previous = tokens[:, -1].to(self._device)
        self._ended = torch.zeros(len(prefixes), dtype=torch.bool, device=self._device)
        self._failed = torch.zeros_like(self._ended)
        # what is legal, where it does not depend on the previous token
        self._allowed: dict[int, Tensor | None] = {}
        # a GPU waits for its launches: record a step and replay it, where all rows are in step and it pays
        recorded = (
            can_record(self._device) and len(set(self._known)) == 1 and steps >= RECORDED_FROM_STEPS * layout.phases
        )
        with _decoding(model):
            self._cache = model.new_cache(len(prefixes), tokens.size(1) + steps - 1, static=recorded)
            self._hidden = model.prefill(tokens.to(self._device), lengths.to(self._device), self._cache)
        self._heads = [self._head(phase) for phase in range(layout.phases)]
        self._uniform = torch.zeros(len(prefixes), dtype=torch.float64, device=self._device)
        self._recorded: RecordedSteps | None = None
        if recorded:
            state = (self._previous, self._ended, self._failed)
            self._recorded = RecordedSteps(cast(StaticCache, self._cache), self._step, state=state)

    @property
    def ended(self) -> bool:
        """Whether every row has drawn its end token."""
        return bool(self._ended.all())

    def draw(self, uniforms: Tensor) -> list[Tensor]:
        """The next targets of every row.

        Args:
            uniforms: (rows, count) float64 in [0, 1): one number per drawn token.

        Returns:
            Per row (at most `count`,) int64 on the CPU; shorter where the row drew its end token, which is included, and
            empty where it had ended before.

        Raises:
            ValueError: for uniforms of another shape, more draws than the decoder was made for, or weights that give no
                finite logits.
        """
        rows, count = uniforms.shape
        if rows != len(self._known) or self.drawn + count > self.steps:
            raise ValueError(
                f"uniforms must be (rows, count) with {len(self._known)} rows and at most {self.steps - self.drawn} numbers, "
                f"got {tuple(uniforms.shape)}"
            )
        if self.ended:
            return [torch.empty(0, dtype=torch.int64) for _ in range(rows)]
        uniforms, before = uniforms.to(self._device), self._ended.clone()
        drawn = torch.empty(rows, count, dtype=torch.int64, device=self._device)
        taken, look_every = count, LOOK_EVERY_STEPS if self._recorded is not None else 1
        with _decoding(self.model):
            for step in range(count):
                self._uniform.copy_(uniforms[:, step])
                self._draw_next()
                drawn[:, step] = self._previous
                if self._may_end and step % look_every == look_every - 1 and self.ended:
                    taken = step + 1
                    break
            require_drawn(self._failed)
        targets = [row.clone() for row in drawn[:, :taken].cpu()]  # copies made here may enter training again
        if not self._may_end:
            return targets
        return [self._cut(row, over=over) for row, over in zip(targets, before.tolist(), strict=True)]

    def _draw_next(self) -> None:
        """Draw once for every row, with the numbers in `_uniform`."""
        phase = (self._known[0] + self.drawn) % self.layout.phases
        if self._recorded is not None and self.drawn:
            self._recorded(phase)
        elif self.drawn:
            self._step(phase)
        else:
            self._sample(phase)
        self.drawn += 1

    def _step(self, phase: int) -> None:
        """Read the previous token of every row, and draw the next."""
        self._hidden = self.model.step(self._previous, self._cache)
        self._sample(phase)

    def _sample(self, phase: int) -> None:
        """Draw one id per row from `_hidden` into `_previous`."""
        if len(set(self._known)) == 1:
            drawn = self._sample_rows(phase, slice(None))
        else:
            phases = torch.tensor([(phase + known - self._known[0]) % self.layout.phases for known in self._known])
            drawn = torch.empty_like(self._previous)
            for own in phases.unique().tolist():
                rows = (phases == own).nonzero().squeeze(1).to(self._device)
                drawn[rows] = self._sample_rows(own, rows)
        self._previous.copy_(drawn)
        if self._may_end:
            self._ended |= drawn == self.layout.end_id

    def _sample_rows(self, phase: int, rows: Tensor | slice) -> Tensor:
        start, head = self._heads[phase]
        drawn = sample_next(
            self._hidden[rows] @ head,
            allowed=self._legal(phase, self._previous[rows]),
            uniform=self._uniform[rows],
            sampling=self.sampling,
        )
        self._failed[rows] |= drawn < 0
        return drawn.clamp_(min=0) + start

    def _head(self, phase: int) -> tuple[int, Tensor]:
        """A phase's first legal id, and its part of the head (dim, ids), laid out as a product with one row reads fastest."""
        start, stop = self.layout.legal_range(phase)
        return start, self.model.head.weight.detach()[start:stop].t().contiguous()

    def _legal(self, phase: int, previous: Tensor) -> Tensor | None:
        """Which ids of the legal range are allowed: (rows, ids), (1, ids), or None where all are."""
        if self.layout.repeats_are_illegal:
            return self.layout.allowed(phase, previous, may_end=self._may_end)
        if phase not in self._allowed:
            allowed = self.layout.allowed(phase, previous[:1], may_end=self._may_end)
            self._allowed[phase] = None if bool(allowed.all()) else allowed
        return self._allowed[phase]

    def _cut(self, row: Tensor, *, over: bool) -> Tensor:
        """What comes up to the end token; nothing if the row was over before."""
        ids = row.tolist()
        return row[:0] if over else row[: ids.index(self.layout.end_id) + 1] if self.layout.end_id in ids else row


@contextlib.contextmanager
def _decoding(model: Transformer) -> Iterator[None]:
    """Inference mode, no autocast, no dropout; the model's own mode comes back, whatever happens."""
    backend: Any = torch.backends.mkldnn
    was_training, onednn, weight = model.training, backend.enabled, model.head.weight
    model.eval()
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        backend.enabled = False  # its GELU of one row takes seven times as long, and waits for other threads
    try:
        with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
            yield
    finally:
        backend.enabled = onednn
        model.train(was_training)
