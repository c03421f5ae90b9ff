"""Everything that a study asks, and the one correction over it: every pair of rows, and, where several factors vary, of their levels.

What is corrected over what: ALL questions that a study asks are one family. Every pair of ranked rows is asked once for its metric, and
once more for its steps where there is a target. Where several factors vary (optimizers, batch sizes, losses, schedules), so is every pair
of levels of each factor, averaged over the others, and whether their order turns with another factor (`factors.py`). Holm's correction
runs over all of these p-values together, so the chance that a study claims anything false, of whatever kind, stays below 5 %. Rows that
are not ranked are asked nothing. That a row is not ranked was settled by its search, on another seed, and so cannot favour a claim.

Sixteen cells are 120 pairs, and few seeds cannot carry 240 questions; but "which optimizer?" is six of them. So the level is not shared
out evenly: 70 % of it goes to the levels of factors, 10 % to turns of their order, 20 % to the pairs of cells, evenly within each; what
a claim has spent is shared out again among all that are left. That is Holm's procedure with weights:

    p₍ᵢ₎ / w₍ᵢ₎ · Σ w₍ⱼ₎ over j ≥ i, made monotone;     w = 0.7/m₁, 0.1/m₂, 0.2/m₃ for the m₁, m₂, m₃ questions of each kind

Why it holds: take the first false claim. All claims before it were true, so what was left then held every true "no difference", of
weights that sum up to W or more, and p/w ≤ 0.05/W. The chance that any of them has p ≤ 0.05·w/W is at most Σ 0.05·w/W = 0.05, however the
questions hang together: averages and the cells that they are made of hang together closely. A gatekeeper (no question about cells before
all about factors are answered) was not taken: with it, one factor that does not matter would silence every cell. A question that the runs
themselves leave without an answer (steps of a level that never reaches the target) keeps its weight, as p = 1.

Intervals are those of each pair alone, at 95 %; where a corrected p-value is at most 0.05, that interval leaves out "no difference".

Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979, section 4 (weights);
gatekeepers, for comparison: Dmitrienko, Offen and Westfall, "Gatekeeping strategies for clinical trials that do not require all primary
effects to be significant", Statistics in Medicine 2003.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from fallline.study.factors import compared
from fallline.study.statistics import holm
from fallline.study.versus import versus

LEVEL = 0.05
SHARES = {"levels": 0.7, "turns": 0.1, "cells": 0.2}  # of the level, where several factors vary

Row = Mapping[str, Any]
Question = tuple[dict[str, Any], str, float]  # where the corrected p-value goes, under which name, and the p-value of the question alone


def differences(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All pairs of rows, as plain values for JSON; a stands before b in the table.

    Args:
        rows: of `ranking.table`. Read are `cell` (its name), `rank` (None: not ranked), `at_seeds`, `values` (of the metric, None:
            diverged), `steps` (to the target, None: missed; None for all: no target), `ran` (steps that the runs took in all), `step`
            and `every` (see `paired` and `steps_ratio`); and what `factors` reads, where there is any of it.

    Returns:
        One dict for each pair: `a`, `b` (names of cells), `n` (seeds that both have), `difference` (mean of a - b in the metric's own
        unit over the seeds on which neither diverged; None: there are none), `low`, `high` (its 95 % interval; None: unknown),
        `p` (corrected; None: a row is not ranked), `by` (what p rests on: "value", "whole", "diverged", see `pair_test`),
        `ratio` (steps of a over steps of b, the middle of the pairs; None: infinite, or no target), `ratio_low`, `ratio_high` (its 95 %
        interval; None: without bound), `ratio_p` (corrected; None: not ranked, or no target), `ratio_by` ("steps", "ranks", see
        `steps_ratio`; None: no target), `faster` (the name of a or b that `ratio_p` favours; None: neither), `diverged` and `missed`
        ([of a, of b], on the shared seeds).

    >>> row = {"rank": 1, "at_seeds": [0, 1, 2], "steps": None, "ran": [9, 9, 9], "step": 0.0, "every": 0.0}
    >>> found = differences([{**row, "cell": "a", "values": [3.0, 4.0, 5.0]}, {**row, "cell": "b", "values": [1.0, 2.1, 3.0]}])
    >>> found[0]["a"], found[0]["b"], round(found[0]["difference"], 2), round(found[0]["p"], 4)
    ('a', 'b', 1.97, 0.0003)
    """
    return judged(rows)[0]


def factors(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The levels of each factor beside each other, averaged over the cells of the other factors; [] unless two or more factors vary.

    Args:
        rows: of `ranking.table`: beside what `differences` reads, `optimizer`, `batch_size`, `loss`, `schedule` and `metric`.

    Returns:
        One dict for each factor that varies: `factor` ("optimizer", "batch_size", "loss" or "schedule"), `over` (the other factors that
        vary), `levels` (the best mean first: `level`, its name; `value`, as it stands in the rows; `mean`, `low`, `high` over seeds;
        `steps`, the geometric mean, None: no target, or left out; `diverged`, seeds on which a run of it diverged; `cells`, names of
        those it is the average of), `pairs` (as `differences` gives them, a and b names of levels; `ratio` and `ratio_p` are None as
        well where steps are left out), `turns` (whether the order of two levels turns with another factor: `a`, `b`, `factor`,
        `a_leads_at` and `b_leads_at`, the levels of that factor where either leads most clearly, None: nowhere; `p`, corrected),
        `left_out` (a sentence, or ""), `whole` (whether every combination of the other factors takes part), `steps_over` (over how
        many combinations steps are compared: those in which no run missed the target).
    """
    return judged(rows)[1]


def judged(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The `differences` and the `factors` of the rows, corrected together."""
    pairs: list[dict[str, Any]] = []
    asked: dict[str, list[Question]] = {"cells": [], "levels": [], "turns": []}
    for one, two in combinations(rows, 2):
        pair, verdict, ratio = versus(one, two)
        pairs.append(pair)
        if one["rank"] is not None and two["rank"] is not None:
            asked["cells"] += [(pair, name, found.p) for name, found in (("p", verdict), ("ratio_p", ratio)) if found is not None]
    found, asked["levels"], asked["turns"] = compared(rows)
    every = [(question, SHARES[kind] / len(mine) if found else 1.0) for kind, mine in asked.items() for question in mine]
    for ((place, name, _), _), p in zip(every, holm([q[2] for q, _ in every], [w for _, w in every]), strict=True):
        if name:
            place[name] = p
    return pairs, found
