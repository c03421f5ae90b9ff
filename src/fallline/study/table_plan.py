"""What a table of batch size against epochs is asked to hold, checked once, as JSON; and which trainings give its cells.

With a rate that does not depend on how long the run is to be (a constant one), a run of 15 epochs passes through the run of 5: one
training gives a cell at each of its lengths. With any other schedule each length is trained by itself.
"""

import dataclasses
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fallline._core.errors import FalllineError, must
from fallline.optim import schedules
from fallline.population import Job
from fallline.study.plan import BatchSize
from fallline.training import Settings
from fallline.training.checks import batch_rows


@dataclass(frozen=True)
class TablePlan:
    """A table before it is filled. Immutable and JSON-able.

    Args:
        batch_sizes: rows of the table, each once.
        epochs: columns of the table, rising.
        seeds: of the members; seed s gives every batch size the same initial weights.
        metric: in the cells, on test rows.
        settings: what holds for every member; its batch_size, epochs and seed are not read.
        notes: what was changed in what was asked, in sentences.
        sizes: members in a block, as they were measured, by the shape that the block shares.
    """

    batch_sizes: tuple[BatchSize, ...]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    metric: str
    settings: Settings
    notes: tuple[str, ...] = ()
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "settings": self.settings.to_json()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "TablePlan":
        """The plan that `to_json` wrote.

        Raises:
            FalllineError: a field is missing: the record is damaged, or from another version.
        """
        try:
            lists = {name: tuple(fields[name]) for name in ("batch_sizes", "epochs", "seeds", "notes")}
            return cls(**lists, metric=fields["metric"], settings=Settings.from_json(fields["settings"]), sizes=dict(fields["sizes"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise FalllineError(f"the settings of the table are damaged: {type(error).__name__}: {error}.") from error

    def settings_of(self, batch: BatchSize, epochs: int, seed: int) -> Settings:
        """The settings of one member."""
        return dataclasses.replace(self.settings, batch_size=batch, epochs=epochs, seed=seed)

    def shared(self, batch: BatchSize, rows: int) -> bool:
        """Whether one training gives all lengths: its rate at every step is the one that the shorter runs would have."""
        steps = steps_of(batch, rows)
        whole, *shorter = (
            schedules.build(self.settings.schedule, total_steps=steps * epochs, steps_per_epoch=steps) for epochs in reversed(self.epochs)
        )
        ends = [steps * epochs for epochs in reversed(self.epochs)][1:]
        return all(each(step) == whole(step) for each, end in zip(shorter, ends, strict=True) for step in range(end))

    def jobs(self, rows: int) -> list[Job]:
        """All trainings: those of one batch size one after another, seed after seed.

        Args:
            rows: training rows.
        """
        out = []
        for batch in self.batch_sizes:
            shared = self.shared(batch, rows)
            for seed in self.seeds:
                for epochs in self.epochs[-1:] if shared else self.epochs:
                    name = f"batch={batch}/{'' if shared else f'epochs={epochs}/'}seed={seed}"
                    marks = tuple(range(1, epochs + 1)) if epochs == self.epochs[-1] else (epochs,)
                    out.append(Job(name, self.settings_of(batch, epochs, seed), test=False, marks=marks))
        return out


def make_table_plan(
    *,
    batch_sizes: Sequence[BatchSize],
    epochs: Sequence[int],
    seeds: int | Sequence[int],
    metric: str,
    settings: Settings,
    rows: int,
) -> TablePlan:
    """Check what a table is asked to hold; what is asked twice is merged, and that is noted.

    Args:
        batch_sizes: numbers or "full".
        epochs: lengths of training.
        seeds: how many (0, 1, ...), or which.
        metric: in the cells.
        settings: what holds for every member.
        rows: training rows.

    Raises:
        FalllineError: an empty list, a number out of its range, a batch size above the rows, a setting that a table cannot have.
    """
    notes: list[str] = []
    asked = _once(_listed(batch_sizes), "batch size", notes)
    must(len(asked) > 0, "there is at least one batch size", "none", "32,64,128,full is an example", where="a table")
    each = [dataclasses.replace(settings, batch_size=batch) for batch in asked]
    for one in each:
        batch_rows(one, rows)
    batches: list[Any] = [one.batch_size for one in each]
    if "full" in batches and rows in batches:
        batches.remove(rows)
        notes.append(f"batch size {rows} is the full batch and is run once")
    lengths = _once(_listed(epochs), "number of epochs", notes)
    must(len(lengths) > 0, "there is at least one number of epochs", "none", "5,10,15 is an example", where="a table")
    lengths = [dataclasses.replace(settings, epochs=length).epochs for length in lengths]
    numbers = _once(range(seeds) if isinstance(seeds, int) and _whole(seeds) else _listed(seeds), "seed", notes)
    must(len(numbers) > 0, "there is at least one seed", "none", "5 is usual", where="a table")
    must(all(map(_whole, numbers)), "a seed is a whole number", list(numbers), where="a table")
    must(settings.lr != "auto", "lr is a number in a table", "'auto'", "`fallline lr` finds one")
    must(settings.patience is None, "every run of a table trains all its epochs", f"patience={settings.patience}", "leave it out")
    return TablePlan(
        tuple(batches), tuple(sorted(lengths)), tuple(numbers), metric, dataclasses.replace(settings, keep="last"), tuple(notes)
    )


def steps_of(batch: BatchSize, rows: int) -> int:
    """Steps of an epoch."""
    return 1 if batch == "full" else math.ceil(rows / batch)


def batch_name(batch: BatchSize) -> str:
    """What a row of the table is called.

    >>> batch_name(32), batch_name("full")
    ('batch 32', 'full batch')
    """
    return "full batch" if batch == "full" else f"batch {batch}"


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]


def _once(given: Iterable[Any], what: str, notes: list[str]) -> list[Any]:
    """Each entry once, in the order of its first; what stood there twice is noted."""
    every: list[Hashable] = list(given)
    out = list(dict.fromkeys(every))
    twice = [entry for entry in out if every.count(entry) > 1]
    if twice:
        notes.append(f"{what} {', '.join(map(str, twice))} was asked for more than once and is run once")
    return out


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
