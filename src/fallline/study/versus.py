"""Two rows of a study beside each other, not corrected yet (`pairs.py`). A row may also be a level of a factor (`factors.py`)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fallline.study.statistics import Verdict, pair_test, paired
from fallline.study.steps import Ratio, steps_ratio


class Versus(NamedTuple):
    """A pair as `differences` gives it, `p` and `ratio_p` still empty; and what the two tests said."""

    pair: dict[str, Any]
    verdict: Verdict
    ratio: Ratio | None


def versus(one: Mapping[str, Any], two: Mapping[str, Any]) -> Versus:
    """One row beside another, on the seeds that both have.

    Args:
        one: what `differences` reads of a row.
        two: the same of the other.
    """
    seeds = shared_seeds(one, two)
    a, b = (at_seeds(row, "values", seeds, math.nan) for row in (one, two))
    verdict = pair_test(a, b, one["step"])
    ratio = None
    if one["steps"] is not None and two["steps"] is not None:
        x, y = ([max(v, 1.0) for v in at_seeds(row, "steps", seeds, math.inf)] for row in (one, two))  # a start at the target is a step
        ran = [at_seeds(row, "ran", seeds, 1.0) for row in (one, two)]
        ratio = steps_ratio(x, y, every=max(one["every"], two["every"]), ran=(ran[0], ran[1]))
    return Versus(_pair(one["cell"], two["cell"], a, b, one["step"], verdict, ratio), verdict, ratio)


def shared_seeds(*rows: Mapping[str, Any]) -> list[int]:
    """The seeds that all rows have, in the order of the first."""
    return [s for s in rows[0]["at_seeds"] if all(s in row["at_seeds"] for row in rows[1:])] if rows else []


def at_seeds(row: Mapping[str, Any], name: str, seeds: Sequence[int], absent: float) -> list[float]:
    """One list of the row at these seeds, `absent` in place of None."""
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
