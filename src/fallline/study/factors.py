"""Which optimizer is better over all batch sizes and losses: the levels of each factor beside each other, averaged over the others.

    Mₐₛ = mean over the cells c of level a of mₐ꜀ₛ          m: metric of cell (a, c) at seed s
    log Tₐₛ = mean over c of log tₐ꜀ₛ                       t: steps to the target

A seed gives each level one value, so two levels are compared as two cells are, seed by seed: a paired t interval over seeds. The cells of
one seed share weights and orders, so they are never counted as so many independent runs. The claim is about these cells, not about
batch sizes that were not tried.

Levels are compared over the same cells: where a cell is missing or not ranked, the combination of the other factors or the level that
lacks most leaves that factor's comparison, and that is said. A seed at which a cell of a level diverged has no value for that level; two
levels are then compared on the other seeds and by how many seeds each has lost (`pair_test`). An average of steps needs all of them,
and nothing is put in for a run that missed the target: its cell leaves the comparison of steps in the same way, with the combination or
the level that has lost most. Of two levels that are alike this favours neither.

An average may hide that adam is better at batch size 32 and sgd at 512. So it is asked of every two levels whether their order turns
with another factor: whether a leads somewhere and b elsewhere, both shown. With dᵤ the paired differences at the K levels u of the other
factor, each averaged over what remains,

    p = min(1, K · max(min over u of p(dᵤ > 0), min over u of p(dᵤ < 0)))           p(...): one-sided t

If a leads nowhere, the first minimum is at most α/K in at most α of cases, whatever the other does; if b leads nowhere, the second.

Source: the range test for qualitative interactions of Piantadosi and Gail, "A comparison of the power of two tests for qualitative
interactions", Statistics in Medicine 1993, with t in place of the normal and Bonferroni's bound in place of independence; the question is
Gail and Simon's, "Testing for qualitative interactions between treatment effects and patient subsets", Biometrics 1985.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from fallline import record
from fallline.study.statistics import mean_interval, paired
from fallline.study.versus import at_seeds, plain, shared_seeds, versus

FACTORS = ("optimizer", "batch_size", "loss", "schedule")
Row = Mapping[str, Any]
Rest = tuple[Any, ...]  # levels of the factors that vary beside the one that is compared
Question = tuple[dict[str, Any], str, float]


@dataclass
class Grid:
    """The cells over which the levels of one factor are compared: every level at every combination of the others."""

    factor: str
    others: list[str]
    levels: list[Any]
    rests: list[Rest]
    cells: dict[tuple[Any, Rest], Row]
    asked: list[Rest]  # all combinations of the study

    def row(self, level: Any, rests: Sequence[Rest], timed: Sequence[Rest] = ()) -> dict[str, Any]:
        """A level as a row that can be compared: its cells' averages, seed by seed; those of its steps over `timed` only."""
        cells, own = ([self.cells[level, rest] for rest in some] for some in (rests, timed))
        return average(level_name(self.factor, level), cells, own)

    def reached(self) -> tuple[list[Any], list[Rest]]:
        """The levels and the combinations whose steps are compared: in none of their cells a run missed the target."""
        cells = {at for at, row in self.cells.items() if row["steps"] is not None and None not in row["steps"]}
        return whole(self.levels, self.rests, cells)


def compared(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[Question], list[Question]]:
    """What `pairs.factors` returns, not corrected yet; the questions about levels, and those about turns of their order.

    A question is the dict that its corrected p-value goes into, the name there ("": nowhere), and its p-value alone.

    Args:
        rows: of `ranking.table`.
    """
    found, levels, turns = [], [], []
    vary = varying(rows)
    for factor in vary if len(vary) > 1 else []:
        grid = make_grid(rows, factor, [name for name in vary if name != factor])
        lower = record.key(rows[0]["metric"]).better == "lower"
        quick, timed = grid.reached()
        means = {level: grid.row(level, grid.rests, timed if level in quick else ()) for level in grid.levels}
        order = sorted(grid.levels, key=lambda level: _rank(means[level], lower))
        made = {"factor": factor, "over": grid.others, "levels": [_level(grid, level, means[level]) for level in order]}
        made |= {"pairs": [], "turns": [], "left_out": _left_out(grid, rows, means), "whole": len(grid.rests) == len(grid.asked)}
        made["steps_over"] = len(timed)
        for a, b in combinations(order, 2):
            pair, verdict, ratio = versus(means[a], means[b])
            made["pairs"].append(pair)
            levels.append((pair, "p", verdict.p))
            if ratio is not None:
                levels.append((pair, "ratio_p", ratio.p))
            elif any(row["steps"] is not None for row in rows):
                levels.append((pair, "", 1.0))
            for other in grid.others:
                turn = _turn(grid, a, b, other, lower)
                if turn is not None:
                    made["turns"].append(turn[0])
                    turns.append((turn[0], "p", turn[1]))
        found.append(made)
    return found, levels, turns


