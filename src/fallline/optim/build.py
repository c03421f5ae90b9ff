"""Optimizers by name: what the command line, `fit` and `compare` call.

sgd, momentum, nesterov, adam, adamw, lion, muon, ... (`OPTIMIZERS`), each with options: `rmsprop:alpha=0.9,like=keras`
"""

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fallline._core.entry import Entry, entry
from fallline._core.errors import FalllineError, lookup, must
from fallline.optim import wrappers
from fallline.optim.inputs import DEFAULTS
from fallline.optim.optimizer import RATE, RuleOptimizer
from fallline.optim.rules.adabelief import AdaBelief
from fallline.optim.rules.adadelta import Adadelta
from fallline.optim.rules.adafactor import Adafactor
from fallline.optim.rules.adagrad import Adagrad
from fallline.optim.rules.adam import Adam
from fallline.optim.rules.adamax import Adamax
from fallline.optim.rules.adamw import AdamW
from fallline.optim.rules.adan import Adan
from fallline.optim.rules.asgd import ASGD
from fallline.optim.rules.lamb import LAMB
from fallline.optim.rules.lars import LARS
from fallline.optim.rules.lion import Lion
from fallline.optim.rules.muon import Muon
from fallline.optim.rules.nadam import NAdam
from fallline.optim.rules.prodigy import Prodigy
from fallline.optim.rules.radam import RAdam
from fallline.optim.rules.rmsprop import RMSprop
from fallline.optim.rules.rprop import Rprop
from fallline.optim.rules.schedule_free_adamw import ScheduleFreeAdamW
from fallline.optim.rules.schedule_free_sgd import ScheduleFreeSGD
from fallline.optim.rules.sgd import SGD
from fallline.optim.rules.shampoo import Shampoo
from fallline.optim.rules.soap import SOAP


@dataclass(frozen=True)
class Preset:
    """An optimizer by name: its class, what the name fixes, and where its learning rate is looked for."""

    make: type[RuleOptimizer]
    summary: str
    lr_range: tuple[float, float]
    fixed: dict[str, Any] = field(default_factory=dict)

    @property
    def default_lr(self) -> float:
        """The class's own default: that of torch where torch has the class, else the paper's."""
        return next(iter(self.make.likes.values()))["lr"]


OPTIMIZERS: dict[str, Preset] = {
    "sgd": Preset(SGD, "plain gradient descent", (1e-3, 10.0)),
    "momentum": Preset(SGD, "gradient descent with momentum 0.9", (1e-4, 1.0), {"momentum": 0.9}),
    "nesterov": Preset(SGD, "gradient descent with Nesterov's momentum 0.9", (1e-4, 1.0), {"momentum": 0.9, "nesterov": True}),
    "asgd": Preset(ASGD, "gradient descent that averages the weights it passes", (1e-3, 10.0)),
    "schedule_free_sgd": Preset(ScheduleFreeSGD, "gradient descent whose average replaces the schedule", (1e-3, 10.0)),
    "lars": Preset(LARS, "momentum with a rate for each tensor, for large batches", (1e-2, 1e2)),
    "rprop": Preset(Rprop, "a step for each weight, from the signs of full-batch gradients", (1e-5, 1e-1)),
    "adagrad": Preset(Adagrad, "steps that shrink with the sum of squared gradients", (1e-4, 1.0)),
    "adadelta": Preset(Adadelta, "steps in units of the parameter", (1e-2, 1e2)),
    "rmsprop": Preset(RMSprop, "gradient over its running root mean square", (1e-5, 1e-1)),
    "adam": Preset(Adam, "momentum over the root mean square, bias-corrected", (1e-5, 1e-1)),
    "amsgrad": Preset(Adam, "Adam with the largest mean square so far", (1e-5, 1e-1), {"amsgrad": True}),
    "adamw": Preset(AdamW, "Adam with decoupled weight decay", (1e-5, 1e-1)),
    "nadam": Preset(NAdam, "Adam that looks ahead", (1e-5, 1e-1)),
    "nadamw": Preset(NAdam, "NAdam with decoupled weight decay", (1e-5, 1e-1), {"decoupled_weight_decay": True, "weight_decay": 1e-2}),
    "adamax": Preset(Adamax, "Adam with the largest recent gradient", (1e-5, 1e-1)),
    "radam": Preset(RAdam, "Adam that waits until its root mean square can be trusted", (1e-5, 1e-1)),
    "adabelief": Preset(AdaBelief, "Adam over the distance of the gradient from its average", (1e-5, 1e-1)),
    "adan": Preset(Adan, "Adam with the change of the gradient", (1e-4, 1.0)),
    "lion": Preset(Lion, "the sign of a momentum", (3e-6, 3e-2)),
    "lamb": Preset(LAMB, "Adam with a length for each tensor, for large batches", (1e-4, 1.0)),
    "adafactor": Preset(Adafactor, "Adam's root mean square from rows and columns only", (1e-4, 1.0)),
    "schedule_free_adamw": Preset(ScheduleFreeAdamW, "AdamW whose average replaces momentum and schedule", (1e-5, 1e-1)),
    "prodigy": Preset(Prodigy, "Adam that estimates its own rate", (1e-1, 1e1)),
    "muon": Preset(Muon, "orthogonal steps for matrices, AdamW for the rest", (1e-4, 1.0), {"companion": "adamw"}),
    "shampoo": Preset(Shampoo, "steps scaled along the rows and columns of a matrix", (1e-4, 1.0)),
    "soap": Preset(SOAP, "Adam in Shampoo's eigenbasis", (1e-5, 1e-1)),
}


