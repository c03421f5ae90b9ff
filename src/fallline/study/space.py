"""Where a search looks: ranges and choices of every setting, some of them only where another was chosen.

A learning rate is looked for within the usual range of its optimizer, so its range depends on the optimizer that was drawn; momentum,
beta1, beta2, alpha and eps exist only where the optimizer has them. Momenta are drawn as 1 - momentum, evenly in its logarithm: 0.9 to 0.99
matters as much as 0.99 to 0.999 does.

Source: 1 - momentum and eps on a logarithmic scale, and each optimizer tuned within a range of its own: Choi, Shallue, Nado, Lee,
Maddison and Dahl, "On empirical comparisons of optimizers for deep learning", 2019, appendix D.
"""

import inspect
import math
import numbers
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fallline import optim
from fallline._core.errors import lookup, must, refuse
from fallline._core.number import Number
from fallline.optim import schedules
from fallline.study.plan import rounded
from fallline.training import Settings

OPTIMIZERS = ("adam", "adamw", "rmsprop", "momentum", "nesterov", "nadam", "sgd")
DROPOUTS = 6  # values of a range of dropout: members of one block share it
LEVELS = 3  # values of any other range in a grid

_NUMBERS = {
    "lr": Number("lr", 0, open_low=True, usual="1e-4 to 0.1"),
    "weight_decay": Number("weight_decay", 0, usual="1e-6 to 0.01"),
    "dropout": Number("dropout", 0, 1, open_high=True, usual="0 to 0.5"),
    "momentum": Number("momentum", 0, 1, open_high=True, usual="0.7 to 0.99"),
    "beta1": Number("beta1", 0, 1, open_high=True, usual="0.7 to 0.97"),
    "beta2": Number("beta2", 0, 1, open_high=True, usual="0.9 to 0.9999"),
    "alpha": Number("alpha", 0, 1, open_high=True, usual="0.7 to 0.999"),
    "eps": Number("eps", 0, open_low=True, usual="1e-10 to 1e-3"),
}
AVERAGES = ("momentum", "beta1", "beta2", "alpha")  # drawn as one minus the value
OWN = (*AVERAGES, "eps")  # options of the optimizer itself
_WRAPPERS = re.compile(r"\+(?=[a-zA-Z_])")  # not the plus of 1e+3
FACTORS = ("model", "optimizer", "lr", "batch_size", "schedule", "weight_decay", "dropout", "loss", *OWN)