def varying(rows: Sequence[Row]) -> list[str]:
    """The factors of which the rows hold more than one level.

    >>> varying([{"optimizer": "adam", "batch_size": 32}, {"optimizer": "sgd", "batch_size": 32}])
    ['optimizer']
    """
    return [name for name in FACTORS if rows and all(name in row for row in rows) and len({row[name] for row in rows}) > 1]


def make_grid(rows: Sequence[Row], factor: str, others: Sequence[str]) -> Grid:
    """The levels of a factor and the combinations of the others of which every cell is ranked."""
    cells = {(row[factor], tuple(row[name] for name in others)): row for row in rows if row["rank"] is not None}
    levels = list(dict.fromkeys(row[factor] for row in rows))
    asked = list(dict.fromkeys(tuple(row[name] for name in others) for row in rows))
    return Grid(factor, list(others), *whole(levels, asked, set(cells)), cells, asked)


def whole(levels: Sequence[Any], rests: Sequence[Rest], cells: Set[tuple[Any, Rest]]) -> tuple[list[Any], list[Rest]]:
    """The levels and combinations that are left when no cell is lacking any more; none where there are no two levels.

    While a cell is lacking, the level or the combination that lacks the largest share of its cells is left out; of two that lack as
    much, the combination.

    >>> whole(["a", "b", "c"], [(32,), (64,)], {("a", (32,)), ("a", (64,)), ("b", (32,)), ("b", (64,)), ("c", (64,))})
    (['a', 'b'], [(32,), (64,)])
    """
    kept, over = list(levels), list(rests)
    while kept and over:
        by_rest = [(sum((level, rest) not in cells for level in kept) / len(kept), 1, rest) for rest in over]
        by_level = [(sum((level, rest) not in cells for rest in over) / len(over), 0, level) for level in kept]
        lacks, which, worst = max([*by_level, *by_rest], key=lambda item: item[:2])
        if lacks == 0:
            break
        (over if which else kept).remove(worst)
    return (kept, over) if len(kept) > 1 and over else ([], [])


def average(name: str, cells: Sequence[Row], timed: Sequence[Row]) -> dict[str, Any]:
    """Cells as one row: their mean values and the geometric means of their steps, seed by seed, on the seeds that all of them have.

    Args:
        name: of the row.
        cells: rows.
        timed: those whose steps are averaged; in none a run missed the target. No one: no steps.

    >>> cell = {"at_seeds": [0, 1], "steps": [10, 40], "ran": [80, 80], "step": 0.0, "every": 0.0}
    >>> cells = [{**cell, "values": [1.0, 2.0]}, {**cell, "values": [3.0, None], "steps": [40, 90]}]
    >>> row = average("adam", cells, cells)
    >>> row["values"], [round(s) for s in row["steps"]]
    ([2.0, None], [20, 60])
    """
    seeds = shared_seeds(*cells)
    k = len(cells)
    values = np.array([at_seeds(cell, "values", seeds, math.nan) for cell in cells])
    means = [plain(v) for v in values.mean(axis=0)]
    steps, every = None, 0.0
    if seeds and timed:
        logs = np.log([[max(s, 1.0) for s in at_seeds(cell, "steps", seeds, math.inf)] for cell in timed])
        steps = [float(s) for s in np.exp(logs.mean(axis=0))]
        read = np.array([cell["every"] for cell in timed]) / np.exp(logs.mean(axis=1))  # rounding of each cell, as a share of its steps
        every = float(np.exp(logs.mean()) * math.sqrt((read**2).sum()) / len(timed))
    return {
        "cell": name,
        "rank": 1,
        "at_seeds": seeds,
        "values": means,
        "steps": steps,
        "ran": [1.0] * len(seeds),
        "step": max(cell["step"] for cell in cells) / math.sqrt(k),
        "every": every,
    }


