"""The table of a study: one row for each optimizer (and batch size), ranked, with what the seeds show and what they do not.

Ranked by the mean of the metric on validation rows, at the weights that were kept; a row in which members diverged stands below every
row in which fewer did, so no run is ever dropped in silence. Test rows are reported beside and decide nothing.
"""

import math
from collections.abc import Sequence
from typing import Any

from fallline import record
from fallline.study.members import Member, Workshop
from fallline.study.plan import Plan, label
from fallline.study.statistics import Interval, all_pairs, mean_interval, median, paired, smallest_visible
from fallline.study.tune import Tuned

Cell = tuple[str, Any]
LEVEL = 0.05


def table(shop: Workshop, plan: Plan, members: dict[Cell, list[Member]], tuned: dict[Cell, Tuned], rows: int) -> tuple[list[dict], float]:
    """The ranked rows, and the target that steps are counted to (NaN where there is none).

    Args:
        shop: whose record holds the members.
        plan: what was asked.
        members: for each optimizer and batch size its members, in the order of the plan's seeds as far as they are there.
        tuned: for each its search.
        rows: validation rows, which tell the steps in which accuracy moves.
    """
    members = {cell: found for cell, found in members.items() if found}
    target = auto_target(shop, plan, members) if plan.target == "auto" else float(plan.target)
    lower = record.key(plan.metric).better == "lower"
    step = 1 / max(rows, 1) if plan.metric == "accuracy" else 0.0
    made = {cell: _row(shop, plan, cell, found, tuned[cell], target, step) for cell, found in members.items()}
    order = sorted(made, key=lambda cell: _rank(made[cell], lower))
    _against_the_best(plan, members, made, order, step)
    out = []
    for place, cell in enumerate(order, start=1):
        made[cell]["note"] = note(made[cell])
        out.append({"rank": place, **made[cell]})
    return out, target


def _row(shop: Workshop, plan: Plan, cell: Cell, found: Sequence[Member], tuned: Tuned, target: float, step: float) -> dict[str, Any]:
    values = [m.value(plan.metric) for m in found]
    whole = [v for v in values if math.isfinite(v)]
    mean, low, high = _within(plan.metric, mean_interval(whole, step=step))
    tests = [v for m in found if not m.diverged and math.isfinite(v := float(m.test.get(plan.metric, math.nan)))]
    test_mean, test_low, test_high = _within(plan.metric, mean_interval(tests))
    steps = [shop.steps_to(m, plan.metric, target) for m in found]
    reached = median(steps)
    return {
        "optimizer": label(cell[0]),
        "lr": found[0].lr,
        "batch_size": cell[1],
        "seeds": len(found),
        "diverged": sum(m.diverged for m in found),
        "metric": plan.metric,
        "mean": _plain(mean),
        "low": low,
        "high": high,
        "values": [_plain(v) for v in values],
        "test_mean": _plain(test_mean),
        "test_low": test_low,
        "test_high": test_high,
        "seconds": median([m.seconds for m in found]),
        "steps_to_target": int(reached) if math.isfinite(reached) else None,
        "missed": sum(not math.isfinite(s) for s in steps),
        "lr_at_edge": tuned.at_edge,
        "trials": len(tuned.trials),
    }


def _rank(row: dict[str, Any], lower: bool) -> tuple[float, float, float]:
    mean = math.inf if row["mean"] is None else (row["mean"] if lower else -row["mean"])
    return (row["diverged"] / row["seeds"], mean, row["seconds"])


