"""Everything that has a name: losses, optimizers, activations, schedules, penalties, metrics, with what each says of itself."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from fallline._core.entry import Entry, entry
from fallline._core.errors import FalllineError, nearest
from fallline.teach.digits import number

# what people also call it -> the name here
ALIASES = {
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy",
    "log_loss": "binary_cross_entropy",
    "ce": "cross_entropy",
    "categorical_cross_entropy": "cross_entropy",
    "sparse_categorical_cross_entropy": "cross_entropy",
    "negative_log_likelihood": "cross_entropy",
    "mean_squared_error": "mse",
    "mean_absolute_error": "mae",
    "mean_squared_logarithmic_error": "msle",
    "pinball": "quantile",
    "kl": "kl_divergence",
    "kullback_leibler": "kl_divergence",
    "swish": "silu",
    "gradient_descent": "sgd",
    "stochastic_gradient_descent": "sgd",
    "nag": "nesterov",
    "lasso": "l1",
    "ridge": "l2",
    "weight_decay": "l2",
    "elastic_net": "elastic",
    "reduce_on_plateau": "plateau",
    "reduce_lr_on_plateau": "plateau",
    "onecycle": "one_cycle",
    "cosine_annealing": "cosine",
    "auc": "roc_auc",
}


@dataclass(frozen=True)
class Setting:
    """One option of a concept: its name, its default as it is written, and what may stand there or what it means."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Concept:
    """An entry with what can be set and how it is written in Python and on the command line."""

    entry: Entry
    settings: tuple[Setting, ...]
    python: str
    command: str


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, int | float):
        return number(float(value)).replace("−", "-")
    return "/".join(_written(v) for v in value) if isinstance(value, tuple) else str(value)


def _from_signature(
    function: Callable[..., Any], doc: str, laws: dict[str, str], hidden: set[str], defaults: dict[str, Any]
) -> tuple[Setting, ...]:
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in hidden or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        default = defaults.get(name, parameter.default)
        shown = "(required)" if default is inspect.Parameter.empty else _written(default)
        told = re.search(rf"^\s+{name}: (.+)$", doc, re.MULTILINE)
        words = [told[1].rstrip(".").replace("`", "") if told else "", laws.get(name, "")]
        found.append(Setting(name, shown, "; ".join(w for w in words if w)))
    return tuple(found)


def _loss(name: str) -> Concept:
    from fallline import losses

    cls = losses.LOSSES[name]
    settings = []
    for key, option in cls.options.items():
        law = f" ({option.number.law})" if option.number else f" ({', '.join(option.choices)})" if option.choices else ""
        settings.append(Setting(key, _written(option.default), f"{option.doc}{law}"))
    own = [s.name for s in settings if s.name not in {"reduction", "normalize", "validate"} and cls.options[s.name].number]
    spec = f"{name}:{own[0]}={_written(cls.options[own[0]].default)}" if own else name
    command = f"fallline train DATA --loss {spec}" if cls.tasks else ""
    return Concept(losses.describe(name), tuple(settings), f"fl.losses.{cls.__name__}()(output, target)", command)


def _optimizer(name: str) -> Concept:
    from fallline import optim

    preset = optim.OPTIMIZERS[name]
    laws = {n.name: n.law for n in preset.make.numbers}
    defaults = {**preset.make.likes["torch"], **preset.fixed}
    settings = _from_signature(preset.make.__init__, preset.make.__doc__ or "", laws, {"self", "params"}, defaults)
    fixed = "".join(f", {k}={v}" for k, v in preset.fixed.items())
    python = f"fl.optim.{preset.make.__name__}(model.named_parameters(), lr={_written(preset.default_lr)}{fixed})"
    return Concept(optim.describe(name), settings, python, f"fallline train DATA --optimizer {name} --lr {_written(preset.default_lr)}")


def _activation(name: str) -> Concept:
    from fallline import activations

    return Concept(activations.describe(name), (), f'fl.activations.ACTIVATIONS["{name}"](x)', "")


