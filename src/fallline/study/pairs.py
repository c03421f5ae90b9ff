"""Every pair of a study's rows: how far apart, how many times as many steps, each with its interval, and which of it is shown.

What is corrected over what: ALL questions that a study asks are one family. Every pair of ranked rows is asked once for its metric, and
once more for its steps where there is a target; Holm's correction runs over all of these p-values together. So the chance that a study
claims anything false, of either kind, stays below 5 %, however many optimizers, batch sizes and losses it compares. Rows that are not
ranked are asked nothing. That a row is not ranked was settled by its search, on another seed, and so cannot favour a claim.

Intervals are those of each pair alone, at 95 %; where a corrected p-value is at most 0.05, that interval leaves out "no difference".
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from fallline.study.statistics import Verdict, holm, pair_test, paired
from fallline.study.steps import Ratio, steps_ratio

LEVEL = 0.05


def differences(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All pairs of rows, as plain values for JSON; a stands before b in the table.

    Args:
        rows: of `ranking.table`. Read are `cell` (its name), `rank` (None: not ranked), `at_seeds`, `values` (of the metric, None:
            diverged), `steps` (to the target, None: missed; None for all: no target), `ran` (steps that the runs took in all), `step`
            and `every` (see `paired` and `steps_ratio`).

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
    made, ps, places = [], [], []
    for one, two in combinations(rows, 2):
        seeds = [s for s in one["at_seeds"] if s in set(two["at_seeds"])]
        a, b = (_at(row, "values", seeds, math.nan) for row in (one, two))
        verdict = pair_test(a, b, one["step"])
        ratio = None
        if one["steps"] is not None and two["steps"] is not None:
            x, y = ([max(v, 1.0) for v in _at(row, "steps", seeds, math.inf)] for row in (one, two))  # a start at the target is a step
            ran = [_at(row, "ran", seeds, 1.0) for row in (one, two)]
            ratio = steps_ratio(x, y, every=max(one["every"], two["every"]), ran=(ran[0], ran[1]))
        pair = _pair(one["cell"], two["cell"], a, b, one["step"], verdict, ratio)
        made.append(pair)
        if one["rank"] is not None and two["rank"] is not None:
            for name, found in (("p", verdict), ("ratio_p", ratio)):
                if found is not None:
                    ps.append(found.p)
                    places.append((pair, name))
    for (pair, name), p in zip(places, holm(ps), strict=True):
        pair[name] = p
    return made


def _at(row: Mapping[str, Any], name: str, seeds: Sequence[int], absent: float) -> list[float]:
    found = dict(zip(row["at_seeds"], row[name], strict=True))
    return [absent if found[s] is None else float(found[s]) for s in seeds]


def _pair(a_name: str, b_name: str, a: list[float], b: list[float], step: float, verdict: Verdict, ratio: Ratio | None) -> dict[str, Any]:
    both = [(x, y) for x, y in zip(a, b, strict=True) if math.isfinite(x) and math.isfinite(y)]
    gap = paired([x for x, _ in both], [y for _, y in both], step=step)
    return {
        "a": a_name,
        "b": b_name,
        "n": len(a),
        "difference": plain(gap.mean),
        "low": gap.low,
        "high": gap.high,
        "p": None,
        "by": verdict.by,
        "ratio": plain(ratio.ratio) if ratio else None,
        "ratio_low": plain(ratio.low) if ratio and ratio.low > 0 else None,
        "ratio_high": plain(ratio.high) if ratio else None,
        "ratio_p": None,
        "ratio_by": ratio.by if ratio else None,
        "faster": {"a": a_name, "b": b_name}.get(ratio.faster) if ratio else None,
        "diverged": [sum(not math.isfinite(v) for v in values) for values in (a, b)],
        "missed": list(ratio.missed) if ratio else [0, 0],
    }


def plain(value: float) -> float | None:
    """The number as JSON holds it: None where it is not finite."""
    return float(value) if math.isfinite(value) else None
