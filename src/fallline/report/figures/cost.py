"""What a result costs: the metric of every member against the time that it took."""

import itertools
import math

from fallline.report.figures.intervals import main_metric
from fallline.report.figures.members import members
from fallline.report.figures.shapes import Curves, Line, Table
from fallline.report.figures.source import Source, points
from fallline.report.words import is_percent, label, listed, metric, seconds


def against_time(reader: Source) -> Curves | None:
    """The metric over the seconds of training, mean over the seeds of each series; None where no times were recorded."""
    split, key = main_metric(reader)
    lines: list[Line] = []
    for name, group in members(reader).items():
        curves = [p for m in group if (p := points(reader, key, split, m.run))]
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
        if x and all(b >= a for a, b in itertools.pairwise(x)):
            lines.append(Line(name, name, x, y))
    if not lines or all(max(line.x) <= 0 for line in lines):
        return None
    quickest = min(lines, key=lambda line: line.x[-1])
    says = f"{quickest.name} was done first, after {seconds(quickest.x[-1])}."
    table = Table(
        ["optimizer", "time", f"{label(key)} then"], [[line.name, seconds(line.x[-1]), metric(key, line.y[-1], 2)] for line in lines]
    )
    title = f"{label(key)[0].upper()}{label(key)[1:]} against time"
    return Curves(
        "time",
        title,
        "seconds of training",
        label(key),
        lines,
        [],
        says,
        f"Line chart of {label(key)} on {split} rows against training time for {listed([line.name for line in lines])}. {says}",
        table,
        "Mean over seeds. Members that were trained at the same time share the machine: compare the order, not the last digit.",
        can_log=False,
        percent=is_percent(key),
    )
