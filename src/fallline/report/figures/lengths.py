"""Curves of a table of batch size against epochs: for each batch size the mean over its seeds, in a band from the lowest to the highest.

The rings are published cells. Where each length was trained by itself, the curves are those of the longest.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from fallline import record
from fallline.report.figures.bands import band
from fallline.report.figures.heat import cells, main_key
from fallline.report.figures.loss import curve_table
from fallline.report.figures.members import seeds_said
from fallline.report.figures.shapes import Curves, Line, Mark, numbers
from fallline.report.figures.source import Source, points
from fallline.report.words import is_percent, label, listed, metric


class Run(NamedTuple):
    """What the name of a member says; `epochs` is 0 where one training gives all lengths."""

    run: str
    name: str
    epochs: int


def parse(run: str) -> Run:
    """A member from the name of its run.

    >>> parse("batch=32/seed=0"), parse("batch=full/epochs=5/seed=1").name
    (Run(run='batch=32/seed=0', name='batch 32', epochs=0), 'full batch')
    """
    words = dict(word.split("=", 1) for word in run.split("/") if "=" in word)
    batch, epochs = words.get("batch", ""), words.get("epochs", "0")
    return Run(run, "full batch" if batch == "full" else f"batch {batch}", int(epochs) if epochs.isdigit() else 0)


def longest(runs: Iterable[str]) -> dict[str, list[str]]:
    """The runs of each batch size, those of the longest training only."""
    found = [parse(run) for run in runs if run.startswith("batch=")]
    most = max((run.epochs for run in found), default=0)
    out: dict[str, list[str]] = {}
    for run in found:
        if run.epochs in (0, most):
            out.setdefault(run.name, []).append(run.run)
    return out


def length_curves(reader: Source, key: str, split: str) -> Curves | None:
    """One key on one split over epochs, a banded line for each batch size; None where nothing was recorded."""
    table = cells(reader)
    order = list(dict.fromkeys(str(cell.get("cell")) for cell in table))
    groups = longest(map(str, reader.runs()))
    lines: list[Line] = []
    most = 0
    for name in sorted(groups, key=lambda n: order.index(n) if n in order else len(order)):
        curves = [(found.epoch, found.value) for run in groups[name] if (found := points(reader, key, split, run))]
        if curves:
            most = max(most, len(curves))
            lines.append(band(name, [([round(x, 6) for x in xs], ys) for xs, ys in curves]))
    if not lines:
        return None
    where = "training" if split == "train" else split
    title = f"{label(key)[0].upper()}{label(key)[1:]}, {where} rows"
    marks = _published(table, key) if split == "test" and key == main_key(table) else []
    note = seeds_said(most) + (" Rings: published, one run each." if marks else "")
    ends = [(line.y[-1], line.name) for line in lines if line.y and math.isfinite(line.y[-1])]
    lower = record.key(key).better == "lower"
    best = min(ends, default=None) if lower else max(ends, default=None)
    says = f"At the end {best[1]} is {'lowest' if lower else 'highest'}, {metric(key, best[0], 2)}." if best else ""
    return Curves(
        f"{key}-{split}",
        title,
        "epoch",
        label(key),
        lines,
        marks,
        says,
        f"Line chart of {title} over epochs for {listed([line.name for line in lines])}. {says}",
        curve_table(lines, key),
        note,
        can_log=key == "loss" and all(v > 0 for line in lines for v in line.y if math.isfinite(v)),
        percent=is_percent(key),
    )


def _published(table: list[dict[str, object]], key: str) -> list[Mark]:
    out = []
    for cell in table:
        value, epochs = numbers([cell.get("published"), cell.get("epochs")])
        name = str(cell.get("cell"))
        if math.isfinite(value):
            out.append(Mark(epochs, value, f"published, {name}: {metric(key, value, 2)}", name, "best"))
    return out
