"""Loss of training and validation over epochs, with the best epoch marked: the first thing to look at after a run."""

import math

from fallline.report.figures.shapes import Curves, Line, Mark, Table, begun, ending, thin
from fallline.report.figures.source import Source, points
from fallline.report.words import label, metric, number

SPLITS = ("batch", "train", "validation")
_NAMES = {"batch": "single batches", "train": "training"}


def loss_curves(reader: Source, run: str = "", key: str = "loss", title: str = "Loss", best_epoch: float | None = None) -> Curves | None:
    """The curves of one key on training and validation rows (and of single batches, thinned); None where none was recorded.

    `best_epoch`: the epoch whose weights were kept; without it, the lowest validation value of a loss is marked.
    """
    lines: list[Line] = []
    marks: list[Mark] = []
    every = 1
    for split in SPLITS:
        found = points(reader, key, split, run)
        if found is None:
            continue
        x = found.epoch if all(map(math.isfinite, found.epoch)) else found.step
        x, y, step = thin(*begun(x, found.value))
        every = max(every, step)
        lines.append(Line(_NAMES.get(split, split), split, x, y))
        if split != "batch" and (end := ending(x, y)):
            marks.append(Mark(end[0], end[1], f"{split}: no finite value after this", split, "end"))
    if not lines:
        return None
    best = _best(lines, key, best_epoch)
    if best:
        marks.append(best)
    says = _says(key, lines, best, marks)
    note = f"Each point of the longest curve is the mean of {every} recorded values." if every > 1 else ""
    alt = f"Line chart of {title.lower()} over epochs. {says}"
    return Curves(
        key,
        title,
        "epoch",
        title.lower(),
        lines,
        marks,
        says,
        alt,
        curve_table([line for line in lines if line.series != "batch"] or lines, key),
        note,
        can_log=key == "loss",
        percent=metric(key, 0.5).endswith("%"),
    )


def curve_table(lines: list[Line], key: str, most: int = 60) -> Table:
    """The curves as rows of x; at most `most` rows, evenly chosen, the last always among them."""
    at = sorted({x for line in lines for x in line.x if math.isfinite(x)})
    if len(at) > most:
        keep = {round(i * (len(at) - 1) / (most - 1)) for i in range(most)}
        at = [x for i, x in enumerate(at) if i in keep]
    values = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    rows = [[number(x), *(metric(key, v[x], 2) if x in v else "" for v in values)] for x in at]
    return Table(["epoch", *(line.name for line in lines)], rows)


def _best(lines: list[Line], key: str, best_epoch: float | None) -> Mark | None:
    line = next((line for line in lines if line.series == "validation"), None)
    if line is None:
        return None
    pairs = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    if not pairs:
        return None
    if best_epoch:
        x, y = min(pairs, key=lambda p: abs(p[0] - best_epoch))
    elif key == "loss":
        x, y = min(pairs, key=lambda p: p[1])
    else:
        return None
    return Mark(x, y, f"weights kept: epoch {number(x)}", "validation", "best")


def _says(key: str, lines: list[Line], best: Mark | None, marks: list[Mark]) -> str:
    if any(m.kind == "end" for m in marks):
        last = max(m.x for m in marks if m.kind == "end")
        return f"The values stopped being finite after epoch {number(last)}."
    line = lines[-1]
    where = "validation" if line.series == "validation" else "training"
    if best is not None:
        tail = "" if best.x == line.x[-1] else f"; {metric(key, line.y[-1])} at the end"
        return f"{where.capitalize()} {label(key)} {metric(key, best.y)} in epoch {number(best.x)}, whose weights were kept{tail}."
    if len(line.x) < 2:
        return f"One value only: {metric(key, line.y[-1])} on {where} rows."
    return f"On {where} rows it went from {metric(key, line.y[0])} to {metric(key, line.y[-1])}."
