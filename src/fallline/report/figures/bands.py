"""Curves of a study: for each cell the mean over its seeds, in a band from the lowest seed to the highest (of ten seeds or more: the
middle 80 %).

A member that diverged takes part as long as its values are finite; where it stops, a cross is drawn, and the mean goes on with the
seeds that are left (said in the note).
"""

import math
from typing import NamedTuple

from fallline import record
from fallline.report.figures.loss import curve_table
from fallline.report.figures.members import MANY_SEEDS, Member, cells, facets, members, seeds_said, stranger
from fallline.report.figures.residuals import quantile
from fallline.report.figures.shapes import Curves, Line, Mark, begun, ending
from fallline.report.figures.source import Source, points
from fallline.report.words import count, is_percent, label, listed, number

POINTS = 1500  # of all lines of one measure, where these are many: a page must stay small
MANY = 12  # lines; from here on points are kept to four digits
Curve = tuple[list[float], list[float]]


def band(name: str, curves: list[Curve], series: str = "") -> Line:
    """Mean, lowest and highest of several curves (x, y) at every x that any of them has; NaN where none is finite.

    >>> line = band("adam", [([1, 2], [1.0, 2.0]), ([1, 2], [3.0, float("nan")])])
    >>> line.y, line.low, line.high
    ([2.0, 2.0], [1.0, 2.0], [3.0, 2.0])
    """
    at = sorted({x for xs, _ in curves for x in xs if math.isfinite(x)})
    values: dict[float, list[float]] = {x: [] for x in at}
    for xs, ys in curves:
        for x, y in zip(xs, ys, strict=True):
            if math.isfinite(y) and x in values:
                values[x].append(y)
    nan = math.nan
    mean = [sum(v) / len(v) if v else nan for v in values.values()]
    if len(curves) < 2:
        return Line(name, series or name, at, mean)
    low, high = (0.1, 0.9) if len(curves) >= MANY_SEEDS else (0.0, 1.0)
    ordered = [sorted(v) for v in values.values()]
    lows, highs = ([quantile(v, share) if v else nan for v in ordered] for share in (low, high))
    return Line(name, series or name, at, mean, lows, highs)


class _Held(NamedTuple):
    """A cell's curves, and the place where it stands."""

    name: str
    series: str
    facet: str
    curves: list[Curve]


def study_curves(reader: Source, key: str, split: str) -> list[Curves]:
    """One key on one split, a banded line for each cell; a picture for each facet, all on one axis. [] where nothing was recorded."""
    known = cells(reader)
    place = {cell.name: cell for cell in known}
    held = []
    for name, group in members(reader).items():
        cell = place.get(name, stranger(name, known))
        curves = [c for m in group if (c := _curve(reader, m, key, split))]
        if curves:
            held.append(_Held(name, cell.series, cell.facet, curves))
    if not held:
        return []
    most = 300 if len(held) <= MANY else max(12, POINTS // len(held))
    order = facets(known) if known else [""]
    rows = max(3, min(12, 150 // len(held))) if len(order) > 1 else 60
    made = [_figure([h for h in held if h.facet == facet], key, split, facet, (most, rows)) for facet in order]
    found = [figure for figure in made if figure is not None]
    return shared(found, apart=key == "loss") if len(order) > 1 else found


def _figure(held: list[_Held], key: str, split: str, facet: str, most: tuple[int, int]) -> Curves | None:
    lines: list[Line] = []
    marks: list[Mark] = []
    lost, stopped, left_out = 0, [], False
    for name, series, _, curves in held:
        line = band(series if facet else name, curves, series)
        kept = _chosen(line.x, most[0])
        left_out |= len(kept) < len(line.x)
        lines.append(_picked(line, kept, digits=17 if most[0] == 300 else 4))
        ends = [end for xs, ys in curves if (end := ending(xs, ys))]
        lost += len(ends)
        if ends:
            stopped.append(line.name)
        marks += [Mark(x, y, f"{line.name}: a seed diverged here", series, "end") for x, y in ends]
    if not lines:
        return None
    where = "training" if split == "train" else split
    title = f"{label(key)[0].upper()}{label(key)[1:]}, {where} rows"
    says = _says(lines, key, stopped)
    note = seeds_said(max(len(h.curves) for h in held))
    if left_out:
        note += f" Of the epochs, {number(max(len(line.x) for line in lines))} are drawn."
    if lost:
        note += f" A cross marks where one diverged ({count(lost, 'member')}); the mean goes on with the rest."
    return Curves(
        f"{key}-{split}",
        facet or title,
        "epoch",
        label(key),
        lines,
        marks,
        says,
        f"Line chart of {title}{f', {facet},' if facet else ''} over epochs for {listed([li.name for li in lines])}. {says}",
        curve_table(lines, key, most[1]),
        note,
        can_log=key == "loss" and all(v > 0 for li in lines for v in li.y if math.isfinite(v)),
        percent=is_percent(key),
    )


def shared(figures: list[Curves], *, apart: bool) -> list[Curves]:
    """The same figures on one y axis, from the lowest of all means to the highest.

    Args:
        figures: small pictures side by side, one a facet.
        apart: whether only facets of one loss share it (the values of two losses cannot be compared): those whose titles end alike.
    """

    def family(figure: Curves) -> str:
        return ", ".join(word for word in figure.title.split(", ") if "batch" not in word) if apart else ""

    values: dict[str, list[float]] = {}
    for figure in figures:
        drawn = [*(v for line in figure.lines for v in line.y), *(mark.y for mark in figure.marks)]
        values.setdefault(family(figure), []).extend(v for v in drawn if math.isfinite(v))
    return [f._replace(span=(min(values[family(f)]), max(values[family(f)])) if values[family(f)] else None) for f in figures]


def _chosen(x: list[float], most: int) -> list[int]:
    """Which points are drawn: all, or `most` evenly chosen, first and last among them."""
    if len(x) <= most:
        return list(range(len(x)))
    return sorted({round(i * (len(x) - 1) / (most - 1)) for i in range(most)})


def _picked(line: Line, kept: list[int], digits: int) -> Line:
    def some(values: list[float] | None) -> list[float] | None:
        return None if values is None else [float(f"{values[i]:.{digits}g}") for i in kept]

    return line._replace(x=[line.x[i] for i in kept], y=some(line.y) or [], low=some(line.low), high=some(line.high))


def _curve(reader: Source, member: Member, key: str, split: str) -> Curve | None:
    found = points(reader, key, split, member.run)
    if found is None:
        return None
    x = found.epoch if all(map(math.isfinite, found.epoch)) else found.step
    x, y = begun(x, found.value)
    return [round(v, 6) for v in x], y


def _says(lines: list[Line], key: str, stopped: list[str]) -> str:
    better = record.key(key).better or "higher"
    sign = -1 if better == "higher" else 1
    ends = [(sign * line.y[-1], line.name) for line in lines if line.y and math.isfinite(line.y[-1])]
    says = f"At the end {min(ends)[1]} is {'highest' if better == 'higher' else 'lowest'}." if ends else ""
    if stopped:
        says += f" {listed(stopped)[0].upper()}{listed(stopped)[1:]} lost at least one seed to divergence."
    return says.strip()
