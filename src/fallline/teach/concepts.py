"""Everything that has a name: losses, optimizers, wrappers, activations, schedules, penalties, metrics, with what each says of itself."""

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from fallline._core.entry import Entry, entry
from fallline._core.errors import FalllineError, nearest
from fallline.losses._names import ELSEWHERE, plain
from fallline.teach.beside import BESIDE
from fallline.teach.digits import number
from fallline.teach.known import found
from fallline.teach.variants import Variants, variants

# what people also call what is no loss of one task -> the name here; the losses' other names stand in fallline.losses._names
ALIASES = {
    "multitask": "multi_task",
    "kendall": "uncertainty",
    "batch_hard_miner": "batch_hard",
    "distance_weighted_miner": "distance_weighted",
    "xbm": "cross_batch_memory",
    "swish": "silu",
    "gradient_descent": "sgd",
    "stochastic_gradient_descent": "sgd",
    "nag": "nesterov",
    "heavy_ball": "momentum",
    "sophia": "sophia_g",
    "schedule_free": "schedule_free_adamw",
    "newton_raphson": "newton",
    "exponential_moving_average": "ema",
    "stochastic_weight_averaging": "swa",
    "adaptive_gradient_clipping": "agc",
    "gradient_accumulation": "accumulate",
    "lasso": "l1",
    "ridge": "l2",
    "weight_decay": "l2",
    "elastic_net": "elastic",
    "reduce_on_plateau": "plateau",
    "reduce_lr_on_plateau": "plateau",
    "onecycle": "one_cycle",
    "cosine_annealing": "cosine",
    "cosine_annealing_warm_restarts": "warm_restarts",
    "sgdr": "warm_restarts",
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
    """An entry with what can be set, how it is written in Python and on the command line, its names elsewhere, and what tells its forms."""

    entry: Entry
    settings: tuple[Setting, ...]
    python: str
    command: str
    elsewhere: tuple[str, ...] = ()
    forms: Callable[[], Variants | None] = lambda: None
    takes: str = ""


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, int | float):
        return number(float(value)).replace("−", "-")
    return "/".join(_written(v) for v in value) if isinstance(value, tuple) else str(value)


def _from_signature(
    function: Callable[..., Any], doc: str, laws: dict[str, str], hidden: set[str], defaults: dict[str, Any]
) -> tuple[Setting, ...]:
    settings = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in hidden or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        default = defaults.get(name, parameter.default)
        shown = "(required)" if default is inspect.Parameter.empty else _written(default)
        words = [_argument(doc, name).rstrip(".").replace("`", ""), laws.get(name, "")]
        settings.append(Setting(name, shown, "; ".join(w for w in words if w)))
    return tuple(settings)


def _argument(doc: str, name: str) -> str:
    """What a docstring says of an argument, with the lines that go on."""
    told = re.search(rf"^( +){name}: (.+(?:\n\1 +.+)*)$", doc, re.MULTILINE)
    return re.sub(r"\s+", " ", told[2]) if told else ""


def _loss(name: str) -> Concept:
    from fallline import losses

    cls = losses.find(name)
    settings = []
    for key, option in cls.options.items():
        law = f" ({option.number.law})" if option.number else f" ({', '.join(option.choices)})" if option.choices else ""
        settings.append(Setting(key, _written(option.default), f"{option.doc}{law}"))
    own = [s.name for s in settings if s.name not in {"reduction", "normalize", "validate"} and cls.options[s.name].number]
    spec = f"{name}:{own[0]}={_written(cls.options[own[0]].default)}" if own else name
    command = f"fallline train DATA --loss {spec}" if cls.tasks else ""
    sizes = {"classes", "dim"} <= set(cls.options) and "classes=10, dim=64"
    sizes = "in_features, classes" if name in losses.FURTHER else sizes or ""
    python = f"fl.losses.{cls.__name__}({sizes})(output, target)"
    return Concept(losses.describe(name), tuple(settings), python, command, ELSEWHERE.get(name, ()), takes=_takes(cls))


def _takes(cls: type) -> str:
    """What the docstring of a loss says of input and target: its paragraphs, without lists and examples."""
    parts = (inspect.getdoc(cls) or "").split(">>>")[0].split("\n\n")
    told = [part for part in parts if not part.lstrip().startswith("- ") and not part.rstrip().endswith(":")]
    return re.sub(r"\s+", " ", " ".join(told)).strip()


def _beside(name: str) -> Concept:
    what = BESIDE[name]
    module = importlib.import_module(what.module)
    make = getattr(module, what.make) if what.make else None
    docs = "\n".join((getattr(make, "__doc__", None) or "", module.__doc__ or ""))
    settings = () if make is None else _from_signature(make, docs, {}, {"self", "embeddings", "labels"}, {})
    return Concept(entry(name, what.family, module.__doc__), settings, what.python, "")


