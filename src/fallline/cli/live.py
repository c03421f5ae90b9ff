"""How a comparison stands while it runs: one row for each cell, redrawn in place on a terminal, and nothing anywhere else."""

import math
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from fallline._core.errors import must
from fallline.cli.terminal import number

Rows = Sequence[dict[str, Any]]


class LiveTable:
    """A table that follows a study: `with LiveTable() as table: fl.compare(..., show=table.follow)`.

    A row is a mapping with `cell`, and where they are known `trials` (of the search), `lr` (the best so far), `members` (done), `of`
    (wanted), `mean` (of the metric so far).

    Args:
        rows: asked for the rows at every redrawing; without it, what `update` was told last is shown.
        metric: what the mean is of, for the head of its column.
        most: rows that are shown; of more, the unfinished ones, and how many are not shown.
        quiet: show nothing.
        console: where it is drawn; by default standard error.

    >>> with LiveTable(quiet=True) as table:
    ...     table.update([{"cell": "adam", "members": 1, "of": 5, "lr": 0.003, "mean": 0.97}], left=12.0)
    """

    def __init__(
        self, rows: Callable[[], Rows] | None = None, *, metric: str = "mean", most: int = 20, quiet: bool = False, console: Any = None
    ) -> None:
        must(most >= 1, "most >= 1", most)
        self.rows, self.metric, self.most = rows, metric, most
        self.held: Rows = []
        self.left = math.nan
        terminal = console.is_terminal if console is not None else sys.stderr.isatty()
        self.shown = bool(terminal) and not quiet
        self._console, self._live = console, None

    def __enter__(self) -> "LiveTable":
        if self.shown:
            from rich.console import Console
            from rich.live import Live

            console = self._console or Console(stderr=True)
            self._live: Any = Live(get_renderable=self.drawn, console=console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, rows: Rows, *, left: float = math.nan) -> None:
        """Tell how the cells stand, and, where it is known, how many seconds are left."""
        self.held, self.left = [dict(row) for row in rows], left

    def follow(self, rows: Rows, left: float) -> None:
        """`update`, as a study tells it."""
        self.update(rows, left=left)

    def drawn(self) -> Any:
        """The table as it stands now."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        rows = list(self.rows() if self.rows is not None else self.held)
        # what is unfinished comes first only where there is no room for all
        kept = rows if len(rows) <= self.most else sorted(rows, key=_whole)[: self.most]
        hidden = len(rows) - len(kept)
        said = [f"{hidden} more cells" if hidden > 1 else "1 more cell"] if hidden else []
        said += [f"about {_span(self.left)} left"] if math.isfinite(self.left) else []
        table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=", ".join(said) or None, caption_justify="left")
        table.add_column("cell", no_wrap=True, overflow="ellipsis")
        for head in ("trials", "best lr", "members", self.metric):
            table.add_column(head, justify="right", no_wrap=True)
        for row in kept:
            done = f"{row.get('members') or 0} of {row['of']}" if row.get("of") is not None else str(row.get("members") or 0)
            cells = (str(row.get("cell", "?")), str(row.get("trials") or "-"), number(row.get("lr"), 3), done, number(row.get("mean")))
            table.add_row(*(Text(text) for text in cells), style="dim" if _whole(row) else "")
        return table


def _whole(row: dict[str, Any]) -> bool:
    """Whether all members of a cell are done."""
    return row.get("of") is not None and (row.get("members") or 0) >= row["of"]


def _span(seconds: float) -> str:
    """A span of time, to two digits.

    >>> _span(7.2), _span(125), _span(4000)
    ('8 s', '2 min 5 s', '1 h 7 min')
    """
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {math.ceil(seconds % 3600 / 60)} min"
