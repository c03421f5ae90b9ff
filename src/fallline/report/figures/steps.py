"""What was recorded of the steps themselves: learning rate, norm of the gradient."""

import math

from fallline.report.figures.loss import curve_table
from fallline.report.figures.shapes import Curves, Line, thin
from fallline.report.figures.source import Source, points
from fallline.report.words import number

_TITLES = {"lr": "Learning rate", "grad_norm": "Norm of the gradient"}


def step_curve(reader: Source, key: str, run: str = "") -> Curves | None:
    """The curve of "lr" or "grad_norm" over epochs; None where it was not recorded."""
    found = points(reader, key, "train", run)
    if found is None:
        return None
    x = found.epoch if all(map(math.isfinite, found.epoch)) else found.step
    x, y, every = thin(x, found.value)
    title = _TITLES.get(key, key)
    lines = [Line(title.lower(), "accent", x, y)]
    finite = [v for v in y if math.isfinite(v)]
    if not finite:
        return None
    if max(finite) == min(finite):
        says = f"Constant at {number(finite[0])}."
    else:
        says = f"Between {number(min(finite))} and {number(max(finite))}; at the end {number(finite[-1])}."
    note = f"Each point is the mean of {every} recorded values." if every > 1 else ""
    return Curves(
        key,
        title,
        "epoch",
        title.lower(),
        lines,
        [],
        says,
        f"Line chart of the {title.lower()} over epochs. {says}",
        curve_table(lines, key),
        note,
        log_y=key == "grad_norm" and min(finite) > 0,
    )
