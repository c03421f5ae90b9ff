"""A study that fits the time it is given: how long it will take, measured on a few steps, and how many epochs can be had.

    seconds ≈ Σ over shapes of model, batch and loss:  trainings · epochs · steps an epoch · seconds a step of a member

Epochs are cut for all members alike, so that the comparison stays fair; the searches get the same epochs as what is compared.
"""

import copy
import dataclasses
import math
from typing import TYPE_CHECKING

from fallline._core.errors import FalllineError, refuse
from fallline._core.number import Number
from fallline.population import Population, step_seconds
from fallline.study.plan import Cell, Plan
from fallline.training import aim
from fallline.training.checks import batch_rows

if TYPE_CHECKING:
    from fallline.losses import Loss

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_BUDGET = Number("budget", 0, open_low=True, usual="10m")
USED = 0.8  # of the budget that is planned for; the rest is for what cannot be foreseen: growth of the searches, judging, the page


def seconds_an_epoch(population: Population, plan: Plan, loss: "Loss | None") -> float:
    """About how long one epoch of every training of the study takes together."""
    data, total = population.data, 0.0
    for cells in _by_shape(plan).values():
        cell = cells[0]
        settings = plan.settings_of(cell, 1e-4, plan.seeds[0])
        goal = aim(data, settings, copy.deepcopy(loss))
        rows = batch_rows(settings, len(data.train))
        trainings = sum(plan.trials(cell.optimizer) + len(plan.seeds) for cell in cells)
        x, target = data.train.x[:rows], goal.targets(data.train.y[:rows])
        each = step_seconds(population.make(settings, goal), x, target, goal.loss, settings, members=trainings)
        total += trainings * math.ceil(len(data.train) / rows) * each
    return total


def fitted(population: Population, plan: Plan, loss: "Loss | None") -> Plan:
    """The plan with as many epochs as its budget has room for; as it is where there is no budget.

    Raises:
        FalllineError: not even one epoch fits; the sentence says what would.
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
    return dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, epochs=epochs), notes=(*plan.notes, note))


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
