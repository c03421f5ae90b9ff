"""A table of batch size against epochs in words: for a terminal, and the call that repeats it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fallline import record
from fallline._core.columns import Column, columns_text
from fallline.study.models import spoken
from fallline.study.table_plan import TablePlan
from fallline.training import Settings

if TYPE_CHECKING:
    from fallline.study.table import TableResult


def table_text(result: "TableResult") -> str:
    """Table, headline and what must be known to read it."""
    if not result.members:
        return "No training was finished, so the table is empty."
    cells = result.cells
    key = record.key(cells[0]["metric"])
    lengths = list(dict.fromkeys(cell["epochs"] for cell in cells))
    batches = list(dict.fromkeys(cell["batch_size"] for cell in cells))
    at = {(cell["batch_size"], cell["epochs"]): cell for cell in cells}
    spread = any(cell["low"] is not None for cell in cells)
    columns = [Column("batch size", ["full" if batch == "full" else str(batch) for batch in batches], left=True)]
    for place, epochs in enumerate(lengths):
        head = f"{epochs} epoch{'s' if epochs > 1 else ''}{' [95 %]' if spread else ''}"
        columns.append(
            Column(head, [cell_text(at[batch, epochs]) for batch in batches], spare=place if 3 < len(lengths) > place + 1 else 0)
        )
        told = [published_text(at[batch, epochs]) if at[batch, epochs]["published"] is not None else "" for batch in batches]
        columns.append(Column("publ.", told))
    last = [at[batch, lengths[-1]] for batch in batches]
    seconds = ["-" if cell["seconds"] is None else f"{cell['seconds']:.1f} s" for cell in last]
    columns += [Column("seeds", [str(cell["seeds"]) for cell in last], spare=99), Column("time", seconds, spare=98)]
    percent = ", in percent" if key.unit == "fraction" else ""
    legend = f"Mean test {key.label}{percent}{', with its 95 % interval over seeds' if spread else ''}; time: of one training to its end."
    if any(cell["published"] is not None for cell in cells):
        legend += " publ.: as published; *: outside the interval widened by one point."
    said = [f"{result.headline}.", legend, *(f"{note[0].upper()}{note[1:]}." for note in result.notes)]
    return "\n".join([*columns_text(columns), "", *said])


def cell_text(cell: Mapping[str, Any]) -> str:
    """A cell as text: the mean, its interval, and how many runs diverged.

    >>> cell_text({"metric": "accuracy", "mean": 0.8771, "low": 0.8702, "high": 0.884, "diverged": 0, "seeds": 5})
    '87.71 [87.02, 88.40]'
    """
    if not cell["seeds"]:
        return "-"
    lost = f" ({cell['diverged']} of {cell['seeds']} diverged)" if cell["diverged"] else ""
    if cell["mean"] is None:
        return "diverged" if cell["diverged"] == cell["seeds"] else f"-{lost}"
    spread = "" if cell["low"] is None else f" [{value_text(cell['low'], cell['metric'])}, {value_text(cell['high'], cell['metric'])}]"
    return f"{value_text(cell['mean'], cell['metric'])}{spread}{lost}"


def published_text(cell: Mapping[str, Any]) -> str:
    """The published value of a cell, with a star where it lies outside the widened interval."""
    if cell["published"] is None:
        return "-"
    outside = "*" if cell["published_within"] is False else ""
    return f"{value_text(cell['published'], cell['metric'])}{outside}"


def value_text(value: float, metric: str) -> str:
    """A value of a metric: shares in percent, others with four digits.

    >>> value_text(0.5955, "accuracy"), value_text(0.5955, "r2")
    ('59.55', '0.5955')
    """
    return f"{100 * value:.2f}" if record.key(metric).unit == "fraction" else f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def python_call(model: Any, source: Mapping[str, Any], plan: TablePlan) -> str:
    """The Python call that makes the table again; where model or data were in memory, their names stand for them."""
    usual = {field.name: field.default for field in dataclasses.fields(Settings)}
    changed = {
        name: value
        for name, value in plan.settings.to_json().items()
        if name not in ("optimizer", "lr", "batch_size", "seed", "epochs", "keep") and value != usual[name]
    }
    options: dict[str, Any] = {
        "optimizer": plan.settings.optimizer,
        "lr": plan.settings.lr,
        "batch_sizes": list(plan.batch_sizes),
        "epochs": list(plan.epochs),
        "seeds": _seeds(plan.seeds),
        "metric": plan.metric,
        **changed,
    }
    load = [repr(source.get("source")), *(f"{k}={v!r}" for k, v in source.items() if k != "source" and v is not None)]
    data = f"data = fl.data.load({', '.join(load)})" if source else "data = ...  # the rows were given in memory"
    words = ",\n    ".join(f"{name}={value!r}" for name, value in options.items())
    name = repr(model) if isinstance(model, str) else spoken(model)
    return f"import fallline as fl\n\n{data}\ntable = fl.table(\n    data,\n    {name},\n    {words},\n)"


def _seeds(seeds: Sequence[int]) -> Any:
    return len(seeds) if list(seeds) == list(range(len(seeds))) else list(seeds)