class Range(NamedTuple):
    """Numbers from low to high, evenly or evenly in their logarithm, or only every `step`."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def levels(self, count: int) -> list[float]:
        """`count` numbers of the range evenly apart, its ends included; of a stepped one, all.

        >>> Range(1e-4, 1e-2, log=True).levels(3)
        [0.0001, 0.001, 0.01]
        """
        if self.step is not None:
            return [float(f"{self.low + i * self.step:.6g}") for i in range(1 + round((self.high - self.low) / self.step))]
        shares = [i / (count - 1) for i in range(1, count - 1)]
        if self.log:
            inner = [rounded(self.low * (self.high / self.low) ** s) for s in shares]
        else:
            inner = [rounded(self.low + (self.high - self.low) * s) for s in shares]
        return [self.low, *(min(max(v, self.low), self.high) for v in inner), self.high]  # rounding must not leave the range


Values = Range | tuple[Any, ...]
Suggest = Callable[[str, Values], Any]

_USUAL: dict[str, Values] = {
    "batch_size": (32, 128),
    "schedule": ("constant", "cosine", "warmup+cosine"),
    "weight_decay": Range(1e-6, 1e-2, log=True),
    "dropout": Range(0.0, 0.4, step=0.2),
    "momentum": Range(0.01, 0.3, log=True),
    "beta1": Range(0.03, 0.3, log=True),
    "beta2": Range(1e-4, 0.1, log=True),
    "alpha": Range(1e-3, 0.3, log=True),
    "eps": Range(1e-10, 1e-3, log=True),
}


class Point(NamedTuple):
    """One place in the space.

    Attributes:
        model: its spec.
        settings: what differs from the settings that hold for all.
        factors: what a table and a picture name: factor -> number or word.
    """

    model: str
    settings: dict[str, Any]
    factors: dict[str, Any]


@dataclass(frozen=True)
class Space:
    """All places in which a search looks. Immutable and JSON-able.

    Args:
        values: factor -> its range or choices; `lr` is absent where each optimizer has its usual range.
    """

    values: dict[str, Values]

    def to_json(self) -> dict[str, Any]:
        """Ranges and choices as plain values."""
        return {k: v._asdict() if isinstance(v, Range) else list(v) for k, v in self.values.items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Space":
        """The space that `to_json` wrote."""
        return cls({k: Range(**v) if isinstance(v, Mapping) else tuple(v) for k, v in fields.items()})

    @property
    def models(self) -> tuple[str, ...]:
        """Specs of the models."""
        return tuple(self.values["model"])

    def choices(self, factor: str) -> tuple[Any, ...]:
        """The choices of a factor that is not a range; () where it is not searched."""
        found = self.values.get(factor, ())
        return () if isinstance(found, Range) else tuple(found)

    def draw(self, suggest: Suggest) -> Point:
        """One place, asked for value by value: `suggest(name, values)` gives one of the values.

        A factor of a single value is not asked for.
        """

        def value(factor: str, name: str = "", values: Values | None = None) -> Any:
            wanted = self.values[factor] if values is None else values
            return wanted[0] if not isinstance(wanted, Range) and len(wanted) == 1 else suggest(name or factor, wanted)

        model = value("model")
        optimizer = value("optimizer")
        settings: dict[str, Any] = {}
        if "lr" in self.values:
            settings["lr"] = rounded(value("lr"))
        else:
            low, high = optim.parse(optimizer)[0].lr_range
            several = len({optim.parse(name)[0].lr_range for name in self.choices("optimizer")}) > 1
            settings["lr"] = rounded(value("lr", f"lr {low:g}..{high:g}" if several else "lr", Range(low, high, log=True)))
        for factor in ("batch_size", "schedule", "weight_decay", "dropout", "loss"):
            if factor in self.values:
                found = value(factor)
                settings[factor] = rounded(found) if isinstance(self.values[factor], Range) else found
        own: dict[str, float] = {}
        for factor in own_factors(optimizer):
            if factor in self.values:
                found = value(factor, f"1-{factor}" if factor in AVERAGES else "")
                own[factor] = rounded(found) if factor == "eps" else float(f"{1 - rounded(found):.6g}")
        settings["optimizer"] = with_options(optimizer, own)
        factors = {"model": model, "optimizer": optimizer, **{k: v for k, v in settings.items() if k != "optimizer"}, **own}
        return Point(model, settings, {k: v for k, v in factors.items() if k in FACTORS})

    def grid(self, levels: int = LEVELS) -> Iterator[dict[str, Any]]:
        """Every place, as the values that were suggested on the way to it; of a range, a few levels.

        >>> space = make_space({"optimizer": ["adam"], "lr": (0.001, 0.1), "batch_size": [32, 64], "schedule": ["constant"]}, only=True)
        >>> [tuple(place.values()) for place in space.grid()][:3]
        [(0.001, 32), (0.001, 64), (0.01, 32)]
        """
        path: list[list[Any]] = []  # of each question on the way: its name, its values, which one is next
        while True:
            asked: list[str] = []

            def suggest(name: str, values: Values, asked: list[str] = asked) -> Any:
                if len(asked) == len(path):
                    path.append([name, values.levels(levels) if isinstance(values, Range) else list(values), 0])
                _, known, at = path[len(asked)]
                asked.append(name)
                return known[at]

            self.draw(suggest)
            yield {name: known[at] for name, known, at in path}
            while path and path[-1][2] == len(path[-1][1]) - 1:
                path.pop()
            if not path:
                return
            path[-1][2] += 1

    def position(self, factor: str, factors: Mapping[str, Any]) -> float | str | None:
        """Where a place stands in one factor: a number, or a word; None where it does not have it.

        A learning rate is placed within the range of its optimizer, 0 to 1; other numbers on a logarithmic axis by their logarithm.
        """
        value = factors.get(factor)
        if value is None:
            return None
        if factor == "lr" and "lr" not in self.values:
            low, high = optim.parse(str(factors["optimizer"]))[0].lr_range
            return math.log(value / low) / math.log(high / low)
        if isinstance(self.values.get(factor), Range):
            if factor in AVERAGES:
                return math.log(1 - value)
            wanted = self.values[factor]
            return math.log(value) if isinstance(wanted, Range) and wanted.log else float(value)
        return str(value)


def own_factors(optimizer: str) -> tuple[str, ...]:
    """Which options of its own an optimizer has that can be searched; those that its spec sets are not.

    >>> own_factors("adam"), own_factors("momentum"), own_factors("rmsprop:alpha=0.9"), own_factors("sgd")
    (('beta1', 'beta2', 'eps'), ('momentum',), ('eps',), ())
    """
    preset = optim.parse(optimizer)[0]
    takes = inspect.signature(preset.make.__init__).parameters
    usual = next(iter(preset.make.likes.values()))
    said = set(re.findall(r"(\w+)\s*=", _WRAPPERS.split(optimizer)[0]))
    out: list[str] = []
    start = preset.fixed.get("momentum", takes["momentum"].default if "momentum" in takes else 0.0)
    if start and "momentum" not in said:
        out.append("momentum")
    if "betas" in takes and len(takes["betas"].default) == 2 and "betas" not in said:
        out += ["beta1", "beta2"]
    if "alpha" in usual and "alpha" not in said:
        out.append("alpha")
    if "eps" in takes and isinstance(usual.get("eps", takes["eps"].default), float) and usual.get("eps", 1.0) and "eps" not in said:
        out.append("eps")
    return tuple(out)


def with_options(optimizer: str, own: Mapping[str, float]) -> str:
    """The spec of an optimizer with options of its own.

    >>> with_options("adam", {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}), with_options("adam+ema", {})
    ('adam:betas=0.9/0.99,eps=1e-08', 'adam+ema')
    """
    words = {k: f"{v:.6g}" for k, v in own.items() if k not in ("beta1", "beta2")}
    if "beta1" in own or "beta2" in own:
        preset = optim.parse(optimizer)[0]
        first, second = inspect.signature(preset.make.__init__).parameters["betas"].default
        words = {"betas": f"{own.get('beta1', first):.6g}/{own.get('beta2', second):.6g}", **words}
    if not words:
        return optimizer
    base, *around = _WRAPPERS.split(optimizer)
    tail = ",".join(f"{k}={v}" for k, v in words.items())
    return "+".join([f"{base}{',' if ':' in base else ':'}{tail}", *around])


def make_space(given: Mapping[str, Any] | None = None, *, model: str = "mlp:128", loss: str = "auto", only: bool = False) -> Space:
    """The usual space, narrowed or widened by what is given.

    Args:
        given: factor -> a value; a list of choices; a pair (low, high) for a range of numbers; an Optuna distribution; or None: not
            searched. Factors are those of `FACTORS`; momenta and betas are given as they are (0.8 to 0.99).
        model: spec, where no models are given.
        loss: name, where no losses are given.
        only: search nothing but what is given.

    Raises:
        FalllineError: an unknown factor or optimizer, a range that is reversed or outside of what the factor can be, no choices.

    >>> make_space({"lr": (1e-4, 0.1)}).values["lr"]
    Range(low=0.0001, high=0.1, log=True, step=None)
    """
    wanted: dict[str, Any] = {"model": (model,), "optimizer": OPTIMIZERS, "loss": (loss,), **({} if only else _USUAL)}
    out: dict[str, Values] = {k: v if isinstance(v, Range) else tuple(v) for k, v in wanted.items()}
    for factor, value in (given or {}).items():
        lookup("factor of a search", factor, dict.fromkeys(FACTORS))
        if value is None:
            must(factor not in ("model", "optimizer", "loss"), f"{factor} has a value", "None", "name one, or leave it out")
            out.pop(factor, None)
        else:
            out[factor] = _values(factor, value)
    made = Space({k: out[k] for k in FACTORS if k in out})
    for name in made.choices("optimizer"):
        rate = optim.split_rate(name)[1]
        must(rate is None, "the learning rate is searched", f"{name!r}", "give it as lr instead", where="tune")
    for spec in made.choices("schedule"):
        schedules.build(spec, total_steps=100, steps_per_epoch=10)
    for batch in made.choices("batch_size"):
        Settings(batch_size=batch)
    return made


def _values(factor: str, given: Any) -> Values:
    """What the user gave for a factor as a range or choices, checked."""
    if type(given).__module__.startswith("optuna"):
        return _distribution(factor, given)
    number = _NUMBERS.get(factor)
    pair = isinstance(given, tuple) and len(given) == 2 and all(_is_number(v) for v in given)
    if number is not None and pair:
        low, high = number.check(given[0]), number.check(given[1])
        must(low < high, f"the range of {factor} goes from low to high", f"{low:g}..{high:g}", f"{number.usual} is usual", where="tune")
        if factor == "dropout":
            return Range(low, high, step=float(f"{(high - low) / (DROPOUTS - 1):.6g}"))
        if factor in AVERAGES:
            return Range(float(f"{1 - high:.6g}"), float(f"{1 - low:.6g}"), log=True)
        must(low > 0, f"the range of {factor} begins above 0", f"{low:g}", "it is searched by its logarithm", where="tune")
        return Range(low, high, log=True)
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    try:
        chosen = tuple(dict.fromkeys(several))
    except TypeError:
        refuse(f"choices of {factor} are names or numbers", repr(given), "list them: [32, 64]", where="tune")
    must(len(chosen) > 0, f"there is at least one choice of {factor}", "none", "leave it out for the usual ones", where="tune")
    if number is None:
        if factor == "optimizer":
            for name in chosen:
                must(isinstance(name, str), "an optimizer is a name", repr(name), "adam is an example", where="tune")
                optim.parse(name)
        return chosen
    checked = tuple(number.check(v) for v in chosen)  # pyright: ignore[reportArgumentType]
    if factor == "dropout" and len(checked) > 2:
        even = Range(checked[0], checked[-1], step=float(f"{(checked[-1] - checked[0]) / (len(checked) - 1):.6g}"))
        if checked[0] < checked[-1] and even.levels(len(checked)) == [float(f"{v:.6g}") for v in checked]:
            return even  # a sampler then knows that they stand in order
    return tuple(float(f"{1 - v:.6g}") for v in checked) if factor in AVERAGES else checked


def _distribution(factor: str, given: Any) -> Values:
    """An Optuna distribution as a range or choices of the factor."""
    choices = getattr(given, "choices", None)
    if choices is not None:
        return _values(factor, list(choices))
    low, high, log, step = given.low, given.high, given.log, given.step
    if factor == "batch_size":
        must(not log or step == 1, "batch sizes are choices", repr(given), "list them", where="tune")
        return _values(factor, [int(v) for v in range(int(low), int(high) + 1, int(step or 1))])
    number = _NUMBERS.get(factor)
    if number is None:
        refuse(f"{factor} is a list of choices", repr(given), where="tune")
    if factor in AVERAGES:
        return _values(factor, (low, high))
    for end in (low, high):
        number.check(end)
    must(low < high, f"the range of {factor} goes from low to high", f"{low:g}..{high:g}", where="tune")
    return Range(float(low), float(high), bool(log), step)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
