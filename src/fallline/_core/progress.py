"""Progress on long work: a bar on a terminal, nothing elsewhere.

One bar in the house. It writes to standard error, so that standard output stays for results, and it is quiet when standard error is
not a terminal, when `quiet` is set, or inside another bar.
"""

import sys
from types import TracebackType
from typing import Any


class Progress:
    """A bar over `total` units; `with Progress("train", 100) as bar: bar.advance(1, note="loss 0.3")`."""

    _active = False

    def __init__(self, label: str, total: float, *, quiet: bool = False) -> None:
        self.label, self.total = label, total
        self.shown = not quiet and sys.stderr.isatty() and not Progress._active
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self.shown:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, note="")
            Progress._active = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            Progress._active = False

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Move the bar on; `note` stands behind it."""
        if self._bar is not None:
            fields = {} if note is None else {"note": note}
            self._bar.update(self._task, advance=amount, **fields)