IN_A_SPEC = ("accumulate", "agc", "centralize", "ema", "lookahead", "swa")  # wrappers that need no closure, by the names of a spec
IN_PYTHON = {  # optimizers and wrappers that a spec cannot name, and what they need of whoever calls them
    **dict.fromkeys(("newton", "lbfgs", "sam", "asam"), "a closure that evaluates the loss anew"),
    **dict.fromkeys(("gauss_newton", "levenberg_marquardt"), "a closure that returns residuals"),
    "kfac": "the model itself",
    "sophia": "estimates of the Hessian from the training loop",
    "sparse_adam": "sparse gradients alone",
}
_CLASSES = {"lbfgs": "LBFGS", "sam": "SAM", "asam": "ASAM", "kfac": "KFAC", "sophia": "SophiaG"}
_LOOSE = re.compile(r"\+\s*(\+|$)")
_PLUS = re.compile(r"\+(?=[a-zA-Z_])")  # not the plus of 1e+3


def parse(spec: str) -> tuple[Preset, dict[str, Any]]:
    """The preset and the options that a spec names; its wrappers are looked at, too.

    Raises:
        FalllineError: an unknown name or option; the nearest ones are offered.

    >>> parse("rmsprop:alpha=0.9,like=keras+ema:decay=0.99")[1]
    {'alpha': 0.9, 'like': 'keras'}
    """
    if _LOOSE.search(spec):
        raise FalllineError(f"a wrapper's name is missing after the plus in {spec!r}; there are {', '.join(IN_A_SPEC)}, as in adam+ema.")
    spec, *around = _PLUS.split(spec)
    for each in around:
        kind, chosen = _wrapper(each)
        kind(SGD([torch.zeros(1)]), **chosen)  # refuses values out of their range
    name, _, tail = spec.partition(":")
    preset = _named(name.strip().lower())
    known = [p for p in inspect.signature(preset.make.__init__).parameters if p not in {"self", "params", "shared"}]
    known += [key for key in DEFAULTS if key not in {"engine", "differentiable", "capturable", "foreach", "fused", *known}]
    return preset, {**preset.fixed, **_options(name, tail, known, "weight_decay=0.01")}


def _named(name: str) -> Preset:
    """The preset of that name; of optimizers for Python alone, what they need."""
    if name in IN_PYTHON:
        cls = _CLASSES.get(name) or name.title().replace("_", "")
        needs = f"the optimizer {name!r} needs {IN_PYTHON[name]}, so it is for Python only"
        raise FalllineError(f"{needs}: fallline.optim.{cls}. By name there are {', '.join(sorted(OPTIMIZERS))}.")
    return lookup("optimizer", name, OPTIMIZERS)


def _wrapper(spec: str) -> tuple[type[wrappers.Wrapper], dict[str, Any]]:
    """The wrapper and the options that one part of a spec names."""
    name, _, tail = spec.partition(":")
    if name.strip().lower() in IN_PYTHON:
        _named(name.strip().lower())
    kind = lookup("wrapper in a spec", name.strip().lower(), {key: wrappers.WRAPPERS[key] for key in IN_A_SPEC})
    known = [p for p in inspect.signature(kind.__init__).parameters if p not in {"self", "optimizer", "buffers_of", "exclude"}]
    options = _options(name, tail, known, f"{known[0]}=5")
    needed = [p.name for p in inspect.signature(kind.__init__).parameters.values() if p.default is p.empty and p.name in known]
    for key in needed:
        must(key in options, f"{key} is given", f"{name!r}", f"write {name}:{key}=5", where=name)
    return kind, {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in options.items()}


