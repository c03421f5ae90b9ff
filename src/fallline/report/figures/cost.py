"""What a result costs: the metric of every member against the time that it took."""

import itertools
import math

from fallline.report.figures.bands import shared
from fallline.report.figures.intervals import main_metric
from fallline.report.figures.members import cells, facets, members, stranger
from fallline.report.figures.shapes import Curves, Line, Table
from fallline.report.figures.source import Points, Source, dig, points
from fallline.report.words import is_percent, label, listed, metric, seconds

_ALONE = "Mean over seeds. Members that were trained at the same time share the machine: compare the order, not the last digit."
_TOGETHER = "Mean over seeds. Members that were trained together share the time of their block; what is drawn is the share of one member."


def against_time(reader: Source) -> list[Curves]:
    """The metric over the seconds of training, mean over the seeds of each cell, a picture for each facet; [] without times."""
    split, key = main_metric(reader)
    known = cells(reader)
    place = {cell.name: cell for cell in known}
    lines: dict[str, list[Line]] = {}
    for name, group in members(reader).items():
        cell = place.get(name, stranger(name, known))
        line = _line(cell.series if cell.facet else name, cell.series, [p for m in group if (p := points(reader, key, split, m.run))])
        if line is not None:
            lines.setdefault(cell.facet, []).append(line)
    if not lines or all(max(line.x) <= 0 for found in lines.values() for line in found):
        return []
    note = _TOGETHER if dig(reader.info, "result", "notes") else _ALONE
    order = [facet for facet in (facets(known) if known else [""]) if facet in lines]
    made = [_figure(lines[facet], facet, split, key, note) for facet in order]
    return shared(made, apart=key == "loss") if len(order) > 1 else made


def _line(name: str, series: str, curves: list[Points]) -> Line | None:
    length = max((len(p.value) for p in curves), default=0)
    x, y = [], []
    untrained = length > 3 and all(p.epoch[0] == 0 for p in curves)
    for i in range(1 if untrained else 0, length):
        here = [
            (p.seconds[i], p.value[i]) for p in curves if len(p.value) > i and math.isfinite(p.seconds[i]) and math.isfinite(p.value[i])
        ]
        if here:
            x.append(sum(t for t, _ in here) / len(here))
            y.append(sum(v for _, v in here) / len(here))
    if not x or any(b < a for a, b in itertools.pairwise(x)):
        return None
    return Line(name, series, x, y)


def _figure(lines: list[Line], facet: str, split: str, key: str, note: str) -> Curves:
    quickest = min(lines, key=lambda line: line.x[-1])
    says = f"{quickest.name} was done first, after {seconds(quickest.x[-1])}."
    table = Table(
        ["optimizer", "time", f"{label(key)} then"], [[line.name, seconds(line.x[-1]), metric(key, line.y[-1], 2)] for line in lines]
    )
    title = f"{label(key)[0].upper()}{label(key)[1:]} against time"
    return Curves(
        "time",
        facet or title,
        "seconds of training",
        label(key),
        lines,
        [],
        says,
        f"Line chart of {label(key)} on {split} rows against training time for {listed([line.name for line in lines])}. {says}",
        table,
        note,
        can_log=False,
        percent=is_percent(key),
    )
