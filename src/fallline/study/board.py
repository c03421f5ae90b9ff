"""How a study stands while it runs: what the bar and a live table are told."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fallline._core.progress import Progress
from fallline.study.plan import Cell, Plan

if TYPE_CHECKING:
    from fallline.study.members import Member, Request

Show = Callable[[list[dict[str, Any]], float], None]
_APART = 0.5  # seconds between two tellings


class Board:
    """What is known of every cell so far, and how far the study is.

    Args:
        plan: what is asked.
        total: steps that all trainings make together, about.
        bar: moved by steps.
        show: told the rows of a live table (see `rows`) and the seconds that are left, about; at most twice a second.
    """

    def __init__(self, plan: Plan, total: int, bar: Progress, show: Show | None) -> None:
        self.plan, self.total, self.bar, self.show = plan, total, bar, show
        self.tried: dict[Cell, dict[float, float]] = {cell: {} for cell in plan.cells}
        self.chosen: dict[Cell, float] = {}
        self.values: dict[Cell, list[float]] = {cell: [] for cell in plan.cells}
        self.now = ""
        self.done, self._read = 0, 0
        self._began = time.monotonic()
        self._told = -math.inf

    def read(self, steps: int) -> None:
        """So many steps of members were read from the record."""
        self._read += steps
        self.tick(steps, math.nan)

    def tick(self, steps: int, value: float) -> None:
        """So many steps of members were made; the loss is NaN where it is not known."""
        self.done += steps
        self.bar.advance(steps, note=f"{self.now}{f', loss {value:.4g}' if math.isfinite(value) else ''}")
        if self.show is not None and time.monotonic() - self._told > _APART:
            self.tell()

    def take(self, request: "Request", member: "Member") -> None:
        """A member is whole."""
        if request.search:
            loss = member.value("loss")
            self.tried[request.cell][request.lr] = loss if math.isfinite(loss) else math.inf
        else:
            self.values[request.cell].append(member.value(self.plan.metric))

    def tell(self) -> None:
        """Have the rows shown now."""
        if self.show is not None:
            self._told = time.monotonic()
            self.show(self.rows(), self.left)

    @property
    def left(self) -> float:
        """Seconds that are left, about; NaN before anything is known."""
        made = self.done - self._read
        if made <= 0:
            return math.nan
        return max(0.0, self.total - self.done) * (time.monotonic() - self._began) / made

    def rows(self) -> list[dict[str, Any]]:
        """A row for each cell: its name, trials so far, the best rate so far, members done and wanted, the mean of the metric."""
        out = []
        for cell in self.plan.cells:
            tried, values = self.tried[cell], self.values[cell]
            whole = [v for v in values if math.isfinite(v)]
            out.append(
                {
                    "cell": self.plan.cell_name(cell),
                    "trials": len(tried),
                    "lr": self.chosen.get(cell) or (min(tried, key=lambda rate: tried[rate]) if tried else None),
                    "members": len(values),
                    "of": len(self.plan.seeds),
                    "mean": sum(whole) / len(whole) if whole else None,
                }
            )
        return out
