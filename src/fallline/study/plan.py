"""What a study is asked to do, checked once, as JSON: optimizers, their learning rates, batch sizes, losses, schedules, seeds."""

import dataclasses
import math
import numbers
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fallline import losses as catalog
from fallline import optim, record
from fallline._core.errors import FalllineError, lookup, must, refuse
from fallline._core.number import Number
from fallline.training import Settings

BatchSize = int | Literal["full"]
Rates = str | float | Sequence[float] | Mapping[str, Any]

_BUDGET = Number("budget", 0, open_low=True, usual="600, in seconds")
_RATE = Number("lr", 0, open_low=True, usual="0.001 to 0.1")
_LOSSES = "['mse', 'huber'] or ['cross_entropy', 'focal'] is an example; a loss of one's own goes alone, as loss=..."
COARSE = 5  # rates of the first look, evenly apart in ratio
FINE = 4  # rates beside the best one: two at half the ratio, then two at a quarter
GROW = 3  # more rates outward, while the best stands at the edge


class Cell(NamedTuple):
    """What is ranked: an optimizer at a batch size, with a loss and a schedule."""

    optimizer: str
    batch_size: BatchSize
    loss: str
    schedule: str


@dataclass(frozen=True)
class Plan:
    """A study before it runs. Immutable and JSON-able.

    Args:
        optimizers: specs, each once.
        rates: for each optimizer the rates that are tried first; a single one is taken as it is.
        auto: whether the search goes on beside the best rate; False tries the rates of `rates`, and beyond their edge only.
        batch_sizes: a further factor: every optimizer is searched and judged at each.
        losses: a further factor.
        schedules: a further factor.
        seeds: of the members that are compared.
        search_seed: of the trials of the search; not among `seeds`.
        metric: that ranks, on validation rows, at the weights that are kept.
        target: "auto" or the validation metric to reach.
        settings: what holds for every member; its optimizer, lr, batch_size, loss, schedule and seed are not read.
        budget: seconds that the study may take over all its sittings, or None.
        notes: what was changed in what was asked, in sentences.
        sizes: members in a block, as they were measured, by the shape that the block shares.
    """

    optimizers: tuple[str, ...]
    rates: dict[str, tuple[float, ...]]
    auto: dict[str, bool]
    batch_sizes: tuple[BatchSize, ...]
    seeds: tuple[int, ...]
    search_seed: int
    metric: str
    target: float | Literal["auto"]
    settings: Settings
    losses: tuple[str, ...] = ("auto",)
    schedules: tuple[str, ...] = ("constant",)
    budget: float | None = None
    notes: tuple[str, ...] = ()
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "settings": self.settings.to_json()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Plan":
        """The plan that `to_json` wrote.

        Raises:
            FalllineError: a field is missing: the study is damaged, or from another version.
        """
        try:
            return cls(
                tuple(fields["optimizers"]),
                {name: tuple(rates) for name, rates in fields["rates"].items()},
                dict(fields["auto"]),
                tuple(fields["batch_sizes"]),
                tuple(fields["seeds"]),
                fields["search_seed"],
                fields["metric"],
                fields["target"],
                Settings.from_json(fields["settings"]),
                tuple(fields.get("losses", (fields["settings"]["loss"],))),
                tuple(fields.get("schedules", (fields["settings"]["schedule"],))),
                fields.get("budget"),
                tuple(fields.get("notes", ())),
                dict(fields.get("sizes", {})),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FalllineError(f"the study's settings are damaged: {type(error).__name__}: {error}.") from error

    @property
    def cells(self) -> list[Cell]:
        """What is ranked: every optimizer at every batch size, with every loss and schedule."""
        return [
            Cell(optimizer, batch, loss, schedule)
            for optimizer in self.optimizers
            for batch in self.batch_sizes
            for loss in self.losses
            for schedule in self.schedules
        ]

    @property
    def searched(self) -> bool:
        """Whether any learning rate is looked for."""
        return any(self.trials(name) for name in self.optimizers)

    def trials(self, optimizer: str) -> int:
        """Trials that the search spends on an optimizer, growth beyond the edge left out."""
        rates = self.rates[optimizer]
        return COARSE + FINE if self.auto[optimizer] else (len(rates) if len(rates) > 1 else 0)

    @property
    def trainings(self) -> int:
        """Trainings that the study is made of, growth beyond the edge left out."""
        return sum(self.trials(cell.optimizer) + len(self.seeds) for cell in self.cells)

    def settings_of(self, cell: Cell, lr: float, seed: int) -> Settings:
        """The settings of one member."""
        own = {"optimizer": cell.optimizer, "batch_size": cell.batch_size, "loss": cell.loss, "schedule": cell.schedule}
        return dataclasses.replace(self.settings, **own, lr=lr, seed=seed)

    def name_of(self, cell: Cell, lr: float, seed: int, *, search: bool = False) -> str:
        """What a member is called in the record.

        Examples: "adam/lr=0.001/seed=0", "adam/search/lr=0.01", "adam/batch=32/loss=huber/lr=0.001/seed=0".
        """
        words = [label(cell.optimizer)]
        if len(self.batch_sizes) > 1:
            words.append(f"batch={cell.batch_size}")
        if len(self.losses) > 1:
            words.append(f"loss={label(cell.loss)}")
        if len(self.schedules) > 1:
            words.append(f"schedule={label(cell.schedule)}")
        words += ["search", f"lr={lr:g}"] if search else [f"lr={lr:g}", f"seed={seed}"]
        return "/".join(words)

    def cell_name(self, cell: Cell) -> str:
        """What a cell is called in a table and in a sentence: its optimizer, and of the factors those that vary."""
        words = [label(cell.optimizer)]
        if len(self.batch_sizes) > 1:
            words.append("at full batch" if cell.batch_size == "full" else f"at batch size {cell.batch_size}")
        if len(self.losses) > 1:
            words.append(f"with {label(cell.loss)}")
        if len(self.schedules) > 1:
            words.append(f"under {label(cell.schedule)}")
        return " ".join(words)


def label(optimizer: str) -> str:
    """An optimizer's spec as a record and a table show it (a slash tells the parts of a name apart there).

    >>> label("adam:betas=0.8/0.99")
    'adam:betas=0.8|0.99'
    """
    return optimizer.replace("/", "|")


def make_plan(
    optimizers: Sequence[str],
    *,
    lrs: Rates = "auto",
    batch_sizes: Sequence[BatchSize] = (32,),
    losses: Sequence[str] | None = None,
    schedules: Sequence[str] | None = None,
    seeds: int | Sequence[int] = 5,
    metric: str,
    metrics: Sequence[str],
    target: float | str = "auto",
    settings: Settings,
    budget: float | None = None,
) -> Plan:
    """Check what a study is asked to do; what is asked twice, in whatever spelling, is merged, and said in `notes`.

    Args:
        optimizers: specs ("adam", "rmsprop:alpha=0.9"); the plan holds them as `optim.canonical` writes them.
        lrs: "auto": a search of equal budget for each; a number for all; a list to choose from, for all; or for each its own, by spec.
        batch_sizes: numbers or "full".
        losses: specs; None: the settings' one.
        schedules: specs; None: the settings' one.
        seeds: how many (0, 1, ...), or which.
        metric: that ranks.
        metrics: those that there are for the task.
        target: "auto" or a number.
        settings: what holds for every member.
        budget: seconds that the study may take.

    Raises:
        FalllineError: an empty list, an unknown optimizer, a rate, seed or batch size out of its range, an unknown metric.
    """
    notes: list[str] = []
    specs = [optim.canonical(spec) for spec in _specs("optimizers", optimizers, "['adam', 'sgd'] is an example")]
    names = _merged("optimizer", specs, "adam,sgd is an example", notes, _options)
    presets = {name: optim.parse(name)[0] for name in names}
    if isinstance(lrs, Mapping):
        lrs = {_known(spec, names): rates for spec, rates in lrs.items()}
        for name in lrs:
            lookup("optimizer in this study", str(name), dict.fromkeys(names))
    wanted = {name: lrs.get(name, "auto") if isinstance(lrs, Mapping) else lrs for name in names}
    for name in names:
        own = optim.split_rate(name)[1]
        if own is not None:
            free = (isinstance(lrs, str) and lrs == "auto") or (isinstance(lrs, Mapping) and name not in lrs)
            must(free, f"the learning rate of {name} is given once", wanted[name], "leave it out of the optimizer or out of lrs")
            wanted[name] = own
    rates = {name: _rates(wanted[name], presets[name].lr_range, notes) for name in names}
    starts = _seeds(seeds, notes)
    asked = _several("batch_sizes", batch_sizes, (str, numbers.Number), "[32, 'full'] is an example")
    sizes = [dataclasses.replace(settings, batch_size=batch).batch_size for batch in asked]
    batches = _merged("batch size", sizes, "32 is usual", notes)
    given, ways = (settings.loss,), (settings.schedule,)
    if losses is not None:
        named = [_loss(spec) for spec in _specs("losses", losses, _LOSSES)]
        given = _merged("loss", named, "mse,huber is an example", notes, _loss_options)
    if schedules is not None:
        wishes = _specs("schedules", schedules, "['constant', 'cosine'] is an example")
        ways = _merged("schedule", wishes, "constant,cosine is an example", notes, _options)
    settings = dataclasses.replace(settings, loss=given[0], schedule=ways[0])
    must(isinstance(metric, str), "metric is a name", repr(metric), f"{metrics[-1]} is one", where="compare")
    lookup("metric of this task", metric, dict.fromkeys(metrics))
    must(
        metric != "loss" or len(given) == 1,
        "losses are ranked by a metric that they share",
        "metric 'loss'",
        f"{metrics[-1]} is one",
        where="compare",
    )
    goal: float | Literal["auto"] = "auto"
    if target != "auto":
        goal = Number("target", usual="auto").check(target)  # pyright: ignore[reportArgumentType]
        _in_range(goal, metric)
    if budget is not None:
        budget = _BUDGET.check(budget)
    auto = {name: isinstance(wanted[name], str) for name in names}
    return Plan(names, rates, auto, batches, starts, max(starts) + 1, metric, goal, settings, given, ways, budget, tuple(notes))


def _merged(
    what: str, items: Sequence[Any], example: str, notes: list[str], alike: Callable[[Any], Hashable] = lambda item: item
) -> tuple[Any, ...]:
    """The items, each once; what stood there twice is said. `alike`: what two have in common that are one."""
    kept: dict[Hashable, Any] = {}
    twice: dict[str, None] = {}
    for item in items:
        if (key := alike(item)) in kept:
            twice[str(kept[key])] = None
        kept.setdefault(key, item)
    must(len(kept) > 0, f"there is at least one {what}", "none", example, where="compare")
    if twice:
        notes.append(f"{what} {', '.join(twice)} was named more than once and is run once")
    return tuple(kept.values())


def _several(what: str, given: Any, one: type | tuple[type, ...], example: str) -> list[Any]:
    """A list as it is, and a single item as a list of it."""
    if isinstance(given, one):
        return [given]
    must(isinstance(given, Iterable) and not isinstance(given, Mapping), f"{what}: a list of them", repr(given), example, where="compare")
    return list(given)


def _specs(what: str, given: Any, example: str) -> list[str]:
    specs = _several(what, given, str, example)
    wrong = [spec for spec in specs if not isinstance(spec, str)]
    must(not wrong, f"{what} are names with their options", _said(wrong[0]) if wrong else "", example, where="compare")
    return [spec.strip() for spec in specs]


def _said(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"a {type(thing).__name__}"


def _seeds(seeds: Any, notes: list[str]) -> tuple[int, ...]:
    """The seeds that are compared: so many, or those that are listed."""
    if isinstance(seeds, numbers.Integral) and not isinstance(seeds, bool):
        seeds = range(int(seeds))
    asked = _several("seeds", seeds, (), "5, or [0, 1, 2], is an example")
    whole = all(isinstance(seed, numbers.Integral) and not isinstance(seed, bool) and int(seed) >= 0 for seed in asked)
    must(whole, "a seed is a whole number >= 0", asked, "5, or [0, 1, 2], is an example", where="compare")
    return _merged("seed", [int(seed) for seed in asked], "5 is usual", notes)


def _known(spec: Any, names: Sequence[str]) -> str:
    """The optimizer of the study that a key of `lrs` means; the key itself where there is none."""
    try:
        wanted = _options(optim.canonical(str(spec)))
    except FalllineError:
        return str(spec)
    return next((name for name in names if _options(name) == wanted), str(spec))


def _options(spec: str) -> Hashable:
    """A spec as what it says: the same for any order of options and any spelling of numbers."""
    parts = [part.partition(":") for part in spec.split("+")]
    pairs = [[option.partition("=") for option in tail.split(",") if option.strip()] for _, _, tail in parts]
    said = [tuple(sorted((key.strip(), str(_number(text))) for key, _, text in some)) for some in pairs]
    return tuple(zip((name.strip() for name, _, _ in parts), said, strict=True))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _loss(spec: str) -> str:
    if spec == "auto":
        refuse(
            "each of losses is named",
            "'auto'",
            "auto stands for the loss that fits the task: write its name, such as cross_entropy or mse",
            where="compare",
        )
    return catalog.canonical(spec)


def _loss_options(spec: str) -> Hashable:
    cls, options = catalog.parse(spec)
    return cls, tuple(sorted((key, repr(value)) for key, value in options.items()))


def ladder(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` rates from low to high, evenly apart in ratio, rounded to three digits.

    >>> ladder(1e-5, 0.1, 5)
    (1e-05, 0.0001, 0.001, 0.01, 0.1)
    """
    return tuple(rounded(low * (high / low) ** (i / (count - 1))) for i in range(count))


def rounded(rate: float) -> float:
    """A rate with three significant digits, so that its name in the record is the rate itself."""
    return float(f"{rate:.3g}")


def _in_range(goal: float, metric: str) -> None:
    """Refuse a goal that the metric cannot reach, or that every run reaches."""
    key = record.key(metric)
    share = key.unit == "fraction"
    low = 0.0 if share or (key.better == "lower" and metric != "loss") else -math.inf
    high = 1.0 if share or metric == "r2" else math.inf
    ends = f"from {low:g} to {high:g}" if share else f"up to {high:g}" if math.isfinite(high) else f"from {low:g} on"
    if not low <= goal <= high:
        raise FalllineError(f"{key.label} goes {ends}, so no run would reach or miss {goal:g} by its merit; take a goal inside, or auto.")


def _rates(wanted: Any, usual: tuple[float, float], notes: list[str]) -> tuple[float, ...]:
    if isinstance(wanted, str):
        must(wanted == "auto", "lrs is 'auto', a rate, a list of rates, or one of these for each optimizer", repr(wanted))
        return ladder(*usual, COARSE)
    given = tuple(wanted) if isinstance(wanted, Iterable) else (wanted,)
    must(len(given) > 0, "there is at least one learning rate", "none", "'auto' finds one")
    kept = sorted({float(f"{_RATE.check(rate):g}") for rate in given})
    if len(kept) < len(given) and (said := "a learning rate was named more than once and is tried once") not in notes:
        notes.append(said)
    return tuple(kept)


def target_text(target: float) -> float | None:
    """A target as JSON holds it: None where there is none."""
    return target if math.isfinite(target) else None
