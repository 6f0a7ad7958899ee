"""Decoding: prefill and step for any (transformer, layout), rows side by side."""

from typing import Any

import torch
from torch import Tensor

from audiolm.lm.sampling import check_sampling, sample_next
from audiolm.lm.transformer import Transformer
from audiolm.tokens.layout import StageLayout


def decode(
    model: Transformer,
    layout: StageLayout,
    prefixes: list[Tensor],
    *,
    steps: int,
    temperature: float,
    uniforms: Tensor,
    stop_at_end: bool = False,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[Tensor]:
    """Continue each prefix by `steps` targets, never with an id that the layout forbids.

    A row depends on nothing but its own prefix and uniforms: not on its batch mates, up to the rounding of the matrix
    products. The model is put into eval mode (no dropout), and back after. float32 is the fastest on CPU.

    Args:
        prefixes: from `layout.prefix`, of any lengths, on any device. The phase of a row's next token follows from its
            prefix, so rows may stand at different phases.
        uniforms: (rows, steps) float64 in [0, 1): one number per drawn token.
        stop_at_end: make the end token legal; a row that draws it ends there. Else it is illegal and rows are full.

    Returns:
        The new targets of each row (at most `steps`,) int64 on the CPU, the end token included if it was drawn.

    Raises:
        ValueError: for no prefixes, no steps, uniforms of another shape, a temperature of 0 or below, a model made for
            another vocabulary, or a prefix without its start token.
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    if not prefixes or steps < 1:
        raise ValueError(f"there is nothing to decode: {len(prefixes)} prompts, {steps} steps")
    if uniforms.shape != (len(prefixes), steps):
        raise ValueError(f"uniforms must be (rows, steps) = {(len(prefixes), steps)}, got {tuple(uniforms.shape)}")
    if model.vocabulary != layout.vocabulary:
        raise ValueError(
            f"the model has {model.vocabulary} ids and the {layout.stage} layout {layout.vocabulary}: they belong to "
            "different token specs or stages"
        )
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    device = model.head.weight.device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            drawn = _decode(model, layout, prefixes, uniforms.to(device), settings, may_end=stop_at_end)
    finally:
        model.train(was_training)
    rows = [row.clone() for row in drawn.cpu()]  # copies made outside inference mode may enter training again
    if not stop_at_end or layout.end_id is None:
        return rows
    ends = [(row == layout.end_id).nonzero()[:1] for row in rows]
    return [row[: int(end) + 1] if len(end) else row for row, end in zip(rows, ends, strict=True)]


def _decode(
    model: Transformer,
    layout: StageLayout,
    prefixes: list[Tensor],
    uniforms: Tensor,
    settings: dict[str, Any],
    *,
    may_end: bool,
) -> Tensor:
    """(rows, steps or fewer, if every row has ended); what follows an end token in a row means nothing."""
    (rows, steps), device = uniforms.shape, uniforms.device
    known = torch.tensor([layout.known_targets(prefix) for prefix in prefixes])
    lengths = torch.tensor([len(prefix) for prefix in prefixes])
    tokens = torch.nn.utils.rnn.pad_sequence([p.flip(0).cpu() for p in prefixes], batch_first=True).flip(1)
    cache = model.new_cache(rows, tokens.size(1) + steps - 1)
    hidden = model.prefill(tokens.to(device), lengths.to(device), cache)
    previous = tokens[:, -1].to(device)
    drawn = torch.empty(rows, steps, dtype=torch.int64, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    for step in range(steps):
        phases = (known + step) % layout.phases
        for phase in phases.unique().tolist():  # nearly always one
            members = (phases == phase).nonzero().squeeze(1).to(device)
            start, stop = layout.legal_range(phase)
            drawn[members, step] = start + sample_next(
                model.head_logits(hidden[members], start, stop),
                allowed=layout.allowed(phase, previous[members], may_end=may_end),
                uniform=uniforms[members, step],
                **settings,
            )
        previous = drawn[:, step]
        if may_end and layout.end_id is not None:
            ended |= previous == layout.end_id
            if bool(ended.all()):
                return drawn[:, : step + 1]
        if step + 1 < steps:
            hidden = model.step(previous, cache)
    return drawn
