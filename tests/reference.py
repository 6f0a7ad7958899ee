"""Slow, obvious versions that the tests compare against."""

import math

import torch
from torch import Tensor


def residual_codes(latents: Tensor, codebooks: Tensor) -> Tensor:
    """Codes (batch, levels, frames) of latents (batch, dim, frames), one frame and one level at a time."""
    batch, _, frames = latents.shape
    codes = torch.zeros(batch, len(codebooks), frames, dtype=torch.int64)
    for row in range(batch):
        for frame in range(frames):
            residual = latents[row, :, frame]
            for level, codebook in enumerate(codebooks):
                codes[row, level, frame] = int((codebook - residual).square().sum(1).argmin())
                residual = residual - codebook[codes[row, level, frame]]
    return codes


def ema_step(
    latents: Tensor, codebooks: Tensor, counts: Tensor, sums: Tensor, *, active: Tensor, decay: float
) -> Tensor:
    """One step of the codebooks' moving averages, entry by entry: changes counts and sums, gives the new codebooks."""
    codes = residual_codes(latents, codebooks)
    updated = codebooks.clone()
    for level in range(len(codebooks)):
        for entry in range(codebooks.size(1)):
            members = []
            for row in range(latents.size(0)):
                for frame in range(latents.size(2)):
                    if level < int(active[row]) and int(codes[row, level, frame]) == entry:
                        earlier = [codebooks[q][codes[row, q, frame]] for q in range(level)]
                        members.append(latents[row, :, frame] - sum(earlier, torch.zeros(latents.size(1))))
            counts[level, entry] = decay * counts[level, entry] + (1 - decay) * len(members)
            sums[level, entry] = decay * sums[level, entry] + (1 - decay) * sum(members, torch.zeros(latents.size(1)))
            updated[level, entry] = sums[level, entry] / counts[level, entry]
    return updated


def stage_sequence(
    *, stage: str, clusters: int, entries: int, coarse: int, units: list[int], codes: list[list[int]], end: bool
) -> tuple[list[int], list[int]]:
    """A stage's whole token sequence, and for each token its phase (-1: conditioning). codes[level][frame]."""
    spoken = [unit for place, unit in enumerate(units) if place == 0 or unit != units[place - 1]]
    frames = range(len(codes[0]) if codes else 0)
    if stage == "semantic":
        tokens = [clusters + 1, *spoken] + ([clusters] if end else [])
        return tokens, [-1] + [0] * (len(tokens) - 1)
    if stage == "acoustic":
        tokens, phases = [0], [-1]
        for frame in frames:
            for level in range(coarse):
                tokens.append(2 + level * entries + codes[level][frame])
                phases.append(level)
        return tokens + ([1] if end else []), phases + ([0] if end else [])
    if stage == "coarse":
        tokens = [*spoken, clusters]
        phases = [-1] * len(tokens)
        for frame in frames:
            for level in range(coarse):
                tokens.append(clusters + 2 + level * entries + codes[level][frame])
                phases.append(level)
        return tokens + ([clusters + 1] if end else []), phases + ([0] if end else [])
    tokens = [level * entries + codes[level][frame] for frame in frames for level in range(coarse)]
    tokens.append(len(codes) * entries)
    phases = [-1] * len(tokens)
    for frame in frames:
        for level in range(coarse, len(codes)):
            tokens.append(level * entries + codes[level][frame])
            phases.append(level - coarse)
    return tokens, phases


def biased_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Causal attention with a bias by distance, one query at a time. (batch, heads, tokens, head_dim)."""
    rows = []
    for query in range(queries.size(2)):
        scores = (queries[:, :, query, None] * keys[:, :, : query + 1]).sum(-1) / queries.size(-1) ** 0.5
        by_distance = torch.stack([bias[:, query - key] for key in range(query + 1)], dim=-1)
        weights = (scores + by_distance).softmax(-1)
        rows.append((weights[..., None] * values[:, :, : query + 1]).sum(2))
    return torch.stack(rows, dim=2)


def draw(probabilities: list[float], uniform: float) -> int:
    """The first possible id where the running sum of probabilities exceeds `uniform`; the last possible one if none."""
    running, last = 0.0, -1
    for place, probability in enumerate(probabilities):
        if probability > 0:
            running, last = running + probability, place
            if running > uniform:
                return place
    return last


def ngram_nats(
    train: list[list[tuple[int, int]]], scored: list[list[tuple[int, int]]], *, widths: list[int], repeats: bool
) -> tuple[list[float], list[float], list[int]]:
    """Unigram and Witten-Bell bigram nats and the number of targets, per phase; sequences are (phase, id from 0)."""
    cycle = len(widths)

    def unigram(phase: int, token: int, previous: int | None) -> float:
        seen = [i for sequence in train for p, i in sequence if p == phase]
        types = len(set(seen))

        def smoothed(i: int) -> float:
            return (seen.count(i) + types / widths[phase]) / (len(seen) + types) if seen else 1 / widths[phase]

        if repeats or previous is None:
            return smoothed(token)
        return smoothed(token) / sum(smoothed(i) for i in range(widths[phase]) if i != previous)

    def bigram(phase: int, token: int, previous: int | None) -> float:
        followers = [
            sequence[place][1]
            for sequence in train
            for place in range(cycle, len(sequence))
            if sequence[place][0] == phase and sequence[place - cycle][1] == previous
        ]
        types = len(set(followers))
        backoff = unigram(phase, token, previous)
        if previous is None or not followers:
            return backoff
        return (followers.count(token) + types * backoff) / (len(followers) + types)

    unigram_nats, bigram_nats, counted = [0.0] * cycle, [0.0] * cycle, [0] * cycle
    for sequence in scored:
        for place, (phase, token) in enumerate(sequence):
            previous = sequence[place - cycle][1] if place >= cycle else None
            unigram_nats[phase] -= math.log(unigram(phase, token, previous))
            bigram_nats[phase] -= math.log(bigram(phase, token, previous))
            counted[phase] += 1
    return unigram_nats, bigram_nats, counted
