"""Schedules by name, as the command line gives them: "cosine", "step:every=3,factor=0.5", "warmup:epochs=1+cosine"."""

import math
from collections.abc import Callable
from typing import Any

from fallline._core.errors import FalllineError, lookup, must, refuse
from fallline.optim.schedules._schedule import Schedule
from fallline.optim.schedules.constant import constant
from fallline.optim.schedules.cosine import cosine
from fallline.optim.schedules.exponential import exponential
from fallline.optim.schedules.one_cycle import one_cycle
from fallline.optim.schedules.plateau import Plateau
from fallline.optim.schedules.polynomial import polynomial
from fallline.optim.schedules.step import step
from fallline.optim.schedules.warm_restarts import warm_restarts
from fallline.optim.schedules.warmup import warmup

SCHEDULES: dict[str, Callable[..., Any]] = {
    "constant": constant,
    "step": step,
    "exponential": exponential,
    "polynomial": polynomial,
    "cosine": cosine,
    "warm_restarts": warm_restarts,
    "warmup": warmup,
    "one_cycle": one_cycle,
    "plateau": Plateau,
}
_TIMES = {"step": "every", "exponential": "every", "warm_restarts": "period", "warmup": "epochs"}
_OPTIONS = {
    "constant": set(),
    "step": {"every", "factor"},
    "exponential": {"every", "factor"},
    "polynomial": {"power", "end"},
    "cosine": {"end"},
    "warm_restarts": {"period", "mult", "end"},
    "warmup": {"epochs", "start"},
    "one_cycle": {"peak", "start", "end"},
    "plateau": {"factor", "patience", "threshold", "end"},
}


def build(spec: str, *, total_steps: int, steps_per_epoch: int = 1) -> Schedule | Plateau:
    """The schedule that `spec` names, for a run of `total_steps`.

    Times in `spec` (`every`, `period`, `epochs`) are in epochs of `steps_per_epoch` steps, fractions allowed. Left out: `every` is a
    third of the run for step and one epoch for exponential, `period` a seventh of the run, warm-up a twentieth of it.

    Raises:
        FalllineError: an unknown schedule or option, or a value out of its range.

    >>> build("warmup:epochs=1+cosine", total_steps=100, steps_per_epoch=10)(9)
    1.0
    """
    first, plus, then = spec.partition("+")
    if plus:
        head = build(first, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        if not isinstance(head, Schedule) or head.name != "warmup" or "+" in then or then.strip().startswith("plateau"):
            refuse("a schedule of two parts is 'warmup+NAME'", repr(spec), "'warmup+cosine' is usual")
        left = max(1, total_steps - (head.length or 0))
        tail = build(then, total_steps=left, steps_per_epoch=steps_per_epoch)
        return head >> tail if isinstance(tail, Schedule) else refuse("plateau stands alone", repr(spec))
    name, _, text = spec.strip().partition(":")
    maker = lookup("schedule", name, SCHEDULES)
    options = _parse(name, text)
    if name in ("polynomial", "cosine", "one_cycle"):
        options["total"] = max(1, total_steps)
    if name in _TIMES:
        usual = {"step": total_steps / 3, "exponential": steps_per_epoch, "warm_restarts": total_steps / 7, "warmup": total_steps / 20}
        given = options.pop(_TIMES[name], None)
        if given is not None and given <= 0:
            refuse(f"{_TIMES[name]} > 0 (epochs)", f"{given:g}", where=name)
        steps = round(given * steps_per_epoch) if given is not None else round(usual[name])
        options["steps" if name == "warmup" else _TIMES[name]] = max(1, steps)
    if name == "plateau" and "patience" in options:
        options["patience"] = int(options["patience"])
    return maker(**options)


def _parse(name: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        key = key.strip()
        if key not in _OPTIONS[name]:
            known = ", ".join(sorted(_OPTIONS[name])) or "none"
            raise FalllineError(f"schedule '{name}' has no option '{key}'; known: {known}.")
        try:
            options[key] = float(value)
        except ValueError:
            options[key] = math.nan
        must(math.isfinite(options[key]), f"option {key} is a number", repr(value), where=f"schedule {name}")
    return options
