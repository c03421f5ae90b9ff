"""A table of batch size against epochs in words: for a terminal, and the call that repeats it."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fallline import record
from fallline.study.models import spoken
from fallline.study.table_plan import TablePlan
from fallline.training import Settings

if TYPE_CHECKING:
    from fallline.study.table import TableResult


def table_text(result: "TableResult") -> str:
    """Table, headline and what must be known to read it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    cells = result.cells
    key = record.key(cells[0]["metric"])
    lengths = list(dict.fromkeys(cell["epochs"] for cell in cells))
    beside = any(cell["published"] is not None for cell in cells)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("batch size", no_wrap=True)
    for epochs in lengths:
        table.add_column(f"{epochs} epoch{'s' if epochs > 1 else ''} [95 %]", justify="right", no_wrap=True)
        if beside:
            table.add_column("published", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for batch in dict.fromkeys(cell["batch_size"] for cell in cells):
        mine = {cell["epochs"]: cell for cell in cells if cell["batch_size"] == batch}
        row = ["full" if batch == "full" else str(batch)]
        for epochs in lengths:
            row.append(cell_text(mine[epochs]))
            if beside:
                row.append(published_text(mine[epochs]))
        last = mine[lengths[-1]]
        seconds = "-" if last["seconds"] is None else f"{last['seconds']:.1f} s"
        table.add_row(*row, str(last["seeds"]), seconds)
    stream = io.StringIO()
    Console(file=stream, width=170, no_color=True).print(table)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    percent = ", in percent" if key.unit == "fraction" else ""
    legend = f"Mean test {key.label}{percent}, with its 95 % interval over seeds; time: of one training to its end."
    return "\n".join([*lines, f"{result.headline}.", legend, *(f"{note[0].upper()}{note[1:]}." for note in result.notes)])


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
    """The published value of a cell, with a word where it lies outside the widened interval."""
    if cell["published"] is None:
        return "-"
    outside = " (outside)" if cell["published_within"] is False else ""
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