def _against_the_best(plan: Plan, members: dict[Cell, list[Member]], made: dict[Cell, dict], order: list[Cell], step: float) -> None:
    """Write into every row how it stands to the first one, on the seeds that all rows have."""
    if not order:
        return
    seeds = [s for s in plan.seeds if all(any(m.seed == s for m in found) for found in members.values())]
    values = {str(cell): [next(m for m in members[cell] if m.seed == s).value(plan.metric) for s in seeds] for cell in order}
    chances = all_pairs(values, step)
    visible = _plain(smallest_visible(values, step)) if len(values) > 1 else None
    best = order[0]
    for cell in order:
        row = made[cell]
        row["visible"] = visible
        if cell == best:
            row |= {"difference": 0.0, "difference_low": None, "difference_high": None, "p": None, "differs_from_best": "best"}
            continue
        both = [(a, b) for a, b in zip(values[str(cell)], values[str(best)], strict=True) if math.isfinite(a) and math.isfinite(b)]
        gap = paired([a for a, _ in both], [b for _, b in both], step=step)
        p = chances[frozenset((str(cell), str(best)))] if seeds else 1.0
        row |= {
            "difference": _plain(gap.mean),
            "difference_low": gap.low,
            "difference_high": gap.high,
            "p": p,
            "differs_from_best": "yes" if p <= LEVEL else "not shown",
        }


def auto_target(shop: Workshop, plan: Plan, members: dict[Cell, list[Member]]) -> float:
    """The best level that the middle run of three in four optimizers reaches, at its best epoch; NaN where all diverged."""
    lower = record.key(plan.metric).better == "lower"
    sign = 1.0 if lower else -1.0
    middles = []
    for found in members.values():
        reached = [shop.best_value(m, plan.metric) for m in found]
        middles.append(median([sign * v if math.isfinite(v) else math.inf for v in reached]))
    whole = sorted(level for level in middles if math.isfinite(level))
    return sign * whole[math.ceil(0.75 * len(whole)) - 1] if whole else math.nan


def note(row: dict[str, Any]) -> str:
    """What must be known of a row before it is trusted."""
    words = []
    if row["diverged"]:
        words.append(f"{row['diverged']} of {row['seeds']} diverged")
    if row["lr_at_edge"]:
        words.append("learning rate at the edge of the search")
    if row["seeds"] == 1:
        words.append("one seed: no interval")
    return "; ".join(words)


def headline(rows: Sequence[dict[str, Any]], plan: Plan) -> str:
    """The result in words.

    >>> headline([], None)
    'no member was finished'
    """
    if not rows:
        return "no member was finished"
    several = len(plan.batch_sizes) > 1
    names = [f"{row['optimizer']} at batch size {row['batch_size']}" if several else row["optimizer"] for row in rows]
    first = rows[0]
    if first["mean"] is None:
        return "every run diverged; smaller learning rates are worth a try"
    key = record.key(plan.metric)
    seeds = first["seeds"]
    spread = f" (95 % interval {first['low']:.4g} to {first['high']:.4g})" if first["low"] is not None else ""
    text = f"{names[0]} has the best mean validation {key.label}, {first['mean']:.4g}{spread}, over {seeds} seed{'s' if seeds > 1 else ''}"
    if len(rows) == 1:
        return f"{text}; there is nothing to compare it with"
    if seeds == 1:
        return f"{text}; one seed shows no difference from the others, take three or more"
    worse = [name for name, row in zip(names, rows, strict=True) if row["differs_from_best"] == "yes"]
    pairs = len(rows) * (len(rows) - 1) // 2
    if worse:
        text += f"; shown to differ from it: {', '.join(worse)}"
        rest = len(rows) - 1 - len(worse)
        text += f"; not shown for the other {rest}" if rest else ""
    else:
        text += "; no difference from the others is shown"
    text += f" (paired by seed, 5 % level over all {pairs} pairs)" if pairs > 1 else " (paired by seed, 5 % level)"
    if len(worse) < len(rows) - 1 and first["visible"]:
        text += f"; {seeds} seeds show differences from about {first['visible']:.2g} on, more seeds show smaller ones"
    return text


def _within(metric: str, found: Interval) -> tuple[float, float | None, float | None]:
    """Mean and interval, cut off where the metric cannot go: a share lies between 0 and 1."""
    if record.key(metric).unit != "fraction" or found.low is None or found.high is None:
        return found.mean, found.low, found.high
    return found.mean, max(found.low, 0.0), min(found.high, 1.0)


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
