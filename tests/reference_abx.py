"""ABX written straight from its rules with loops: slow, and no line of it shared with the package."""

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

Frames = list[list[float]]
Row = tuple[str, str, str, str, str, str, str]  # the seven columns of an item file


def bounds(row: Row, *, rate_hz: int, frames: int, libri_light: bool = False) -> tuple[int, int]:
    """First frame and the one after the last, in decimal arithmetic."""
    half = Decimal("0.5")
    start = (rate_hz * Decimal(row[1]) - half).to_integral_value(ROUND_CEILING)
    end = (rate_hz * Decimal(row[2]) - half).to_integral_value(ROUND_FLOOR) + (0 if libri_light else 1)
    return max(0, int(start)), min(frames, int(end))


def frame_distance(p: Sequence[float], q: Sequence[float], distance: str = "cosine") -> float:
    """To twelve digits or so, of a power of two: then sums do not depend on their order, and what ties, ties."""
    return round(exact_distance(unit(p), unit(q), distance) * 2**40) / 2**40


def exact_distance(p: Sequence[float], q: Sequence[float], distance: str) -> float:
    if distance == "cosine":
        if p == q:
            return 0.0
        if not any(p) or not any(q):
            return 1.0
        return math.acos(max(-1.0, min(1.0, sum(a * b for a, b in zip(p, q, strict=True))))) / math.pi
    if distance == "euclidian":
        return math.dist(p, q)
    if distance == "kl":
        return sum(a * math.log((a + 1e-6) / (b + 1e-6)) for a, b in zip(p, q, strict=True))
    return (exact_distance(p, q, "kl") + exact_distance(q, p, "kl")) / 2


def unit(p: Sequence[float]) -> list[float]:
    norm = math.sqrt(sum(value * value for value in p))
    return [value / norm for value in p] if norm else [0.0] * len(p)


def warp(distances: list[list[float]]) -> float:
    """Fill the table of accumulated costs, then go back through it and count."""
    height, width = len(distances), len(distances[0])
    cost = [[math.inf] * width for _ in range(height)]
    for i in range(height):
        for j in range(width):
            before = [cost[i - 1][j - 1] if i and j else math.inf]
            before += [cost[i][j - 1] if j else math.inf, cost[i - 1][j] if i else math.inf]
            cost[i][j] = distances[i][j] + (0.0 if i == j == 0 else min(before))
    i, j, cells = height - 1, width - 1, 1
    while i or j:
        diagonal = cost[i - 1][j - 1] if i and j else math.inf
        left = cost[i][j - 1] if j else math.inf
        up = cost[i - 1][j] if i else math.inf
        if diagonal <= left and diagonal <= up:
            i, j = i - 1, j - 1
        elif left <= up:
            j -= 1
        else:
            i -= 1
        cells += 1
    return cost[-1][-1] / cells


def item_distance(x: Frames, y: Frames, distance: str = "cosine") -> float:
    return warp([[frame_distance(p, q, distance) for q in y] for p in x])


def abx(
    rows: Sequence[Row],
    features: dict[str, Frames],
    *,
    rate_hz: int,
    across: bool,
    within_context: bool,
    distance: str = "cosine",
    libri_light: bool = False,
) -> tuple[float | None, int]:
    """The error and the number of triples, without sampling."""
    groups: dict[tuple[tuple[str, ...], str, str], list[Frames]] = {}
    for row in rows:
        start, end = bounds(row, rate_hz=rate_hz, frames=len(features[row[0]]), libri_light=libri_light)
        if start < end:
            context = (row[4], row[5]) if within_context else ()
            groups.setdefault((context, row[6], row[3]), []).append(features[row[0]][start:end])
    errors: dict[tuple[str, str], dict[str, list[float]]] = {}  # (A, B) -> speaker -> errors of cells
    triples = 0
    for (context, speaker, phone_a), items_a in groups.items():
        for (context_b, speaker_b, phone_b), items_b in groups.items():
            if (context_b, speaker_b) != (context, speaker) or phone_b == phone_a:
                continue
            for (context_x, speaker_x, phone_x), items_x in groups.items():
                if (context_x, phone_x) != (context, phone_a) or (speaker_x != speaker) != across:
                    continue
                right = []
                for number_x, x in enumerate(items_x):
                    for number_a, a in enumerate(items_a):
                        if not across and number_x == number_a:
                            continue
                        for b in items_b:
                            to_a, to_b = item_distance(x, a, distance), item_distance(x, b, distance)
                            right.append(1.0 if to_a < to_b else 0.5 if to_a == to_b else 0.0)
                if right:
                    error = 1 - sum(right) / len(right)
                    errors.setdefault((phone_a, phone_b), {}).setdefault(speaker, []).append(error)
                    triples += len(right)
    of_pairs = []
    for speakers in errors.values():
        of_speakers = [sum(cells) / len(cells) for cells in speakers.values()]
        of_pairs.append(sum(of_speakers) / len(of_speakers))
    return (sum(of_pairs) / len(of_pairs) if of_pairs else None), triples