def _schedule(name: str) -> Concept:
    from fallline.optim import schedules

    maker = schedules.SCHEDULES[name]
    module = inspect.getmodule(maker)
    laws = {n.name: "; ".join(w for w in (n.law, n.doc) if w) for n in vars(module).values() if type(n).__name__ == "Number"}
    settings = _from_signature(maker, maker.__doc__ or "", laws, set(), {})
    what = entry(name, "schedule", module.__doc__ if module else "")
    python = f'fl.optim.schedules.build("{name}", total_steps=1000, steps_per_epoch=100)'
    return Concept(what, settings, python, f"fallline train DATA --schedule {name}")


def _penalty(name: str) -> Concept:
    from fallline import penalties

    function = getattr(penalties, name)
    module = inspect.getmodule(function)
    told = entry(name, "penalty", module.__doc__ if module else "")
    first = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
    one = {"l1": "l1 = Σ |w|", "l2": "l2 = Σ w²", "elastic": "elastic = r Σ |w| + (1 − r) Σ w²"}[name]
    what = Entry(name, "penalty", first, one, told.when, told.when_not, told.source, told.departs, told.more)
    settings = _from_signature(function, "", {"ratio": "0 <= ratio <= 1"}, {"named_params", "only"}, {})
    command = "fallline train DATA --l1 0.0001 --l2 0.0001" if name == "elastic" else f"fallline train DATA --{name} 0.0001"
    return Concept(what, settings, f"fl.penalties.{name}(model.named_parameters())", command)


def _metric(name: str) -> Concept:
    from fallline.record.keys import KEYS

    key = KEYS[name]
    better = f"{key.better} is better" if key.better else "neither direction is better in itself"
    summary = f"{key.label}: {key.doc}."
    return Concept(Entry(name, "metric", summary, "", "", "", "", "", f"Unit: {key.unit}; {better}."), (), "", "")


_MAKERS: dict[str, Callable[[str], Concept]] = {
    "loss": _loss,
    "optimizer": _optimizer,
    "activation": _activation,
    "schedule": _schedule,
    "penalty": _penalty,
    "metric": _metric,
}
PLURALS = {
    "loss": "losses",
    "optimizer": "optimizers",
    "activation": "activations",
    "schedule": "schedules",
    "penalty": "penalties",
    "metric": "metrics",
}


@cache
def names() -> dict[str, str]:
    """Every name and its family; a name that two families have belongs to the first (`mae` is a loss before it is a metric)."""
    from fallline import activations, losses, optim
    from fallline.optim import schedules
    from fallline.record.keys import KEYS

    every = {
        "loss": losses.LOSSES,
        "optimizer": optim.OPTIMIZERS,
        "activation": activations.ACTIVATIONS,
        "schedule": schedules.SCHEDULES,
        "penalty": ("l1", "l2", "elastic"),
        "metric": KEYS,
    }
    found: dict[str, str] = {}
    for family, table in every.items():
        for name in table:
            if name not in PLURALS:  # "loss" lists the losses
                found.setdefault(name, family)
    return found


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def resolve(name: str) -> str:
    """The name as fallline writes it: `LeakyReLU`, `leaky-relu` and `BCEWithLogitsLoss` are understood.

    Raises:
        FalllineError: nothing has that name; the nearest names are offered.
    """
    known = names()
    plain = _plain(name)
    by_plain = {_plain(alias): real for alias, real in ALIASES.items() if real in known} | {_plain(k): k for k in known}
    for candidate in (plain, plain.removesuffix("loss"), plain.removesuffix("lr"), plain.removesuffix("penalty")):
        if candidate in by_plain:
            return by_plain[candidate]
    close = list(dict.fromkeys(by_plain[c] for c in nearest(plain, by_plain)))
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    raise FalllineError(f"nothing is called {name!r}; {hint}`fallline explain` lists every name.")


def concept(name: str) -> Concept:
    """What there is to say of a name, as `resolve` gave it."""
    return _MAKERS[names()[name]](name)
