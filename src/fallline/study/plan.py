"""What a study is asked to do, checked once, as JSON: optimizers, their learning rates, batch sizes, losses, schedules, seeds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fallline import optim
from fallline._core.errors import FalllineError, lookup, must
from fallline._core.number import Number
from fallline.training import Settings

BatchSize = int | Literal["full"]
Rates = str | float | Sequence[float] | Mapping[str, Any]

_BUDGET = Number("budget", 0, open_low=True, usual="600, in seconds")
_RATE = Number("lr", 0, open_low=True, usual="0.001 to 0.1")
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
        budget: seconds that the study may take, or None.
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
    """Check what a study is asked to do; what is asked twice is merged, and said in `notes`.

    Args:
        optimizers: specs ("adam", "rmsprop:alpha=0.9").
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
    names = _merged("optimizer", optimizers, "adam,sgd is an example", notes)
    presets = {name: optim.parse(name)[0] for name in names}
    if isinstance(lrs, Mapping):
        for name in lrs:
            lookup("optimizer in this study", str(name), dict.fromkeys(names))
    wanted = {name: lrs.get(name, "auto") if isinstance(lrs, Mapping) else lrs for name in names}
    for name in names:
        own = optim.split_rate(name)[1]
        if own is not None:
            free = lrs == "auto" or (isinstance(lrs, Mapping) and name not in lrs)
            must(free, f"the learning rate of {name} is given once", wanted[name], "leave it out of the optimizer or out of lrs")
            wanted[name] = own
    rates = {name: _rates(wanted[name], presets[name].lr_range, notes) for name in names}
    counted = isinstance(seeds, int) and not isinstance(seeds, bool)
    numbers = tuple(range(seeds)) if counted else _merged("seed", seeds, "5 is usual", notes)  # pyright: ignore[reportArgumentType]
    must(len(numbers) > 0, "there is at least one seed", "none", "5 is usual", where="compare")
    must(all(isinstance(s, int) and not isinstance(s, bool) for s in numbers), "a seed is a whole number", list(numbers), where="compare")
    batches = _merged("batch size", batch_sizes, "32 is usual", notes)
    for batch in batches:
        dataclasses.replace(settings, batch_size=batch)
    given = (settings.loss,) if losses is None else _merged("loss", losses, "mse,huber is an example", notes)
    ways = (settings.schedule,) if schedules is None else _merged("schedule", schedules, "constant,cosine is an example", notes)
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
    if budget is not None:
        budget = _BUDGET.check(budget)
    auto = {name: isinstance(wanted[name], str) for name in names}
    return Plan(names, rates, auto, batches, numbers, max(numbers) + 1, metric, goal, settings, given, ways, budget, tuple(notes))


def _merged(what: str, items: Sequence[Any], example: str, notes: list[str]) -> tuple[Any, ...]:
    """The items, each once; what stood there twice is said."""
    kept = list(dict.fromkeys(item.strip() if isinstance(item, str) else item for item in items))
    must(len(kept) > 0, f"there is at least one {what}", "none", example, where="compare")
    if len(kept) < len(items):
        twice = [str(item) for item in kept if sum(1 for other in items if other == item) > 1] or [str(items[-1])]
        notes.append(f"{what} {', '.join(twice)} was named more than once and is run once")
    return tuple(kept)


def ladder(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` rates from low to high, evenly apart in ratio, rounded to three digits.

    >>> ladder(1e-5, 0.1, 5)
    (1e-05, 0.0001, 0.001, 0.01, 0.1)
    """
    return tuple(rounded(low * (high / low) ** (i / (count - 1))) for i in range(count))


def rounded(rate: float) -> float:
    """A rate with three significant digits, so that its name in the record is the rate itself."""
    return float(f"{rate:.3g}")


def _rates(wanted: Any, usual: tuple[float, float], notes: list[str]) -> tuple[float, ...]:
    if isinstance(wanted, str):
        must(wanted == "auto", "lrs is 'auto', a rate, a list of rates, or one of these for each optimizer", repr(wanted))
        return ladder(*usual, COARSE)
    given = tuple(wanted) if isinstance(wanted, Sequence) else (wanted,)
    must(len(given) > 0, "there is at least one learning rate", "none", "'auto' finds one")
    kept = sorted({float(f"{_RATE.check(rate):g}") for rate in given})
    if len(kept) < len(given) and (said := "a learning rate was named more than once and is tried once") not in notes:
        notes.append(said)
    return tuple(kept)


def target_text(target: float) -> float | None:
    """A target as JSON holds it: None where there is none."""
    return target if math.isfinite(target) else None
