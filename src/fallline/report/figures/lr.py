"""The range test as a picture: the ramps with their band, the trials, and on them the useful rates, the suggested one and the edge."""

import math
from typing import TYPE_CHECKING

from fallline.report.figures.shapes import Curves, Line, Mark, Table
from fallline.report.words import number

if TYPE_CHECKING:
    from fallline.study.ramp import LRResult

ROOM = 0.5  # of the fall above the beginning: what is higher is left out


def lr_curves(found: "LRResult", optimizer: str) -> Curves:
    """Loss against learning rate: the ramps, the trials and the three numbers.

    Args:
        found: what the range test found.
        optimizer: its name, which the picture tells.
    """
    ends = [end for _, end in found.trials if math.isfinite(end)]
    seen = [loss for loss in found.losses if math.isfinite(loss)]
    values = [*ends, *seen, *([found.start] if math.isfinite(found.start) else [])]
    low = min(values, default=0.0)
    top = max(found.start, seen[0] if seen else -math.inf) if math.isfinite(found.start) else max(values, default=1.0)
    high = top + ROOM * (top - low) if top > low else top + 1.0

    def shown(losses: list[float]) -> list[float]:
        return [loss if math.isfinite(loss) and loss <= high else math.nan for loss in losses]

    def within(losses: list[float]) -> list[float]:
        return [math.nan if math.isnan(loss) else min(loss, high) for loss in losses]

    lines = [Line("ramps: one step at each rate", "train", found.lrs, shown(found.losses), *(within(list(b)) for b in found.band))]
    if found.trials:
        rates, losses = (list(part) for part in zip(*found.trials, strict=True))
        lines.append(Line("trials: trained at that rate", "validation", rates, shown(losses)))
    marks: list[Mark] = []
    floor = low - 0.06 * (high - low)
    rows = [["suggested", number(found.suggested, 3)]]
    if found.found:
        lines.append(Line(f"useful rates; the dot: suggested, {number(found.suggested, 3)}", "useful", list(found.useful), [floor, floor]))
        marks.append(Mark(found.suggested, floor, f"suggested {number(found.suggested, 3)}", "useful", "chosen"))
        rows += [["useful", f"{number(found.useful[0], 3)} to {number(found.useful[1], 3)}"]]
        if found.edge is not None:
            lines.append(Line("edge: the loss rises from here on", "edge", [found.edge, found.edge], [floor, high]))
            rows += [["edge", number(found.edge, 3)]]
    rows += [["confidence", number(found.confidence, 2)], ["mini-batches spent", str(found.steps)]]
    rows += [[f"trained at {number(rate, 3)}", number(end) if math.isfinite(end) else "lost"] for rate, end in found.trials]
    says = found.text()[:1].upper() + found.text()[1:]
    return Curves(
        "learning-rate",
        f"Learning rate for {optimizer}",
        "learning rate",
        "loss",
        lines,
        marks,
        says,
        f"Line chart of the loss against the learning rate of {optimizer}. {says}",
        Table(["", "value"], rows),
        "The ramps raise the rate at every mini-batch; the band spans the orders of the data. Each trial trains from the start at one rate "
        "and is judged on rows held aside. The dot on the bar of useful rates marks the suggested one. Much higher losses are left out.",
        log_x=True,
        can_log=False,
    )
