"""The table of a study: one row for each cell (an optimizer at a batch size, a loss, a schedule), ranked, with what the seeds show.

Ranked by the mean of the metric on validation rows, at the weights that were kept; a row in which members diverged stands below every
row in which fewer did, so no run is ever dropped in silence. A row whose best learning rate stands at the edge of what was tried may be
under-tuned: it keeps its numbers, but no rank is given to it and nothing is claimed of it; such rows stand after the ranked ones.
Test rows are reported beside and decide nothing. What differs from what is decided in `pairs.py` and said in `verdict.py`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fallline import record
from fallline.study.factors import varying
from fallline.study.members import Member, Workshop
from fallline.study.pairs import LEVEL, SHARES, differences
from fallline.study.plan import Cell, Plan, label
from fallline.study.statistics import Interval, mean_interval, median, smallest_move, smallest_visible
from fallline.study.tune import Tuned
from fallline.study.versus import plain

AT_EDGE = "not ranked: its best learning rate stands at the edge of what was tried"


def table(shop: Workshop, plan: Plan, members: dict[Cell, list[Member]], tuned: dict[Cell, Tuned]) -> tuple[list[dict], float]:
    """The rows, ranked ones first, and the target that steps are counted to (NaN where there is none).

    `differences`, `study_profiles` and `verdict` are functions of these rows alone. A row holds `rank` (None: not ranked), `cell` (its
    name), `optimizer`, `batch_size`, `loss`, `schedule`, `lr`, `seeds` (how many), `at_seeds` (which),
    `metric`, `values` and `steps` (one for each seed; None: diverged, or missed; `steps` is None where there is no target), `ran` (steps
    that each run took in all), `step` and `every` (the smallest amounts by which `values` and `steps` can move), `target`,
    `steps_to_target` (middle seed), `epochs_to_target` (the same in passes over the rows),
    `missed`, `diverged`, `mean`, `low`, `high`, `test_mean`, `test_low`, `test_high`, `seconds`,
    `lr_at_edge`, `trials`, how it stands to the first row (`difference`, `difference_low`, `difference_high`, `p`, `differs_from_best`:
    "best", "yes", "not shown", "not ranked"), `visible` and `note`.

    Args:
        shop: whose record holds the members.
        plan: what was asked.
        members: for each cell its members, in the order of the plan's seeds as far as they are there.
        tuned: for each its search.
    """
    members = {cell: found for cell, found in members.items() if found}
    target = auto_target(shop, plan, members) if plan.target == "auto" else float(plan.target)
    lower = record.key(plan.metric).better == "lower"
    made = [_row(shop, plan, cell, found, tuned[cell], target) for cell, found in members.items()]
    made.sort(key=lambda row: (row["lr_at_edge"], *_rank(row, lower)))
    out = [{"rank": None if row["lr_at_edge"] else place, **row} for place, row in enumerate(made, start=1)]
    _against_the_best(out)
    for row in out:
        row["note"] = note(row)
    return out, target


def _row(shop: Workshop, plan: Plan, cell: Cell, found: Sequence[Member], tuned: Tuned, target: float) -> dict[str, Any]:
    step, test_step = (smallest_move(plan.metric, np.asarray(part.y)) for part in (shop.data.validation, shop.data.test))
    values = [m.value(plan.metric) for m in found]
    whole = [v for v in values if math.isfinite(v)]
    mean, low, high = _within(plan.metric, mean_interval(whole, step=step))
    tests = [v for m in found if not m.diverged and math.isfinite(v := float(m.test.get(plan.metric, math.nan)))]
    test_mean, test_low, test_high = _within(plan.metric, mean_interval(tests, step=test_step))
    steps = [shop.steps_to(m, plan.metric, target) for m in found]
    reached = median(steps)
    return {
        "cell": plan.cell_name(cell),
        **{**cell._asdict(), "optimizer": label(cell.optimizer)},
        "lr": found[0].lr,
        "seeds": len(found),
        "diverged": sum(m.diverged for m in found),
        "metric": plan.metric,
        "mean": plain(mean),
        "low": low,
        "high": high,
        "at_seeds": [m.seed for m in found],
        "values": [plain(v) for v in values],
        "test_mean": plain(test_mean),
        "test_low": test_low,
        "test_high": test_high,
        "seconds": median([m.seconds for m in found]),
        "target": plain(target),
        "steps": [plain(s) for s in steps] if math.isfinite(target) else None,
        "ran": [m.steps for m in found],
        "steps_to_target": int(reached) if math.isfinite(reached) else None,
        "epochs_to_target": int(reached) * found[0].epochs / found[0].steps if math.isfinite(reached) and found[0].steps else None,
        "missed": sum(not math.isfinite(s) for s in steps),
        "step": step,
        "every": _every(found, steps),
        "lr_at_edge": tuned.at_edge,
        "trials": len(tuned.trials),
    }


def _every(found: Sequence[Member], steps: Sequence[float]) -> float:
    """Steps between two moments of judgement, where steps to the target were read at these; 0 where they were read between them."""
    apart = [m.steps / m.epochs for m in found if m.epochs and not m.diverged]
    if not apart or any(math.isfinite(s) and s % apart[0] for s in steps):
        return 0.0
    return float(apart[0])


def _rank(row: dict[str, Any], lower: bool) -> tuple[float, float]:
    """Rows that are alike in both stay in the plan's order."""
    mean = math.inf if row["mean"] is None else (row["mean"] if lower else -row["mean"])
    return (row["diverged"] / row["seeds"], mean)