def _rule(name: str) -> Concept:
    """An optimizer or a wrapper."""
    from fallline.optim import OPTIMIZERS

    what = found()[name.removesuffix("_wrapper")]
    preset = OPTIMIZERS.get(name)
    likes: dict[str, dict[str, Any]] = getattr(what.make, "likes", {})
    defaults = {**next(iter(likes.values()), {}), **what.fixed}
    laws = {n.name: n.law for n in getattr(what.make, "numbers", ())}
    settings = _from_signature(what.make, what.make.__doc__ or "", laws, {"self", "params", "like"}, defaults)
    if likes:
        settings += (Setting("like", _written(next(iter(likes))), f"{', '.join(likes)}: see the variants"),)
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(what.make).parameters.values()) and likes:
        settings += (Setting("...", "", "what every optimizer takes: engine, clip_norm, clip_value, l1, nonfinite, telemetry"),)
    fixed = "".join(f", {k}={v!r}" for k, v in what.fixed.items())
    rate = _written(defaults["lr"]) if "lr" in defaults else None
    python = f"{what.path}(model.named_parameters(), lr={rate}{fixed})" if rate else what.example()
    command = f"fallline train DATA --optimizer {name} --lr {_written(preset.default_lr)}" if preset else ""
    told = entry(name, what.family, what.told)
    if preset and preset.fixed:  # a name for settings of a class that has its own
        told = replace(told, summary=f"{preset.summary[:1].upper()}{preset.summary[1:]}.")
    return Concept(told, settings, python, command, what.elsewhere, lambda: variants(what.make, what.fixed, _written))


def _activation(name: str) -> Concept:
    from fallline import activations

    return Concept(activations.describe(name), (), f'fl.activations.ACTIVATIONS["{name}"](x)', "")


def _schedule(name: str) -> Concept:
    from fallline.optim import schedules

    made = found()[name]
    module = inspect.getmodule(made.make)
    laws = {n.name: "; ".join(w for w in (n.law, n.doc) if w) for n in vars(module).values() if type(n).__name__ == "Number"}
    settings = _from_signature(made.make, made.make.__doc__ or "", laws, set(), {})
    what = entry(name, "schedule", made.told)
    named = name in schedules.SCHEDULES
    python = f'fl.optim.schedules.build("{name}", total_steps=1000, steps_per_epoch=100)' if named else made.example()
    return Concept(what, settings, python, f"fallline train DATA --schedule {name}" if named else "", made.elsewhere)


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
    "loss": lambda name: _beside(name) if name in BESIDE else _loss(name),
    "weighting": _beside,
    "mining": _beside,
    "optimizer": _rule,
    "wrapper": _rule,
    "activation": _activation,
    "schedule": _schedule,
    "penalty": _penalty,
    "metric": _metric,
}
PLURALS = {
    "loss": "losses",
    "weighting": "weightings",
    "mining": "mining",
    "optimizer": "optimizers",
    "wrapper": "wrappers",
    "activation": "activations",
    "schedule": "schedules",
    "penalty": "penalties",
    "metric": "metrics",
}


@cache
def names() -> dict[str, str]:
    """Every name and its family; a name that two families have belongs to the first (`mae` is a loss before it is a metric).

    A wrapper whose name is taken (`l1` is a penalty) is found as `l1_wrapper`.
    """
    from fallline import activations, losses
    from fallline.record.keys import KEYS

    every = {
        "loss": (*losses.LOSSES, *losses.FURTHER, *_of_beside("loss")),
        "weighting": _of_beside("weighting"),
        "mining": _of_beside("mining"),
        "optimizer": _of("optimizer"),
        "activation": activations.ACTIVATIONS,
        "schedule": _of("schedule"),
        "penalty": ("l1", "l2", "elastic"),
        "wrapper": _of("wrapper"),
        "metric": KEYS,
    }
    out: dict[str, str] = {}
    for family, table in every.items():
        for name in table:
            if family == "wrapper" and name in out:
                out[f"{name}_wrapper"] = family
            elif name not in PLURALS:  # "loss" lists the losses
                out.setdefault(name, family)
    return out


def _of(family: str) -> tuple[str, ...]:
    return tuple(name for name, what in found().items() if what.family == family)


def _of_beside(family: str) -> tuple[str, ...]:
    return tuple(name for name, what in BESIDE.items() if what.family == family)


def resolve(name: str) -> str:
    """The name as fallline writes it: `LeakyReLU`, `leaky-relu`, `BCEWithLogitsLoss` and `torch.optim.RMSprop` are understood.

    Raises:
        FalllineError: nothing has that name; the nearest names are offered.
    """
    from fallline.losses.catalog import SPELLINGS

    known = names()
    if name.strip().lower() in known:
        return name.strip().lower()
    for what in found().values():  # fl.optim.wrappers.L1
        if name.strip() in {what.path, what.path.replace("fl.", "fallline.", 1)} and not what.fixed:
            taken = f"{what.name}_wrapper" if known.get(what.name) != what.family else what.name
            return taken
    word = plain(name.rpartition(".")[2] or name)
    by_plain = SPELLINGS | {plain(alias): real for alias, real in ALIASES.items() if real in known} | {plain(k): k for k in known}
    for candidate in (word, word.removesuffix("loss"), word.removesuffix("lr"), word.removesuffix("penalty")):
        if candidate in by_plain:
            return by_plain[candidate]
    close = list(dict.fromkeys(by_plain[c] for c in nearest(word, by_plain)))
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    raise FalllineError(f"nothing is called {name!r}; {hint}`fallline explain` lists every name.")


def concept(name: str) -> Concept:
    """What there is to say of a name, as `resolve` gave it."""
    return _MAKERS[names()[name]](name)
