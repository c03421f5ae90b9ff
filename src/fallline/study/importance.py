"""Which settings mattered among the trials that were run: the share of the differences between trials that one factor alone explains.

    ω² = (S_between − (k − 1) · s²) / (S_total + s²)        s² = S_within / (n − k),  cut off at 0

over the ranks of the trials (1 the best; a trial that was stopped stands below those that finished, one that diverged below all), in k
groups of a factor: its choices, or fifths of its range as it was searched. Ranks, because a diverged trial has no value; ω² and not the
raw share, because many small groups explain much by chance: where a factor does nothing, ω² is 0 on average. A trial that does not have a
factor (momentum of an optimizer without one) is left out of it.

Source: Hays, "Statistics", 1963 (ω²); what it stands for here: main effects of the functional analysis of variance of Hutter, Hoos and
Leyton-Brown, "An efficient approach for assessing hyperparameter importance", ICML 2014. Departs: their marginals are taken over a forest
fitted to the whole space; these are of the trials themselves, which a sampler puts where it expects good ones, so they tell of that part.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fallline.study.search import Trial
from fallline.study.space import FACTORS, Space

GROUPS = 5
FEWEST = 30  # trials below which nothing is said: ω² of fewer is mostly luck


def importances(trials: Sequence[Trial], space: Space, *, lower: bool) -> list[dict[str, Any]]:
    """The factors that varied, the most important first: `factor`, `share` (0 to 1), `trials` (that have it).

    Args:
        trials: of a search.
        space: where it looked.
        lower: whether a lower metric is better.
    """
    ordered = sorted(trials, key=lambda t: t.rank_key(lower))
    out = []
    for factor in FACTORS:
        places = [(rank, at) for rank, t in enumerate(ordered) if (at := space.position(factor, t.factors)) is not None]
        if len(places) >= FEWEST and len({at for _, at in places}) > 1:
            share = explained([rank for rank, _ in places], groups([at for _, at in places]))
            out.append({"factor": factor, "share": share, "trials": len(places)})
    return sorted(out, key=lambda row: -row["share"])


def groups(positions: Sequence[float | str]) -> list[int]:
    """The group of each position: words by themselves, numbers by fifths of their span; at most so many.

    >>> groups(["a", "b", "a"]), groups([0.0, 0.1, 0.15, 0.5, 0.7, 1.0])
    ([0, 1, 0], [0, 0, 0, 2, 3, 4])
    """
    if any(isinstance(p, str) for p in positions) or len(set(positions)) <= GROUPS:
        names = sorted(set(positions), key=str)
        return [names.index(p) for p in positions]
    values = np.asarray(positions, float)
    low, high = float(values.min()), float(values.max())
    return [min(GROUPS - 1, int(GROUPS * (v - low) / (high - low))) for v in values.tolist()]


def explained(values: Sequence[float], group: Sequence[int]) -> float:
    """ω² of values in groups, at least 0.

    >>> explained([1, 2, 3, 4], [0, 0, 1, 1]), explained([1, 2, 1, 2], [0, 0, 1, 1])
    (0.6363636363636364, 0.0)
    """
    v, g = np.asarray(values, float), np.asarray(group)
    n, k = len(v), len(set(group))
    total = float(((v - v.mean()) ** 2).sum())
    if n <= k or k < 2 or total == 0:
        return 0.0
    within = float(sum(((v[g == each] - v[g == each].mean()) ** 2).sum() for each in set(group)))
    noise = within / (n - k)
    share = (total - within - (k - 1) * noise) / (total + noise)
    return share if math.isfinite(share) and share > 0 else 0.0