def _against_the_best(rows: list[dict[str, Any]]) -> None:
    """Write into every row how it stands to the first one."""
    ranked = [row for row in rows if row["rank"] is not None]
    visible = plain(_visible(ranked)) if len(ranked) > 1 else None
    against = {pair["b"]: pair for pair in differences(rows) if ranked and pair["a"] == ranked[0]["cell"]}
    for row in rows:
        pair = against.get(row["cell"])
        row["visible"] = visible
        row |= {"difference": None, "difference_low": None, "difference_high": None, "p": None, "differs_from_best": "not ranked"}
        if pair is not None and pair["difference"] is not None:
            row["difference"] = 0.0 - pair["difference"]
        if pair is not None and pair["low"] is not None:
            row |= {"difference_low": -pair["high"], "difference_high": -pair["low"]}
        if row["rank"] is not None and pair is None:
            row |= {"difference": 0.0, "differs_from_best": "best"}
        elif row["rank"] is not None and pair is not None:
            row |= {"p": pair["p"], "differs_from_best": "yes" if pair["p"] <= LEVEL else "not shown"}


def _visible(rows: Sequence[dict[str, Any]]) -> float:
    shared = [s for s in rows[0]["at_seeds"] if all(s in row["at_seeds"] for row in rows)]
    held = {row["cell"]: dict(zip(row["at_seeds"], row["values"], strict=True)) for row in rows}
    values = {cell: [math.nan if found[s] is None else found[s] for s in shared] for cell, found in held.items()}
    level = LEVEL * (SHARES["cells"] if len(varying(rows)) > 1 else 1.0)
    return smallest_visible(values, rows[0]["step"], level, questions=1 if rows[0]["steps"] is None else 2)


def auto_target(shop: Workshop, plan: Plan, members: dict[Cell, list[Member]]) -> float:
    """The best level that every run of three in four cells reaches, at its best epoch; NaN where all diverged."""
    lower = record.key(plan.metric).better == "lower"
    return common_level([[shop.best_value(m, plan.metric) for m in found] for found in members.values()], lower=lower)


def common_level(reached: Sequence[Sequence[float]], *, lower: bool) -> float:
    """The best level that every run of three in four cells reaches; NaN where all diverged.

    The level that the middle run reaches would leave half of the runs of the last of these cells without an answer; then ranks alone can
    speak, and of five seeds they say little. Runs that diverged reach nothing, and ask nothing of the others. The level is the same
    whatever the cells are called and whichever of them a value stands in, as long as each keeps as many; so it favours none of two
    cells that are alike.

    Args:
        reached: for each cell the best value of each of its runs, NaN where it diverged.
        lower: whether the metric is better when it is lower.

    >>> common_level([[0.9, 0.95], [0.8, 0.97], [0.7, 0.75], [0.2, 0.3]], lower=False)
    0.7
    """
    sign = 1.0 if lower else -1.0
    runs = [[sign * v for v in cell if math.isfinite(v)] for cell in reached]
    worst = sorted(max(cell) for cell in runs if cell)
    return sign * worst[math.ceil(0.75 * len(worst)) - 1] if worst else math.nan


def note(row: dict[str, Any]) -> str:
    """What must be known of a row before it is trusted."""
    words = []
    if row["diverged"]:
        words.append(f"{row['diverged']} of {row['seeds']} diverged")
    if row["lr_at_edge"]:
        words.append(AT_EDGE)
    if row["seeds"] == 1:
        words.append("one seed: no interval")
    return "; ".join(words)


def _within(metric: str, found: Interval) -> tuple[float, float | None, float | None]:
    """Mean and interval, cut off where the metric cannot go: a share lies between 0 and 1."""
    if record.key(metric).unit != "fraction" or found.low is None or found.high is None:
        return found.mean, found.low, found.high
    return found.mean, max(found.low, 0.0), min(found.high, 1.0)
