"""Progress bars of the verbs: on a terminal only, for in a log file the report says how many there were."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """One bar: what is yielded takes (done, in all)."""
    with progress_bars() as progress:
        yield lambda done, total: progress(name, done, total)


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of work: what is yielded takes (what is done, how many are, in all)."""
    from rich.progress import Progress, TaskID

    with Progress(disable=not sys.stdout.isatty()) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield progress
