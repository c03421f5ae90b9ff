"""Run a study: first the learning rates, then the members seed by seed, then the table; what the record holds already is not run again.

Seed s gives every optimizer the same initial weights, the same order of rows and the same dropout. Members are trained one seed after
another over all optimizers, so a study that is stopped has compared what it has on equal terms.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fallline._core.errors import must
from fallline._core.progress import Progress
from fallline.record import Writer
from fallline.study.members import Member, Workshop
from fallline.study.models import ModelLike
from fallline.study.plan import Plan, label
from fallline.study.ranking import headline, table
from fallline.study.tune import Tuned, tune_lr
from fallline.training.checks import batch_rows

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss

Cell = tuple[str, Any]


@dataclass
class Result:
    """What a study found.

    Attributes:
        status: "finished" or "interrupted".
        table: ranked rows, see `ranking.table`.
        members: every whole member that is compared.
        trials: every whole trial of the search.
        search: for each optimizer (and batch size, where there are several) its trials as (rate, validation loss), None: diverged.
        target: the level that steps are counted to; NaN where there is none.
        headline: the result in words.
        seconds: wall-clock time of this sitting.
    """

    status: str
    table: list[dict[str, Any]]
    members: list[Member]
    search: dict[str, list[list[float | None]]]
    target: float
    headline: str
    seconds: float
    trials: list[Member] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """What `run.json` holds of it."""
        return {
            "table": self.table,
            "search": self.search,
            "headline": self.headline,
            "target": self.target if math.isfinite(self.target) else None,
            "members": len(self.members),
            "seconds": self.seconds,
        }


def run_study(
    model: ModelLike,
    data: "Data",
    plan: Plan,
    writer: Writer,
    *,
    loss: "Loss | None" = None,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> Result:
    """Train what the plan asks for and the record does not hold yet, and rank it.

    Args:
        model: spec, function or module.
        data: rows; the validation rows judge.
        plan: what is asked.
        writer: the study's record, new or continued.
        loss: a loss object in place of the settings' name.
        stop: asked after every step; True ends the study with what is whole so far.
        quiet: no progress bar.

    Raises:
        FalllineError: no validation rows, or settings that do not fit the data.
    """
    check(data, plan)
    began = time.monotonic()
    units = plan.settings.epochs * sum(plan.trials(name) + len(plan.seeds) for name, _ in plan.cells)
    tuned: dict[Cell, Tuned] = {}
    members: dict[Cell, list[Member]] = {cell: [] for cell in plan.cells}
    with Progress("compare", units, quiet=quiet) as bar:
        ticks = _Ticks(bar, plan)
        shop = Workshop(model, data, plan, writer, loss, stop, ticks)
        for cell in plan.cells:
            ticks.start(f"{label(cell[0])}: learning rate", len(data.train), cell[1])
            tuned[cell] = tune_lr(shop, plan, *cell)
            ticks.reach(plan.trials(cell[0]))
            if shop.interrupted:
                break
        for seed in plan.seeds:
            for cell in plan.cells:
                found = tuned.get(cell)
                if found is None or found.lr is None:
                    continue
                ticks.start(f"{label(cell[0])}: seed {seed}", len(data.train), cell[1])
                member = shop.member(*cell, found.lr, seed)
                if member is not None:
                    members[cell].append(member)
                ticks.reach(1)
    rows, target = table(shop, plan, members, tuned, len(data.validation))
    status = "interrupted" if shop.interrupted else "finished"
    whole = [member for found in members.values() for member in found]
    return Result(status, rows, whole, _search(plan, tuned), target, headline(rows, plan), time.monotonic() - began)


def check(data: "Data", plan: Plan) -> None:
    """Refuse before anything is written what could not be run."""
    must(len(data.validation) > 0, "there are validation rows", "none", "give the data a validation share", where="compare")
    for _, batch in plan.cells:
        batch_rows(plan.settings_of(plan.optimizers[0], batch, 1.0, 0), len(data.train))


def _search(plan: Plan, tuned: dict[Cell, Tuned]) -> dict[str, list[list[float | None]]]:
    several = len(plan.batch_sizes) > 1
    return {
        f"{label(name)}, batch {batch}" if several else label(name): [
            [lr, loss if math.isfinite(loss) else None] for lr, loss in found.trials
        ]
        for (name, batch), found in tuned.items()
        if found.trials
    }


class _Ticks:
    """Moves the bar by steps, in units of epochs; trials beyond the plan do not move it, and members that end early are made up for."""

    def __init__(self, bar: Progress, plan: Plan) -> None:
        self.bar, self.plan = bar, plan
        self.at, self.base, self.per_step = 0.0, 0.0, 0.0
        self.steps = 0

    def start(self, note: str, rows: int, batch: Any) -> None:
        """A new member or search begins."""
        steps = 1 if batch == "full" else math.ceil(rows / batch)
        self.per_step = 1 / steps
        self.steps = 0
        self.bar.advance(0, note=note)

    def __call__(self) -> None:
        self.steps += 1
        if self.steps % max(1, round(1 / self.per_step)) == 0:
            self._move(1.0)

    def reach(self, members: int) -> None:
        """`members` of the plan are done: the bar stands where it should."""
        self.base += members * self.plan.settings.epochs
        self._move(self.base - self.at)

    def _move(self, amount: float) -> None:
        self.at += amount
        self.bar.advance(amount)
