"""What a study is asked to do, checked once, as JSON: optimizers, where their learning rates are looked for, batch sizes, seeds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fallline import optim
from fallline._core.errors import FalllineError, lookup, must
from fallline._core.number import Number
from fallline.training import Settings

BatchSize = int | Literal["full"]
Rates = str | float | Sequence[float] | Mapping[str, Any]

_RATE = Number("lr", 0, open_low=True, usual="0.001 to 0.1")
COARSE = 5  # rates of the first look, evenly apart in ratio
FINE = 4  # rates beside the best one: two at half the ratio, then two at a quarter
GROW = 3  # more rates outward, while the best stands at the edge


@dataclass(frozen=True)
class Plan:
    """A study before it runs. Immutable and JSON-able.

    Args:
        optimizers: specs, each once.
        rates: for each optimizer the rates that are tried first; a single one is taken as it is.
        auto: whether the search goes on beside the best rate and beyond the edge; False tries the rates of `rates` only.
        batch_sizes: a further factor: every optimizer is searched and judged at each.
        seeds: of the members that are compared.
        search_seed: of the trials of the search; not among `seeds`.
        metric: that ranks, on validation rows, at the weights that are kept.
        target: "auto" or the validation metric to reach.
        settings: what holds for every member; its optimizer, lr, batch_size and seed are not read.
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
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FalllineError(f"the study's settings are damaged: {type(error).__name__}: {error}.") from error

    @property
    def cells(self) -> list[tuple[str, BatchSize]]:
        """What is ranked: every optimizer at every batch size."""
        return [(optimizer, batch) for optimizer in self.optimizers for batch in self.batch_sizes]

    @property
    def searched(self) -> bool:
        """Whether any learning rate is looked for."""
        return any(self.trials(name) for name in self.optimizers)

    def trials(self, optimizer: str) -> int:
        """Trials that the search spends on an optimizer, growth beyond the edge left out."""
        rates = self.rates[optimizer]
        return COARSE + FINE if self.auto[optimizer] else (len(rates) if len(rates) > 1 else 0)

    def settings_of(self, optimizer: str, batch: BatchSize, lr: float, seed: int) -> Settings:
        """The settings of one member."""
        return dataclasses.replace(self.settings, optimizer=optimizer, batch_size=batch, lr=lr, seed=seed)

    def name_of(self, optimizer: str, batch: BatchSize, lr: float, seed: int, *, search: bool = False) -> str:
        """What a member is called in the record.

        Examples: "adam/lr=0.001/seed=0", "adam/search/lr=0.01", "adam/batch=32/lr=0.001/seed=0".
        """
        words = [label(optimizer)]
        if len(self.batch_sizes) > 1:
            words.append(f"batch={batch}")
        words += ["search", f"lr={lr:g}"] if search else [f"lr={lr:g}", f"seed={seed}"]
        return "/".join(words)


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
    seeds: int | Sequence[int] = 5,
    metric: str,
    metrics: Sequence[str],
    target: float | str = "auto",
    settings: Settings,
) -> Plan:
    """Check what a study is asked to do.

    Args:
        optimizers: specs ("adam", "rmsprop:alpha=0.9").
        lrs: "auto": a search of equal budget for each; a number for all; a list to choose from, for all; or for each its own, by spec.
        batch_sizes: numbers or "full".
        seeds: how many (0, 1, ...), or which.
        metric: that ranks.
        metrics: those that there are for the task.
        target: "auto" or a number.
        settings: what holds for every member.

    Raises:
        FalllineError: an unknown or repeated optimizer, a rate, seed or batch size out of its range, an unknown metric.
    """
    names = tuple(dict.fromkeys(optimizers))
    must(len(names) > 0, "there is at least one optimizer", "none", "adam,sgd is an example", where="compare")
    must(len(names) == len(optimizers), "each optimizer is named once", ", ".join(optimizers), where="compare")
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
    rates = {name: _rates(wanted[name], presets[name].lr_range) for name in names}
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    must(len(numbers) > 0, "there is at least one seed", "none", "5 is usual", where="compare")
    must(len(set(numbers)) == len(numbers), "each seed is named once", list(numbers), where="compare")
    must(all(isinstance(s, int) and not isinstance(s, bool) for s in numbers), "a seed is a whole number", list(numbers), where="compare")
    batches = tuple(batch_sizes)
    must(len(batches) > 0 and len(set(batches)) == len(batches), "each batch size is named once", list(batches), "32 is usual")
    for batch in batches:
        dataclasses.replace(settings, batch_size=batch)
    lookup("metric of this task", metric, dict.fromkeys(metrics))
    goal: float | Literal["auto"] = "auto"
    if target != "auto":
        goal = Number("target", usual="auto").check(target)  # pyright: ignore[reportArgumentType]
    auto = {name: isinstance(wanted[name], str) for name in names}
    return Plan(names, rates, auto, batches, numbers, max(numbers) + 1, metric, goal, settings)


def ladder(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` rates from low to high, evenly apart in ratio, rounded to three digits.

    >>> ladder(1e-5, 0.1, 5)
    (1e-05, 0.0001, 0.001, 0.01, 0.1)
    """
    return tuple(rounded(low * (high / low) ** (i / (count - 1))) for i in range(count))


def rounded(rate: float) -> float:
    """A rate with three significant digits, so that its name in the record is the rate itself."""
    return float(f"{rate:.3g}")


def _rates(wanted: Any, usual: tuple[float, float]) -> tuple[float, ...]:
    if isinstance(wanted, str):
        must(wanted == "auto", "lrs is 'auto', a rate, a list of rates, or one of these for each optimizer", repr(wanted))
        return ladder(*usual, COARSE)
    given = tuple(wanted) if isinstance(wanted, Sequence) else (wanted,)
    must(len(given) > 0, "there is at least one learning rate", "none", "'auto' finds one")
    return tuple(sorted({float(f"{_RATE.check(rate):g}") for rate in given}))


def target_text(target: float) -> float | None:
    """A target as JSON holds it: None where there is none."""
    return target if math.isfinite(target) else None
