"""The figures of benchmarks/lm.py as tables."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

TRAINING = {
    "step_s": "s",
    "tokens_per_s": "tokens/s",
    "of_matrix_rate": "of rate",
    "peak_gb": "peak GiB",
    "peak_over_imports_gb": "over imports",
    "positions": "positions",
}
DECODING = {
    "stage_s": "stage s",
    "ms_per_step_start": "ms start",
    "ms_per_step_end": "ms end",
    "of_bandwidth_start": "of bandwidth",
    "of_bandwidth_end": "at the end",
    "rows": "rows",
}
CONTINUING = {
    "seconds": "s",
    "audio_seconds_per_second": "audio s/s",
    "codec_encode_s": "encode s",
    "codec_decode_s": "decode s",
    "peak_gb": "peak GiB",
}
PEER = {
    "wall_s_median": "s",
    "continuation_s_estimated": "continuation s",
    "s_per_token_start": "s/token start",
    "s_per_token_end": "s/token end",
    "peak_rss_mb": "peak MiB",
}


def show(result: dict[str, Any]) -> None:
    """Print everything."""
    console = Console()
    rates = ", ".join(f"{name} {rate:g} GFLOP/s" for name, rate in result["matrix_gflops"].items())
    console.print(f"matrix rate {rates}; memory {result['bandwidth_gbs']:g} GB/s")
    for size, figures in result["by_size"].items():
        for table in (training(size, figures), decoding(size, figures), continuing(size, figures)):
            if table.row_count:
                console.print(table)
    if "peer" in result:
        console.print(filled("peer", "case", PEER, ((name, row) for name, row in result["peer"].items())))
    console.print(result["settings"])


def filled(title: str, first: str, names: dict[str, str], rows: Any) -> Table:
    """A table of (name, figures); a figure that a row has not stays empty."""
    table = Table(first, *names.values(), title=title)
    for name, row in rows:
        table.add_row(name, *(f"{row[key]:g}" if key in row else "" for key in names))
    return table


def training(size: str, figures: dict[str, Any]) -> Table:
    """One row per model, stage and precision."""

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for kind, stages in figures.get("train", {}).items():
            for stage, precisions in stages.items():
                for precision, row in precisions.items():
                    yield f"{kind} {stage} {precision}", row

    return filled(f"{size}: a training step", "model", TRAINING, rows())


def decoding(size: str, figures: dict[str, Any]) -> Table:
    """One row per model, duration, batch and stage."""

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for kind, durations in figures.get("decode", {}).items():
            for seconds, batches in durations.items():
                for batch, stages in batches.items():
                    for stage, row in stages.items():
                        if isinstance(row, dict):
                            yield f"{kind} {seconds} {batch} {stage}", row

    return filled(f"{size}: one more token in every row", "model", DECODING, rows())


def continuing(size: str, figures: dict[str, Any]) -> Table:
    """One row per duration and batch."""

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for seconds, batches in figures.get("continue", {}).items():
            for batch, row in batches.items():
                yield f"{seconds} {batch}", row
        if "long" in figures:
            yield f"{figures['long']['audio_s']:g} s batch 1", figures["long"]

    return filled(f"{size}: the whole generator", "continuation", CONTINUING, rows())
