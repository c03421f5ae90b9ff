"""The ranking of a study as a table: one row for each cell, those that are not ranked apart, with the reason."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fallline import record
from fallline._core.asked import corrected, questions
from fallline.report import colours
from fallline.report.figures.intervals import interval_text, main_metric
from fallline.report.figures.matrix import signed
from fallline.report.figures.members import cells, ranked, row_names, rows
from fallline.report.figures.shapes import numbers
from fallline.report.figures.source import Source, dicts
from fallline.report.words import is_percent, label, metric, number, seconds

MOST = 120  # rows of the table on the page
DIFFERS = ("yes", "True")


class Cell(NamedTuple):
    """A cell of the ranking: what it says, what it sorts by, a small line under it, and a tag with its tone."""

    text: str
    value: str = ""
    small: str = ""
    tag: str = ""
    tone: str = ""


class Rank(NamedTuple):
    """A row of the ranking; `place` 0 and a reason `why` where it is not ranked."""

    place: int
    name: str
    token: str
    dash: str
    cells: list[Cell]
    why: str = ""


class Column(NamedTuple):
    """A column of the ranking: its words, what they mean, and which way it sorts first."""

    name: str
    meaning: str
    first: str = "ascending"


def seeds_of(table: list[dict[str, Any]]) -> int:
    """The largest number of seeds that a row has."""
    found = [row.get("seeds") for row in table]
    return max((len(s) if isinstance(s, list) else int(s) for s in found if isinstance(s, list | int | float)), default=0)


def ahead(table: list[dict[str, Any]], names: list[str]) -> list[str]:
    """The best ranked row and the ranked rows that are not shown to differ from it.

    >>> ahead([{"mean": 1}, {"mean": 2, "differs_from_best": "not shown"}, {"mean": 3, "differs_from_best": "yes"}], ["a", "b", "c"])
    ['a', 'b']
    """
    finite = [i for i, row in enumerate(table) if ranked(row) and math.isfinite(numbers([row.get("mean")])[0])]
    return [names[i] for i in finite if i == finite[0] or str(table[i].get("differs_from_best", "not shown")) not in DIFFERS]


def rank_words(reader: Source) -> str:
    """How to read the table."""
    split, key = main_metric(reader)
    better = "higher" if record.key(key).better != "lower" else "lower"
    n = seeds_of(rows(reader))
    text = f"Ranked by mean {label(key)} on {split} rows ({better} is better). Click a head to sort."
    if any(numbers([row.get("diverged")])[0] > 0 for row in rows(reader)):
        text += " A row that lost more members to divergence stands below one that lost fewer."
    if n > 1:
        text += f" Differences are taken seed by seed; {corrected(asked(reader))}."
    if len(rows(reader)) > MOST:
        text += f" The first {MOST} of {len(rows(reader))} rows; run.json holds all."
    return text


def asked(reader: Source) -> int:
    """How many questions the study answers together."""
    return questions(dicts(reader.info, "result", "differences"), dicts(reader.info, "result", "factors"))


def ranking_table(reader: Source, tokens: Mapping[str, str] | None = None) -> tuple[list[Column], list[Rank], list[Rank]]:
    """The ranking as cells, and the rows that are not ranked; columns that no row fills are left out."""
    table = rows(reader)
    names = row_names(table)
    held = cells(reader)
    colour = tokens or colours.assign(cell.series for cell in held)
    _, key = main_metric(reader)
    seeds = seeds_of(table)
    leaders = ahead(table, names)
    high_first = "descending" if record.key(key).better != "lower" else "ascending"
    columns = [
        Column(label(key), "mean over seeds and 95 % interval of the mean", high_first),
        Column("test", "mean on test rows, which took no part in any decision", high_first),
        Column(
            "against the best",
            "difference to the first row, paired over seeds, with the 95 % interval of that pair alone; "
            f"the verdict holds over all {max(1, asked(reader))} questions of the study together",
        ),
        Column("learning rate", "found by the search, or given"),
        Column(
            "steps to target",
            "training steps until the target was reached first, middle seed; a step costs more at a larger batch, an epoch does not",
        ),
        Column("time", "seconds of one member; of members trained together, its share"),
        Column("diverged", "members whose loss stopped being finite"),
    ]
    full = [_cells(row, name, key, seeds, leaders[:1]) for row, name in zip(table, names, strict=True)]
    keep = [i for i in range(len(columns)) if any(line[i].text not in ("–", "") for line in full)]
    place, out, aside = 0, [], []
    for cell, line in list(zip(held, full, strict=True))[:MOST]:
        token = colour[cell.series]
        shown = [line[i] for i in keep]
        if ranked(cell.row):
            place += 1
            out.append(Rank(place, cell.name, token, colours.dash(token), shown))
        else:
            why = str(cell.row.get("note") or "no reason was recorded")
            aside.append(Rank(0, cell.name, token, colours.dash(token), shown, why.removeprefix("not ranked: ")))
    return [columns[i] for i in keep], out, aside


def _cells(row: dict[str, Any], name: str, key: str, seeds: int, best: list[str]) -> list[Cell]:
    mean, low, high, test, lr, steps, missed, span, diverged = numbers(
        row.get(k) for k in ("mean", "low", "high", "test_mean", "lr", "steps_to_target", "missed", "seconds", "diverged")
    )
    against = _against(row, name in best, seeds, key)
    mine = row.get("seeds")
    n = len(mine) if isinstance(mine, list) else numbers([mine])[0]
    lost = f"of {int(n)}" if math.isfinite(n) else ""
    some = f"{int(missed)}{f' of {int(n)}' if math.isfinite(n) else ''} missed it" if math.isfinite(missed) and missed else ""
    passes = numbers([row.get("epochs_to_target")])[0]
    some = ", ".join(filter(None, [f"{number(passes, 2)} epoch{'' if passes == 1 else 's'}" if math.isfinite(passes) else "", some]))
    reach = Cell(number(steps), f"{steps:g}", some) if math.isfinite(steps) else Cell("never" if some else "–", "", some)
    return [
        Cell(metric(key, mean, 2), _sort(mean), interval_text(key, low, high) if math.isfinite(low) else ""),
        Cell(metric(key, test, 2) if math.isfinite(test) else "–", _sort(test)),
        against,
        Cell(number(lr, 3) if math.isfinite(lr) else "–", _sort(lr), tag="at the edge" if row.get("lr_at_edge") else "", tone="warn"),
        reach,
        Cell(seconds(span) if math.isfinite(span) else "–", _sort(span)),
        Cell(number(diverged) if math.isfinite(diverged) else "–", _sort(diverged), lost if diverged else "", "", "bad"),
    ]


def _against(row: dict[str, Any], is_best: bool, seeds: int, key: str) -> Cell:
    """How a row stands to the best one: in words, with the paired difference under it."""
    verdict = str(row.get("differs_from_best", ""))
    gap, low, high = numbers(row.get(k) for k in ("difference", "difference_low", "difference_high"))
    small = difference_text(key, gap, low, high) if math.isfinite(gap) else ""
    if is_best:
        return Cell("best", "0", tag="best", tone="good")
    if verdict in DIFFERS:
        lower = record.key(key).better == "lower"
        worse = not math.isfinite(gap) or (gap > 0 if lower else gap < 0)
        return Cell("worse", "2", small, "worse" if worse else "diverges more", "" if worse else "bad")
    if verdict == "not ranked" or seeds < 2 or not math.isfinite(numbers([row.get("mean")])[0]):
        return Cell("–", "3")
    if math.isfinite(low) and math.isfinite(high) and not low <= 0 <= high:
        small += ": this pair alone; not over all questions"
    return Cell("not shown", "1", small, "no difference shown", "warn")


def difference_text(key: str, gap: float, low: float, high: float) -> str:
    """A paired difference and its interval; of shares in percentage points.

    >>> difference_text("accuracy", -0.004, -0.009, 0.001)
    '−0.40 (−0.90 to +0.10) points'
    """
    interval = f" ({signed(key, low)} to {signed(key, high)})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{signed(key, gap)}{interval}" + (" points" if is_percent(key) else "")


def _sort(value: float) -> str:
    return f"{value:.10g}" if math.isfinite(value) else ""