def level_name(factor: str, level: Any) -> str:
    """What a level is called in a sentence.

    >>> level_name("batch_size", 32), level_name("batch_size", "full"), level_name("loss", "huber")
    ('batch size 32', 'full batch', 'huber')
    """
    if factor == "batch_size":
        return "full batch" if level == "full" else f"batch size {level}"
    return str(level).replace("/", "|")


def _level(grid: Grid, level: Any, row: Row) -> dict[str, Any]:
    whole = [v for v in row["values"] if v is not None]
    mean, low, high, _ = mean_interval(whole, step=row["step"])
    return {
        "level": row["cell"],
        "value": level,
        "mean": plain(mean),
        "low": low,
        "high": high,
        "steps": None if not row["steps"] else float(np.exp(np.mean(np.log(row["steps"])))),
        "diverged": len(row["values"]) - len(whole),
        "cells": [grid.cells[level, rest]["cell"] for rest in grid.rests],
    }


def _rank(row: Row, lower: bool) -> tuple[float, float]:
    whole = [v for v in row["values"] if v is not None]
    mean = float(np.mean(whole)) if whole else math.inf
    return len(row["values"]) - len(whole), mean if lower or not whole else -mean


def _turn(grid: Grid, a: Any, b: Any, other: str, lower: bool) -> tuple[dict[str, Any], float] | None:
    """Whether the order of two levels turns with another factor; None where its levels do not stand over the same remaining cells."""
    at = grid.others.index(other)
    rests: dict[Any, list[Rest]] = {}
    for rest in grid.rests:
        rests.setdefault(rest[at], []).append(rest)
    remaining = [{rest[:at] + rest[at + 1 :] for rest in mine} for mine in rests.values()]
    if len(rests) < 2 or any(mine != remaining[0] for mine in remaining):
        return None
    ahead, behind = [], []
    for level, mine in rests.items():
        one, two = grid.row(a, mine), grid.row(b, mine)
        seeds = shared_seeds(one, two)
        x, y = (at_seeds(row, "values", seeds, math.nan) for row in (one, two))
        both = [(v, w) for v, w in zip(x, y, strict=True) if math.isfinite(v) and math.isfinite(w)]
        gap = paired([v for v, _ in both], [w for _, w in both], step=one["step"])
        leads = (gap.mean < 0) == lower
        ahead.append((gap.p / 2 if leads else 1 - gap.p / 2, level))
        behind.append((1 - gap.p / 2 if leads else gap.p / 2, level))
    (up, first), (down, second) = min(ahead, key=lambda found: found[0]), min(behind, key=lambda found: found[0])
    name = level_name
    turn = {"a": name(grid.factor, a), "b": name(grid.factor, b), "factor": other, "p": None}
    turn["a_leads_at"] = name(other, first) if up < 0.5 else None
    turn["b_leads_at"] = name(other, second) if down < 0.5 else None
    return turn, min(1.0, len(rests) * max(up, down))


def _left_out(grid: Grid, rows: Sequence[Row], means: Mapping[Any, Row]) -> str:
    """What takes no part, and why, as a sentence; "" where all do."""
    out = []
    levels = [level for level in dict.fromkeys(row[grid.factor] for row in rows) if level not in grid.levels]
    rests = [rest for rest in grid.asked if rest not in grid.rests]
    if len(grid.levels) < 2:
        return "there are no two of them with the same ranked cells"
    if levels:
        out.append(f"{_few([level_name(grid.factor, level) for level in levels])} left out, without a ranked cell in every combination")
    if rests:
        out.append(f"{_few([_spoken(grid.others, rest) for rest in rests])} left out, where not all of them are ranked")
    if any(row["steps"] is not None for row in rows):
        quick, timed = grid.reached()
        if not timed:
            out.append("steps are not compared, as runs missed the target")
            return "; ".join(out)
        missed = [row["cell"] for level, row in means.items() if level not in quick]
        if missed:
            out.append(f"steps of {_few(missed)} are not compared, as a run missed the target")
        if len(timed) < len(grid.rests):
            out.append(f"steps are compared over the {len(timed)} of {len(grid.rests)} combinations in which no run missed the target")
    return "; ".join(out)


def _spoken(others: Sequence[str], rest: Rest) -> str:
    words: list[str] = []
    for name, level in zip(others, rest, strict=True):
        before = {"batch_size": "at ", "loss": "with ", "schedule": "under "}.get(name, "") if words else ""
        words.append(before + level_name(name, level))
    return " ".join(words)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:2])} and {len(names) - 2} others"
