"""Decoding: prefill and step for any (transformer, layout), rows side by side, in one go or piece by piece."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from audiolm.lm.sampling import Sampling, require_drawn, sample_next
from audiolm.lm.transformer import Transformer
from audiolm.tokens.layout import StageLayout


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
        if model.vocabulary != layout.vocabulary:
            raise ValueError(
                f"the model has {model.vocabulary} ids and the {layout.stage} layout {layout.vocabulary}: they belong to "
                "different token specs or stages"
            )
        self.model, self.layout, self.sampling = model, layout, sampling
        self.steps, self.drawn = steps, 0
        self._may_end = stop_at_end and layout.end_id is not None
        self._known = [layout.known_targets(prefix) % layout.phases for prefix in prefixes]
        self._device = model.head.weight.device
        lengths = torch.tensor([len(prefix) for prefix in prefixes])
        tokens = torch.nn.utils.rnn.pad_sequence([p.flip(0).cpu() for p in prefixes], batch_first=True).flip(1)
        self._previous = tokens[:, -1].to(self._device)
        self._ended = torch.zeros(len(prefixes), dtype=torch.bool, device=self._device)
        # what is legal, where it does not depend on the previous token
        self._allowed: dict[int, Tensor | None] = {}
        with _decoding(model):
            self._cache = model.new_cache(len(prefixes), tokens.size(1) + steps - 1)
            self._hidden = model.prefill(tokens.to(self._device), lengths.to(self._device), self._cache)

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
        taken = count
        with _decoding(self.model):
            for step in range(count):
                if self.drawn:
                    self._hidden = self.model.step(self._previous, self._cache)
                drawn[:, step] = self._previous = self._sample(uniforms[:, step])
                self.drawn += 1
                if self._may_end:
                    self._ended |= self._previous == self.layout.end_id
                    if self.ended:
                        taken = step + 1
                        break
        targets = [row.clone() for row in drawn[:, :taken].cpu()]  # copies made here may enter training again
        if not self._may_end:
            return targets
        return [self._cut(row, over=over) for row, over in zip(targets, before.tolist(), strict=True)]

    def _sample(self, uniform: Tensor) -> Tensor:
        """One id per row (rows,)."""
        phases = [(known + self.drawn) % self.layout.phases for known in self._known]
        if len(set(phases)) == 1:  # nearly always
            return self._sample_phase(phases[0], self._hidden, self._previous, uniform)
        drawn = torch.empty_like(self._previous)
        for phase in set(phases):
            members = torch.tensor([row for row, p in enumerate(phases) if p == phase], device=self._device)
            drawn[members] = self._sample_phase(phase, self._hidden[members], self._previous[members], uniform[members])
        return drawn

    def _sample_phase(self, phase: int, hidden: Tensor, previous: Tensor, uniform: Tensor) -> Tensor:
        start, stop = self.layout.legal_range(phase)
        drawn = sample_next(
            self.model.head_logits(hidden, start, stop),
            allowed=self._legal(phase, previous),
            uniform=uniform,
            sampling=self.sampling,
        )
        require_drawn(drawn)
        return drawn + start

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
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(model.head.weight.device.type, enabled=False):
            yield
    finally:
        model.train(was_training)
