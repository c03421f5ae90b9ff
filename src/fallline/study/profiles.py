"""Performance profiles: over many problems, how often an optimizer is within a factor τ of the best one.

    r(p, s) = t(p, s) / min over s of t(p, s)             s: optimizer, p: problem, t: steps to the target, ∞ where it was missed
    ρₛ(τ) = share of the problems with r(p, s) ≤ τ
    Bₛ = 1/(τ_max − 1) · ∫ ρₛ(τ) dτ from 1 to τ_max = mean over p of max(0, τ_max − r(p, s)) / (τ_max − 1)

ρₛ(1) is how often an optimizer is the fastest, ρₛ(τ) for large τ how often it arrives at all. A problem that all missed counts against all.
In a study the problems are its seeds at each batch size and loss. The best of a problem is the best of single runs, noise included:
a profile describes, and proves nothing; what is shown stands in the paired comparisons. A profile also depends on who else took part.

Source: Dolan and Moré, "Benchmarking optimization software with performance profiles", Mathematical Programming 2002; Bₛ with τ_max = 4:
Dahl et al., "Benchmarking neural network training algorithms" (AlgoPerf), 2023, section 4.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fallline._core.errors import must

FARTHEST = 4.0  # AlgoPerf's τ_max


def ratios(times: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """r(p, s) of every optimizer, shape (problems,) each; infinity where it missed.

    Args:
        times: for each optimizer its steps (or seconds) on the same problems in the same order, shape (problems,); infinity: missed.

    Raises:
        FalllineError: optimizers with unequal numbers of problems, or a time that is not above 0.

    >>> {name: r.tolist() for name, r in ratios({"a": [10, 30], "b": [20, 20]}).items()}
    {'a': [1.0, 1.5], 'b': [2.0, 1.0]}
    """
    counts = {name: len(found) for name, found in times.items()}
    must(len(set(counts.values())) <= 1, "every optimizer has a time for every problem", counts, where="a performance profile")
    table = np.array([list(found) for found in times.values()], float).reshape(len(counts), -1)
    must(bool((table > 0).all()), "a time is above 0, or infinite where the target was missed", table.tolist())
    best = table.min(axis=0, initial=math.inf)
    reached = np.isfinite(table)
    safe = np.where(np.isfinite(best), best, 1.0)
    out = np.where(reached, np.where(reached, table, 1.0) / safe, math.inf)
    return dict(zip(times, out, strict=True))


def share_within(r: Sequence[float] | np.ndarray, tau: float) -> float:
    """ρ(τ): the share of the problems on which the ratio is at most τ.

    >>> share_within([1.0, 1.5, float("inf")], 2.0)
    0.6666666666666666
    """
    return float((np.asarray(r, float) <= tau).mean())


def score(r: Sequence[float] | np.ndarray, farthest: float = FARTHEST) -> float:
    """B: the mean height of ρ between τ = 1 and `farthest`, exactly.

    >>> score([1.0, 2.5, float("inf")])
    0.5
    """
    must(farthest > 1, "farthest > 1", farthest, "4 is usual")
    return float((np.maximum(0.0, farthest - np.asarray(r, float)) / (farthest - 1)).mean())


def profiles(times: Mapping[str, Sequence[float]], farthest: float = FARTHEST) -> list[dict[str, Any]]:
    """The profile of every optimizer as plain values, the highest score first.

    Returns:
        `[{"name": "adam", "score": 0.8, "tau": [1.0, 1.5, 4.0], "rho": [0.5, 1.0, 1.0], "problems": 10, "missed": 0}, ...]`: ρ is a
        staircase that stands at `rho[i]` from `tau[i]` on.

    >>> profiles({"a": [10, 50], "b": [20, 20]})[0]
    {'name': 'b', 'score': 0.8333333333333333, 'tau': [1.0, 2.0, 4.0], 'rho': [0.5, 1.0, 1.0], 'problems': 2, 'missed': 0}
    """
    out = []
    for name, r in ratios(times).items():
        if len(r) == 0:
            continue
        taus = sorted({1.0, farthest, *(float(v) for v in r if v <= farthest)})
        out.append(
            {
                "name": name,
                "score": score(r, farthest),
                "tau": taus,
                "rho": [share_within(r, tau) for tau in taus],
                "problems": len(r),
                "missed": int(np.isinf(r).sum()),
            }
        )
    return sorted(out, key=lambda found: -found["score"])


def study_profiles(rows: Sequence[Mapping[str, Any]], farthest: float = FARTHEST) -> list[dict[str, Any]]:
    """The profiles of a study's optimizers; its seeds, at each batch size and loss, are the problems.

    An optimizer under another schedule is another one. Rows that are not ranked take no part, and a problem that not all optimizers were
    run on is left out.

    Args:
        rows: of `ranking.table`.
        farthest: τ_max.

    Returns:
        As `profiles`; [] where no steps were counted, or where no optimizer has a rival.
    """
    found: dict[str, dict[tuple, float]] = {}
    several = len({row.get("schedule") for row in rows}) > 1
    for row in rows:
        if row.get("rank") is None or not row.get("steps"):
            continue
        name = f"{row['optimizer']} under {row['schedule']}" if several else row["optimizer"]
        for seed, steps in zip(row["at_seeds"], row["steps"], strict=True):
            found.setdefault(name, {})[(seed, row["batch_size"], row.get("loss"))] = math.inf if steps is None else max(steps, 1.0)
    if len(found) < 2:
        return []
    shared = set.intersection(*(set(problems) for problems in found.values()))
    order = [problem for problem in next(iter(found.values())) if problem in shared]
    return profiles({name: [problems[p] for p in order] for name, problems in found.items()}, farthest)