def _options(name: str, tail: str, known: list[str], example: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, (x.strip() for x in tail.split(","))):
        key, equals, text = part.partition("=")
        if not equals:
            raise FalllineError(f"an option of {name} must be written key=value, but got {part!r}; for example {name}:{example}.")
        key = key.strip()
        lookup(f"option of {name}", key, dict.fromkeys(known))
        options[key] = _value(text.strip())
    return options


def split_rate(spec: str) -> tuple[str, float | None]:
    """A spec without its learning rate, and the rate; None where it names none.

    >>> split_rate("adam:lr=0.1,eps=1e-6"), split_rate("sgd")
    (('adam:eps=1e-6', 0.1), ('sgd', None))
    """
    _, options = parse(spec)
    spec, *around = _PLUS.split(spec)
    name, _, tail = spec.partition(":")
    rest = ",".join(part.strip() for part in tail.split(",") if part.partition("=")[0].strip() != "lr")
    rate = options.get("lr")
    return "+".join([f"{name}:{rest}" if rest else name, *around]), (None if rate is None else RATE.check(rate, where=name))


def canonical(spec: str) -> str:
    """The spec in one spelling: names in small letters, no spaces, numbers as short as they are; the order of the options stays.

    Raises:
        FalllineError: as `parse` does.

    >>> canonical(" RMSprop: alpha=.90, like=keras"), canonical("adam:eps=1e-06,betas=0.8/0.990+EMA:decay=0.99")
    ('rmsprop:alpha=0.9,like=keras', 'adam:eps=1e-6,betas=0.8/0.99+ema:decay=0.99')
    """
    parse(spec)
    out = []
    for part in _PLUS.split(spec):
        name, _, tail = part.partition(":")
        pairs = (option.partition("=") for option in filter(None, (x.strip() for x in tail.split(","))))
        options = {key.strip(): _written(_value(text.strip())) for key, _, text in pairs}
        given = ",".join(f"{key}={text}" for key, text in options.items())
        out.append(f"{name.strip().lower()}{':' if given else ''}{given}")
    return "+".join(out)


def _written(value: Any) -> str:
    """An option's value as text that `_value` reads as the same."""
    if isinstance(value, tuple):
        return "/".join(map(_written, value))
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    short = f"{value:g}"
    return re.sub(r"e([+-])0*", lambda found: f"e{found[1].strip('+')}", short if float(short) == value else repr(value))


def _value(text: str) -> Any:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if "/" in text:
        return tuple(_value(t) for t in text.split("/"))
    try:
        return float(text)
    except ValueError:
        return text


def build(
    spec: str,
    named_parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    engine: str = "auto",
    nonfinite: str = "raise",
) -> torch.optim.Optimizer:
    """An optimizer from its name; pairs are written with a slash, wrappers after a plus: `adam:betas=0.8/0.99+lookahead:k=5+ema`.

    Args:
        spec: name, with options after a colon.
        named_parameters: as `model.named_parameters()` gives them.
        lr: learning rate; the class's default if None.
        weight_decay: overrides the spec's.
        clip_norm: largest global norm of the gradient; the spec's own goes before it.
        engine: `auto`, `torch`, `numba` or `triton`.
        nonfinite: what a NaN or infinite gradient does: `raise`, `skip` or `allow`.

    Raises:
        FalllineError: an unknown name or option, or a number out of its range.

    >>> import torch
    >>> build("nesterov", torch.nn.Linear(2, 1).named_parameters(), lr=0.1).param_groups[0]["momentum"]
    0.9
    """
    preset, options = parse(spec)
    if lr is not None:
        options["lr"] = lr
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    settings: dict[str, Any] = {"nonfinite": nonfinite, "engine": engine, "clip_norm": clip_norm, **options}
    made: torch.optim.Optimizer = preset.make(named_parameters, **settings)
    for each in _PLUS.split(spec)[1:]:
        kind, chosen = _wrapper(each)
        made = kind(made, **chosen)
    return made


def describe(name: str) -> Entry:
    """What an optimizer says of itself; see `fallline explain`.

    >>> describe("adam").summary[:5]
    'Adam:'
    """
    preset = _named(name)
    return entry(name, "optimizer", inspect.getmodule(preset.make).__doc__)
