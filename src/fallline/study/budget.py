"""A study that fits the time it is given: how long it will take, measured on a few steps, and how many epochs can be had.

    seconds ≈ Σ over shapes of model, batch and loss:  trainings · epochs · steps an epoch · seconds a step of a member

Epochs are cut for all members alike, so that the comparison stays fair; the searches get the same epochs as what is compared.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fallline._core.errors import FalllineError, refuse
from fallline._core.number import Number
from fallline.optim.schedules import epochs_named
from fallline.population import Block, Job, Population
from fallline.record import Writer
from fallline.study.plan import GROW, Cell, Plan
from fallline.training.checks import batch_rows

if TYPE_CHECKING:
    from fallline.losses import Loss

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_BUDGET = Number("budget", 0, open_low=True, usual="10m")
_APART = 5.0  # seconds between two times that what was spent is written
_TRIAL = 0.3  # seconds of a trial, at least
TRIED = 0.05  # of the budget, on trials of how fast it goes
USED = 0.75  # of the budget that is planned for; the rest is for what cannot be foreseen: growth of the searches, judging, the page


class Clock:
    """The time that a study has spent, over all its sittings; kept in `run.json` while it runs, so that a killed study knows it, too.

    A study that ran out of time and is resumed has its budget anew: to go on is to ask for more.

    Args:
        writer: the study's record.
        budget: seconds that it may take, or None.
    """

    def __init__(self, writer: Writer, budget: float | None) -> None:
        self.writer, self.budget = writer, budget
        self.before = float(writer.info.get("spent") or 0.0)
        self._began = self._told = time.monotonic()

    @property
    def sitting(self) -> float:
        """Seconds of this sitting."""
        return time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        if self.budget is not None and time.monotonic() - self._told > _APART:
            self._told = time.monotonic()
            self.keep()
        return self.budget is not None and self.before + self.sitting > self.budget

    def keep(self, status: str = "running") -> None:
        """Write what was spent."""
        if self.budget is not None:
            self.writer.describe(spent=0.0 if status == "out of time" else self.before + self.sitting)


def seconds_an_epoch(population: Population, plan: Plan, loss: "Loss | None") -> float:
    """About how long one epoch of every training of the study takes together, judging and recording included.

    A block and a lone member of every shape are tried; what lies between them is taken to lie on a line. The trainings of a study come in
    rounds (the first rates, up to three beyond an edge, two times two beside the best, the members that are compared).
    """
    data, total = population.data, 0.0
    assert plan.budget is not None
    shapes = _by_shape(plan)
    for cells in shapes.values():
        settings = [plan.settings_of(cell, 1e-4, seed) for seed in plan.seeds for cell in cells]
        jobs = [Job(f"{i}", each) for i, each in enumerate(settings)]
        block = population.blocks(jobs)[0]
        limit = max(_TRIAL, TRIED * plan.budget / len(shapes) / 2)
        _step_seconds(population, block, 0.0)  # compiles what has to be
        most, whole = len(block.jobs), _step_seconds(population, block, limit)
        lone = whole if most == 1 else _step_seconds(population, population.blocks(jobs[:1])[0], limit)
        slope = (whole - lone) / max(most - 1, 1)
        steps = math.ceil(len(data.train) / batch_rows(settings[0], len(data.train)))
        for members in _rounds(plan, cells):
            blocks, rest = divmod(members, most)
            total += steps * (blocks * whole + (lone + (rest - 1) * slope if rest else 0.0))
    return total


def _rounds(plan: Plan, cells: Sequence[Cell]) -> list[int]:
    """Trainings of each round of the study, of these cells."""
    first = [len(plan.rates[cell.optimizer]) for cell in cells if plan.trials(cell.optimizer)]
    beside = [2 for cell in cells if plan.auto[cell.optimizer]]
    beyond = [1] * GROW if first else []
    return [n for n in (sum(first), *beyond, sum(beside), sum(beside), len(cells) * len(plan.seeds)) if n]


def _step_seconds(population: Population, block: Block, limit: float) -> float:
    """Seconds that a step of all members of a block takes, measured for so many seconds, and for one block of steps at least."""
    made, took, began = 0, 0.0, time.perf_counter()

    def tick(steps: int, value: float) -> None:
        nonlocal made, took
        made, took = made + steps, time.perf_counter() - began

    population.run(block, Writer(None, kind="study"), stop=lambda: took > limit, tick=tick)
    return took * len(block.jobs) / max(made, 1)


def fitted(population: Population, plan: Plan, loss: "Loss | None") -> Plan:
    """The plan with as many epochs as its budget has room for; as it is where there is no budget.

    Raises:
        FalllineError: not even one epoch fits, or a schedule names more epochs than fit; the sentence says what would.
    """
    if plan.budget is None:
        return plan
    each = seconds_an_epoch(population, plan, loss)
    epochs = int(USED * plan.budget / each)
    if epochs >= plan.settings.epochs:
        return plan
    if epochs < 1:
        needed = each / USED
        raise FalllineError(
            f"`budget >= {spoken(needed)}` must hold for one epoch of {plan.trainings} trainings on this machine, but got "
            f"{spoken(plan.budget)}; give more time, or fewer seeds, rates or optimizers."
        )
    note = f"epochs were cut from {plan.settings.epochs} to {epochs}, for all members alike, to fit the budget of {spoken(plan.budget)}"
    notes = [*plan.notes, note, *_schedules(plan, epochs)]
    return dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, epochs=epochs), notes=tuple(notes))


def _schedules(plan: Plan, epochs: int) -> list[str]:
    """What is to say of schedules that name epochs themselves, where the epochs of a run are cut to so many."""
    notes = []
    for spec in plan.schedules:
        named = epochs_named(spec)
        if epochs < named <= plan.settings.epochs:
            raise FalllineError(
                f"the schedule {spec} names {named:g} epochs, but the budget of {spoken(plan.budget or 0.0)} has room for {epochs}: "
                "cut short it would be another schedule; give more time, or leave the epochs out of it, so that they follow the run's."
            )
        if named:
            notes.append(f"the schedule {spec} keeps the epochs that it names")
    return notes


def parse_budget(given: float | str | None) -> float | None:
    """Seconds from a number, or from a text such as "90s", "10m", "1.5h"; None stays None.

    Raises:
        FalllineError: neither.

    >>> parse_budget("10m"), parse_budget(30)
    (600.0, 30.0)
    """
    if given is None:
        return None
    text = str(given).strip().lower()
    unit = _UNITS.get(text[-1:], 1.0)
    number = text[:-1] if text[-1:] in _UNITS else text
    try:
        return _BUDGET.check(float(number) * unit)
    except ValueError:
        refuse("budget is a time", repr(given), "10m, 90s and 1.5h are examples")


def spoken(seconds: float) -> str:
    """A length of time for people.

    >>> spoken(90), spoken(0.4), spoken(7200)
    ('1.5m', '0.4s', '2h')
    """
    if seconds >= 3600:
        return f"{math.ceil(seconds / 360) / 10:g}h"
    return f"{math.ceil(seconds / 6) / 10:g}m" if seconds >= 60 else f"{math.ceil(seconds * 10) / 10:g}s"


def _by_shape(plan: Plan) -> dict[tuple[object, str], list[Cell]]:
    out: dict[tuple[object, str], list[Cell]] = {}
    for cell in plan.cells:
        out.setdefault((cell.batch_size, cell.loss), []).append(cell)
    return out
