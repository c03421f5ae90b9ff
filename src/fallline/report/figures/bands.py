"""Curves of a study: for each optimizer the mean over its seeds, in a band from the lowest seed to the highest.

A member that diverged takes part as long as its values are finite; where it stops, a cross is drawn, and the mean goes on with the
seeds that are left (said in the note).
"""

import math

from fallline import record
from fallline.report.figures.loss import curve_table
from fallline.report.figures.members import Member, members, seeds_said
from fallline.report.figures.shapes import Curves, Line, Mark, begun, ending, thin
from fallline.report.figures.source import Source, points
from fallline.report.words import count, is_percent, label, listed


def band(name: str, curves: list[tuple[list[float], list[float]]]) -> Line:
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
        return Line(name, name, at, mean)
    return Line(name, name, at, mean, [min(v, default=nan) for v in values.values()], [max(v, default=nan) for v in values.values()])


def study_curves(reader: Source, key: str, split: str) -> Curves | None:
    """One key on one split, a banded line for each series of the study; None where nothing was recorded."""
    lines: list[Line] = []
    marks: list[Mark] = []
    most_seeds, lost = 0, 0
    stopped: list[str] = []
    for name, group in members(reader).items():
        curves = [c for m in group if (c := _curve(reader, m, key, split))]
        if not curves:
            continue
        most_seeds = max(most_seeds, len(curves))
        line = band(name, curves)
        lines.append(line)
        ends = [end for xs, ys in curves if (end := ending(xs, ys))]
        lost += len(ends)
        if ends:
            stopped.append(name)
        marks += [Mark(x, y, f"{name}: a seed diverged here", name, "end") for x, y in ends]
    if not lines:
        return None
    where = "training" if split == "train" else split
    title = f"{label(key)[0].upper()}{label(key)[1:]}, {where} rows"
    says = _says(lines, key, stopped)
    note = seeds_said(most_seeds)
    if lost:
        note += f" A cross marks where one diverged ({count(lost, 'member')}); the mean goes on with the rest."
    return Curves(
        f"{key}-{split}",
        title,
        "epoch",
        label(key),
        lines,
        marks,
        says,
        f"Line chart of {title} over epochs for {listed([li.name for li in lines])}. {says}",
        curve_table(lines, key),
        note,
        can_log=key == "loss" and all(v > 0 for li in lines for v in li.y if math.isfinite(v)),
        percent=is_percent(key),
    )


def _curve(reader: Source, member: Member, key: str, split: str) -> tuple[list[float], list[float]] | None:
    found = points(reader, key, split, member.run)
    if found is None:
        return None
    x = found.epoch if all(map(math.isfinite, found.epoch)) else found.step
    x, y, _ = thin(*begun(x, found.value), 300)
    return [round(v, 6) for v in x], y


def _says(lines: list[Line], key: str, stopped: list[str]) -> str:
    better = record.key(key).better or "higher"
    sign = -1 if better == "higher" else 1
    ends = [(sign * line.y[-1], line.name) for line in lines if line.y and math.isfinite(line.y[-1])]
    says = f"At the end {min(ends)[1]} is {'highest' if better == 'higher' else 'lowest'}." if ends else ""
    if stopped:
        says += f" {listed(stopped)[0].upper()}{listed(stopped)[1:]} lost at least one seed to divergence."
    return says.strip()
