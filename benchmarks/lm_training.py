"""A training step of one language model: its time, its memory, and how many operations it has to do."""

import argparse
from typing import Any

from common import median_seconds, peak_gb, resident_gb

CLIP_NORM = 1.0  # as in stages/*.yaml


def train_case(options: argparse.Namespace, size: str, kind: str, stage: str, precision: str) -> dict[str, Any]:
    """Time and memory of the stage's step; `kind` is an attention, or `plain` for the plain GPT."""
    import torch
    from lm_models import SIZES, SPEC, build_model, training_batch
    from plain_gpt import PlainGpt

    from audiolm.lm.losses import next_token_loss
    from audiolm.tokens.layout import StageLayout

    imported_gb = resident_gb()
    layout = StageLayout(SPEC, stage)  # type: ignore[arg-type]
    plain = PlainGpt(layout.vocabulary, **SIZES[size]) if kind == "plain" else None
    model = plain or build_model(layout, size=size, attention=kind, dropout=options.dropout)
    model.to(options.device).train()
    optimizer = make_optimizer(model)
    batch = training_batch(layout, rows=options.train_batch).to(options.device)
    losses: list[torch.Tensor] = []

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=precision == "bf16"):
            if plain is not None:
                loss = plain.loss(batch.inputs, batch.targets, batch.counted)
            else:
                sums = next_token_loss(model, layout, batch)
                loss = sums.nats.sum() / sums.counted.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    seconds = median_seconds(step, device=options.device, repeats=options.steps, warm_up=2)
    peak = peak_gb(options.device)
    figures = {
        "step_s": round(seconds, 4),
        "tokens_per_s": round(batch.inputs.numel() / seconds, 1),
        "peak_gb": round(peak, 3),
        "peak_over_imports_gb": round(peak if options.device == "cuda" else peak - imported_gb, 3),
        "positions": batch.inputs.size(1),
        "batch": len(batch.inputs),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "first_loss_nats": round(losses[0].item(), 3),
    }
    if plain is None:
        figures["gflop"] = training_flop(model, layout, batch) / 1e9
        figures["gflop_all_parameters"] = training_flop(model, layout, batch, all_parameters=True) / 1e9
    return figures


def make_optimizer(model: Any) -> Any:
    """The stage's: fused AdamW, decay on matrices only."""
    import torch

    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.98), fused=True)


def training_flop(model: Any, layout: Any, batch: Any, *, all_parameters: bool = False) -> int:
    """Operations that one step needs, forward and backward; what is computed twice to save memory is not counted twice.

    6 x weights x positions: a multiplication and an addition in the forward pass, twice that in the backward pass. The
    weights are the matrices of the blocks at every position, and the legal rows of the head where a target counts; or,
    with `all_parameters`, every parameter at every position, embedding and illegal rows included, as is often counted.
    Attention: 6 x layers x dim x n (n + 1) for n positions: 2 operations per pair and dimension for the scores, 2 for
    the mix, n (n + 1) / 2 pairs, three times as the backward pass takes twice the forward pass.
    """
    rows, positions = batch.inputs.shape
    dim, layers = model.config.dim, model.config.layers
    attention = 6 * layers * dim * positions * (positions + 1) * rows
    if all_parameters:
        return 6 * sum(parameter.numel() for parameter in model.parameters()) * rows * positions + attention
    blocks = sum(parameter.numel() for parameter in model.blocks.parameters() if parameter.ndim == 2)
    head = 0
    for phase in range(layout.phases):
        start, stop = layout.legal_range(phase)
        head += int((batch.phases == phase).sum()) * (stop - start) * dim
    return 6 * (blocks * rows * positions + head) + attention
