"""A table of batch size against epochs as a heat map: the mean of each cell, its interval, and what was published."""

import math
from typing import Any, NamedTuple

from fallline import record
from fallline.report.figures.intervals import interval_text
from fallline.report.figures.shapes import Table, numbers
from fallline.report.figures.source import Source, dig
from fallline.report.words import count, is_percent, label, metric


class Spot(NamedTuple):
    """One cell: its value (NaN: none), what stands in it in large letters, small lines under that, and more on demand."""

    value: float
    text: str
    small: list[str]
    title: str


class Heat(NamedTuple):
    """Cells in rows and columns; `low` and `high` are where the colour begins and where it is full."""

    name: str
    title: str
    x_label: str
    y_label: str
    columns: list[str]
    rows: list[str]
    spots: list[list[Spot]]
    low: float
    high: float
    says: str
    alt: str
    table: Table
    note: str = ""


def cells(reader: Source) -> list[dict[str, Any]]:
    """The cells of the table as run.json holds them; empty where there is none."""
    found = dig(reader.info, "result", "cells", default=[])
    return [dict(cell) for cell in found if isinstance(cell, dict)] if isinstance(found, list) else []


def main_key(found: list[dict[str, Any]]) -> str:
    """The metric in the cells."""
    return next((str(cell["metric"]) for cell in found if cell.get("metric")), "accuracy")


def heat_map(reader: Source) -> Heat | None:
    """The heat map of a table; None where no cell has been filled."""
    found = cells(reader)
    key = main_key(found)
    rows = list(dict.fromkeys(str(cell.get("cell")) for cell in found))
    lengths = list(dict.fromkeys(cell.get("epochs") for cell in found))
    at = {(str(cell.get("cell")), cell.get("epochs")): _spot(cell, key) for cell in found}
    nothing = Spot(math.nan, "–", [], "not run")
    spots = [[at.get((row, epochs), nothing) for epochs in lengths] for row in rows]
    known = [(spot.value, row, epochs) for (row, epochs), spot in at.items() if math.isfinite(spot.value)]
    if not known:
        return None
    lower = record.key(key).better == "lower"
    best = min(known, key=lambda one: one[0] if lower else -one[0])
    says = f"{'Lowest' if lower else 'Highest'} mean: {metric(key, best[0], 2)}, {best[1]} after {count(int(best[2] or 0), 'epoch')}."
    values = [value for value, _, _ in known]
    beside = any(cell.get("published") is not None for cell in found)
    note = f"Mean over seeds of {label(key)} on test rows; in brackets its 95 % interval."
    note += " Below it, one published run." if beside else ""
    columns = ["batch size", "epochs", "mean", "95 % interval", "seeds", "each seed", *(["published"] if beside else [])]
    return Heat(
        "table",
        f"{label(key)[0].upper()}{label(key)[1:]} on test rows",
        "epochs",
        "",
        [str(epochs) for epochs in lengths],
        rows,
        spots,
        max(values) if lower else min(values),
        min(values) if lower else max(values),
        says,
        f"Heat map of {label(key)}, batch sizes by epochs. {says}",
        Table(columns, [_numbers(cell, key, beside) for cell in found]),
        note,
    )


def _spot(cell: dict[str, Any], key: str) -> Spot:
    mean, low, high, published, lost, n = numbers(cell.get(k) for k in ("mean", "low", "high", "published", "diverged", "seeds"))
    small = []
    if math.isfinite(low) and math.isfinite(high):
        small.append(f"[{_short(key, low)}, {_short(key, high)}]")
    if math.isfinite(lost) and lost:
        small.append(f"{int(lost)} of {int(n)} diverged")
    if math.isfinite(published):
        small.append(f"published {_short(key, published)}{' (outside)' if cell.get('published_within') is False else ''}")
    values = ", ".join(metric(key, v, 2) for v in numbers(cell.get("values") or []) if math.isfinite(v))
    text = metric(key, mean, 2) if math.isfinite(mean) else "diverged" if lost else "–"
    return Spot(mean, text, small, f"each seed: {values}" if values else "no value")


def _short(key: str, value: float) -> str:
    return f"{100 * value:.1f}" if is_percent(key) else metric(key, value, 2)


def _numbers(cell: dict[str, Any], key: str, beside: bool) -> list[str]:
    mean, low, high, published = numbers(cell.get(k) for k in ("mean", "low", "high", "published"))
    each = ", ".join(metric(key, v, 2) if math.isfinite(v) else "diverged" for v in numbers(cell.get("values") or []))
    shown = [str(cell.get("cell")), str(cell.get("epochs")), metric(key, mean, 2) if math.isfinite(mean) else "–"]
    shown += [interval_text(key, low, high), str(cell.get("seeds", "–")), each or "–"]
    return [*shown, metric(key, published, 2) if math.isfinite(published) else "–"] if beside else shown
