"""`audiolm status` as a table for people and as JSON for programs."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from audiolm.status import ChainStatus, StageStatus

COLOURS = {
    "done": "green",
    "running": "cyan",
    "pending": "yellow",
    "failed": "red",
    "cancelled": "magenta",
    "stopped": "yellow",
}
LEAST_COLUMNS = 132  # where there is no terminal, as in a log file


def print_status(status: ChainStatus, console: Console | None = None) -> None:
    """Print the table of a chain, and what to do next."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, LEAST_COLUMNS)
    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("stage", "left"),
        ("state", "left"),
        ("job", "right"),
        ("step / of", "right"),
        ("loss", "right"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for heading in ("left", "last checkpoint", "hours"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("where or why", overflow="fold")
    for stage in status.stages:
        table.add_row(*_row(stage))
    console.print(Text(f"Chain {status.root}"))
    console.print(table)
    console.print(_total(status))
    for words in status.next:
        console.print(Text(words))


def status_json(status: ChainStatus) -> str:
    """All that is known, as one JSON object."""
    return json.dumps(asdict(status), indent=2)


def _row(stage: StageStatus) -> list[Text | str]:
    steps = f"{stage.step} / {stage.of if stage.of is not None else '?'}" if stage.step is not None else ""
    checkpoint = ""
    if stage.checkpoint_age_seconds is not None:
        step = "" if stage.checkpoint_step is None else f"step {stage.checkpoint_step}, "
        checkpoint = f"{step}{duration(stage.checkpoint_age_seconds)} ago"
    starts = f"start {stage.start}" if (stage.start or 1) > 1 else ""
    return [
        stage.stage,
        Text(stage.state, COLOURS.get(stage.state, "dim")),
        str(stage.job or ""),
        steps,
        "" if stage.loss is None else f"{stage.loss:.3f}",
        "" if stage.seconds_left is None else duration(stage.seconds_left),
        checkpoint,
        "" if stage.process_hours is None else f"{stage.process_hours:.2f} {_unit(stage)}",
        Text("  ".join(filter(None, (stage.why, starts)))),
    ]


def _unit(stage: StageStatus) -> str:
    return "GPU" if stage.device == "cuda" else "CPU"


def _total(status: ChainStatus) -> Text:
    """GPU hours of the chain, and those of CPU processes, where there are any."""
    hours = {"GPU": 0.0, "CPU": 0.0}
    for stage in status.stages:
        hours[_unit(stage)] += stage.process_hours or 0.0
    spent = [f"{value:.2f} {unit} hours" for unit, value in hours.items() if value]
    done = sum(stage.state == "done" for stage in status.stages)
    return Text(f"{done} of {len(status.stages)} stages done" + (f", {' and '.join(spent)}" if spent else ""))


def duration(seconds: float) -> str:
    """Seconds in words: 12 s, 3 min, 4 h 05 min, 2 d 3 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
