"""Schedules by name, as the command line gives them: "cosine", "step:every=3,factor=0.5", "warmup:epochs=1+cosine".

Any number of parts: "warmup:epochs=1+constant:epochs=8+linear"; every part but the last has an end.
"""

import math
from collections.abc import Callable
from typing import Any

from fallline._core.errors import FalllineError, lookup, must, refuse
from fallline.optim.schedules._schedule import Schedule
from fallline.optim.schedules.constant import constant
from fallline.optim.schedules.cosine import cosine
from fallline.optim.schedules.cyclic import cyclic
from fallline.optim.schedules.exponential import exponential
from fallline.optim.schedules.inverse_root import inverse_root
from fallline.optim.schedules.linear import linear
from fallline.optim.schedules.one_cycle import one_cycle
from fallline.optim.schedules.plateau import Plateau
from fallline.optim.schedules.polynomial import polynomial
from fallline.optim.schedules.step import step
from fallline.optim.schedules.warm_restarts import warm_restarts
from fallline.optim.schedules.warmup import warmup
from fallline.optim.schedules.wsd import wsd

SCHEDULES: dict[str, Callable[..., Any]] = {
    "constant": constant,
    "step": step,
    "exponential": exponential,
    "linear": linear,
    "polynomial": polynomial,
    "inverse_root": inverse_root,
    "cosine": cosine,
    "warm_restarts": warm_restarts,
    "warmup": warmup,
    "one_cycle": one_cycle,
    "cyclic": cyclic,
    "wsd": wsd,
    "plateau": Plateau,
}
# what is given in epochs: option -> the maker's argument, and its usual value where it is left out, as a share of the run
_TIMES: dict[str, dict[str, tuple[str, float | None]]] = {
    "constant": {"epochs": ("total", None)},
    "step": {"every": ("every", 1 / 3)},
    "exponential": {"every": ("every", None)},
    "linear": {"epochs": ("total", 1)},
    "polynomial": {"epochs": ("total", 1)},
    "inverse_root": {"offset": ("offset", 1 / 20)},
    "cosine": {"epochs": ("total", 1)},
    "warm_restarts": {"period": ("period", 1 / 7)},
    "warmup": {"epochs": ("steps", 1 / 20)},
    "one_cycle": {"epochs": ("total", 1)},
    "cyclic": {"up": ("up", 1 / 10), "down": ("down", None)},
    "wsd": {"epochs": ("total", 1)},
    "plateau": {},
}
_OPTIONS = {
    "constant": set(),
    "step": {"factor"},
    "exponential": {"factor"},
    "linear": {"start", "end"},
    "polynomial": {"power", "end"},
    "inverse_root": set(),
    "cosine": {"end"},
    "warm_restarts": {"mult", "end"},
    "warmup": {"start"},
    "one_cycle": {"peak", "start", "end"},
    "cyclic": {"low", "shrink", "gamma"},
    "wsd": {"up", "decay", "power", "end"},
    "plateau": {"factor", "patience", "threshold", "end"},
}


def build(spec: str, *, total_steps: int, steps_per_epoch: int = 1) -> Schedule | Plateau:
    """The schedule that `spec` names, for a run of `total_steps`.

    Times in `spec` (`every`, `period`, `epochs`, `offset`, `up`, `down`) are in epochs of `steps_per_epoch` steps, fractions allowed. Left
    out: `every` is a third of the run for step and one epoch for exponential, `period` a seventh of the run, warm-up a twentieth of it
    (and so is `offset`, unless a warm-up came before), `up` a tenth; the last part takes what is left of the run.

    Raises:
        FalllineError: an unknown schedule or option, a value out of its range, or a part without an end before another one.

    >>> build("warmup:epochs=1+cosine", total_steps=100, steps_per_epoch=10)(9)
    1.0
    >>> build("warmup:epochs=1+constant:epochs=5+linear", total_steps=100, steps_per_epoch=10)(80)
    0.5
    """
    *heads, last = spec.split("+")
    whole, gone = None, 0
    for text in heads:
        name, times, options = _read(text, steps_per_epoch)
        ends = name == "warmup" or "total" in times
        must(ends and name != "plateau", "every part but the last says where it ends", repr(spec), "'warmup+cosine' is usual")
        part = _make(name, times, options, total_steps, gone, steps_per_epoch)
        assert isinstance(part, Schedule)
        whole = part if whole is None else whole >> part
        gone += part.length or 0
    name, times, options = _read(last, steps_per_epoch)
    tail = _make(name, times, options, max(1, total_steps - gone), gone, steps_per_epoch)
    if whole is None:
        return tail
    return whole >> tail if isinstance(tail, Schedule) else refuse("plateau stands alone", repr(spec))


def epochs_named(spec: str) -> float:
    """Epochs that a run needs so that every time which the spec names lies in it; 0 where it names none.

    >>> epochs_named("warmup:epochs=2+constant:epochs=5+linear"), epochs_named("step:every=3"), epochs_named("cosine")
    (7.0, 3.0, 0.0)
    """
    gone, most = 0.0, 0.0
    for part in spec.split("+"):
        name, _, tail = part.strip().partition(":")
        given = {key.strip(): value for key, _, value in (option.partition("=") for option in tail.split(","))}
        times = {key: float(given[key]) for key in _TIMES.get(name, {}) if key in given}
        most = max(most, gone + max(times.values(), default=0.0))
        gone += times.get("epochs", 0.0)
    return most


def _make(name: str, times: dict[str, int], options: dict[str, Any], total: int, gone: int, steps_per_epoch: int) -> Schedule | Plateau:
    """One part; `total`: steps that are left, `gone`: steps before it."""
    for argument, share in _TIMES[name].values():
        if share is not None and argument not in times:
            times[argument] = gone if argument == "offset" and gone else max(1, round(share * total))
    if name == "exponential":
        times.setdefault("every", max(1, steps_per_epoch))
    if name == "plateau" and "patience" in options:
        options["patience"] = int(options["patience"])
    return SCHEDULES[name](**times, **options)


def _read(text: str, steps_per_epoch: int) -> tuple[str, dict[str, int], dict[str, Any]]:
    """The name, what is given in epochs (as steps), and the other options."""
    name, _, tail = text.strip().partition(":")
    lookup("schedule", name, SCHEDULES)
    times: dict[str, int] = {}
    options: dict[str, Any] = {}
    known = {*_OPTIONS[name], *_TIMES[name]}
    for part in filter(None, tail.split(",")):
        key, _, value = part.partition("=")
        key = key.strip()
        if key not in known:
            raise FalllineError(f"schedule '{name}' has no option '{key}'; known: {', '.join(sorted(known)) or 'none'}.")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        must(math.isfinite(number), f"option {key} is a number", repr(value), where=f"schedule {name}")
        if key in _TIMES[name]:
            must(number > 0, f"{key} > 0 (epochs)", f"{number:g}", where=name)
            times[_TIMES[name][key][0]] = max(1, round(number * steps_per_epoch))
        else:
            options[key] = number
    return name, times, options
