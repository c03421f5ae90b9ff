"""The search for the learning rate: validation loss of trial runs against the learning rate, for each optimizer, the chosen one marked."""

import math
from typing import Any

from fallline.report.figures.members import row_names, rows
from fallline.report.figures.shapes import Curves, Line, Mark, Table, numbers
from fallline.report.figures.source import Source, dig
from fallline.report.words import listed, number


def trials(raw: Any) -> list[tuple[float, float]]:
    """The (lr, loss) pairs of one optimizer, sorted by lr; a loss that is none is NaN."""
    out = []
    for pair in raw if isinstance(raw, list) else []:
        if isinstance(pair, list | tuple) and len(pair) >= 2:
            lr, loss = numbers(pair[:2])
            if math.isfinite(lr) and lr > 0:
                out.append((lr, loss))
    return sorted(out, key=lambda p: p[0])


def search_curves(reader: Source) -> Curves | None:
    """One line for each optimizer out of run.json's `result.search`; None where nothing was searched."""
    search = dig(reader.info, "result", "search", default={})
    if not isinstance(search, dict):
        return None
    table = rows(reader)
    by_name = dict(zip(row_names(table), table, strict=True))
    lines: list[Line] = []
    marks: list[Mark] = []
    cells: list[list[str]] = []
    edge: list[str] = []
    for name, raw in search.items():
        found = trials(raw)
        if not found:
            continue
        lines.append(Line(str(name), str(name), [lr for lr, _ in found], [loss for _, loss in found]))
        row = by_name.get(str(name), {})
        chosen = numbers([row.get("lr")])[0]
        at = dict(found).get(chosen, math.nan)
        if math.isfinite(at):
            marks.append(Mark(chosen, at, f"{name}: chosen {number(chosen, 3)}", str(name), "chosen"))
        if row.get("lr_at_edge"):
            edge.append(str(name))
        tried = ", ".join(f"{number(lr, 3)}: {number(loss) if math.isfinite(loss) else 'diverged'}" for lr, loss in found)
        cells.append([str(name), number(chosen, 3) if math.isfinite(chosen) else "–", tried])
    if not lines:
        return None
    finite = [y for line in lines for y in line.y if math.isfinite(y)]
    if edge:
        says = f"The best rate stood at the edge of what was tried for {listed(edge)}: a wider search might find a better one."
    else:
        says = "No optimizer's best rate stood at the edge of what was tried."
    return Curves(
        "search",
        "Learning-rate search",
        "learning rate",
        "validation loss",
        lines,
        marks,
        says,
        f"Line chart of validation loss against learning rate for {listed([line.name for line in lines])}. {says}",
        Table(["optimizer", "chosen", "tried (rate: loss)"], cells),
        "A dot marks the rate that was chosen. Rates that diverged have no point.",
        log_x=True,
        log_y=bool(finite) and min(finite) > 0,
    )
