"""What a few seeds can show: an interval for a mean, a paired interval for a difference, and the price of many comparisons.

    mean ± t(1 − α/2, n − 1) · s / √n              over seeds, or over the differences of paired seeds
    p₍ᵢ₎ · (m − i + 1), made monotone               Holm's correction of m p-values, i = 1 .. m from the smallest
    p₍ᵢ₎ / w₍ᵢ₎ · Σ w₍ⱼ₎ over j ≥ i, made monotone   the same with weights, i from the smallest p / w (Holm 1979, section 4)

Seed s gives every optimizer the same initial weights and the same order of rows, so differences are taken seed by seed. The optimizer
that stands best was chosen by looking at all of them; therefore the correction counts ALL pairs, not only those with the best.
A metric that moves in steps (accuracy on 270 rows moves by 1/270) can give equal values by luck; their deviation is never taken as
smaller than what rounding alone explains: step/√12 for a value, step/√6 for a difference. Every metric that is a share of rows moves in
steps, and those of a class move in the steps of its rows (`smallest_move`).
Runs that diverged have no number: whether one optimizer diverges more often than another is judged by Fisher's exact test on the counts.

Why the t interval (4,000 simulated studies each, `benchmarks/intervals.py`; share of 95 % intervals of a mean paired difference that hold
the truth, with 3, 5, 10 seeds):

    differences                    t                     sign flips            bootstrap-t
    normal                         0.950 0.951 0.955     1.000 1.000 0.956     1.000 0.940 0.950
    Student's t, 3 degrees         0.957 0.964 0.955     1.000 1.000 0.944     1.000 0.940 0.917
    accuracy on 270 rows           0.963 0.949 0.949     1.000 1.000 0.954     0.994 0.946 0.945
    log-normal, deviation 0.3      0.938 0.936 0.939     1.000 1.000 0.939     1.000 0.945 0.944
    log-normal, deviation 1        0.835 0.819 0.837     1.000 1.000 0.840     1.000 0.885 0.910

The exact sign flips have no bounded interval below 6 seeds (p >= 2/2^n), and the bootstrap-t is far wider with few; neither is better
with 10. No method repairs a strong skew of the differences themselves; but two optimizers of like skew have differences without any
(0.972 for t with 5 seeds), and steps to a target are compared by their logarithms (`steps.py`).

Source: Student, "The probable error of a mean", Biometrika 1908; Holm, "A simple sequentially rejective multiple test procedure",
Scandinavian Journal of Statistics 1979; Fisher, "Statistical Methods for Research Workers", 1934.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from fallline import record
from fallline._core.errors import must


class Interval(NamedTuple):
    """A mean and its interval; `low` and `high` are None where one value or none leaves the spread unknown."""

    mean: float
    low: float | None
    high: float | None
    n: int


class Difference(NamedTuple):
    """The mean of paired differences a - b, its interval, and the chance `p` of so large a one if there is none."""

    mean: float
    low: float | None
    high: float | None
    p: float
    n: int


def smallest_move(metric: str, classes: Sequence[int] | np.ndarray) -> float:
    """About how far a metric moves when one row is judged otherwise: 0 where it is no share of rows, and so moves freely.

        accuracy, ROC AUC               1 / N
        precision, recall, F1           1 / N₁ of two classes (those of the second one); 1 / (K · min Nₖ) of K, their mean

    ROC AUC can take many more values, but a few rows on the wrong side are all that moves it.

    Args:
        metric: its name.
        classes: of the rows that are judged, shape (N,).

    >>> smallest_move("accuracy", [0, 0, 0, 1]), smallest_move("recall", [0, 0, 1, 1]), smallest_move("loss", [0, 1])
    (0.25, 0.5, 0.0)
    """
    if record.key(metric).unit != "fraction" or len(classes) == 0:
        return 0.0
    counts = np.unique(np.asarray(classes), return_counts=True)[1]
    if metric in ("accuracy", "roc_auc"):
        return 1 / len(classes)
    if len(counts) == 2:
        return 1 / int(counts[1])
    return 1 / (len(counts) * int(counts.min()))


def mean_interval(values: Sequence[float], level: float = 0.95, step: float = 0.0) -> Interval:
    """Mean of the values and its t interval at `level`; `step` is the smallest amount by which the metric can move (0: continuous).

    >>> mean_interval([1.0])
    Interval(mean=1.0, low=None, high=None, n=1)
    >>> [round(v, 3) for v in mean_interval([1.0, 2.0, 3.0])[:3]]
    [2.0, -0.484, 4.484]
    """
    must(0 < level < 1, "0 < level < 1", level, "0.95 is usual")
    n = len(values)
    if n == 0:
        return Interval(math.nan, None, None, 0)
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, None, None, 1)
    half = _quantile(0.5 + level / 2, n - 1) * max(float(np.std(values, ddof=1)), step / math.sqrt(12)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired(a: Sequence[float], b: Sequence[float], *, level: float = 0.95, step: float = 0.0) -> Difference:
    """The t interval of a - b over pairs, and the two-sided p-value of "no difference".

    Args:
        a: values of one optimizer, one for each seed, shape (seeds,).
        b: values of the other for the same seeds in the same order, shape (seeds,).
        level: of the interval.
        step: the smallest amount by which the metric can move; 0 where it is continuous.

    >>> paired([3.0, 4.0, 5.0], [1.0, 2.0, 4.0]).mean
    1.6666666666666667
    """
    must(len(a) == len(b), "as many values in a as in b", (len(a), len(b)), where="a paired comparison")
    n = len(a)
    if n == 0:
        return Difference(math.nan, None, None, 1.0, 0)
    gaps = np.asarray(a, float) - np.asarray(b, float)
    mean = float(gaps.mean())
    if n == 1:
        return Difference(mean, None, None, 1.0, 1)
    error = max(float(gaps.std(ddof=1)), step / math.sqrt(6)) / math.sqrt(n)
    half = _quantile(0.5 + level / 2, n - 1) * error
    if mean == 0:
        p = 1.0
    elif error == 0:
        p = 0.0
    else:
        p = 2 * _tail(abs(mean) / error, n - 1)
    return Difference(mean, mean - half, mean + half, p, n)


def holm(ps: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """p-values corrected so that the chance of any false claim among them stays below the level they are held against.

    Args:
        ps: p-values, in any order.
        weights: how much of the level each may spend, in any unit, above 0; alike by default. The heavier ones are corrected less, and
            what a claim has spent is shared out among the rest by their weights.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03], [2, 1, 1])]
    [0.02, 0.06, 0.06]
    """
    m = len(ps)
    shares = [1.0] * m if weights is None else list(weights)
    must(len(shares) == m, "as many weights as p-values", (len(shares), m), where="a correction")
    must(all(w > 0 for w in shares), "weights are above 0", shares, where="a correction")
    out = [0.0] * m
    running, left = 0.0, math.fsum(shares)
    for index in sorted(range(m), key=lambda i: ps[i] / shares[i]):
        running = max(running, min(1.0, max(left, shares[index]) * ps[index] / shares[index]))
        left -= shares[index]
        out[index] = running
    return out


def diverges_more(bad_a: int, n_a: int, bad_b: int, n_b: int) -> float:
    """Fisher's exact two-sided p-value that a and b diverge equally often, from the diverged runs of each.

    >>> round(diverges_more(5, 5, 0, 5), 4)
    0.0079
    """
    from scipy.stats import fisher_exact

    if bad_a == bad_b == 0:
        return 1.0
    return float(fisher_exact([[bad_a, n_a - bad_a], [bad_b, n_b - bad_b]])[1])  # pyright: ignore[reportArgumentType]


class Verdict(NamedTuple):
    """The chance `p` of what was seen if two optimizers are alike, and what it rests on.

    `by`: "value"; "whole": the values of the seeds on which neither diverged, where some did; or "diverged": how often each diverged.
    """

    p: float
    by: str


def pair_test(a: Sequence[float], b: Sequence[float], step: float = 0.0) -> Verdict:
    """Whether a and b are alike, from values in the order of their seeds; NaN is a run that diverged.

    Where runs diverged, both the values of the seeds that are whole and the counts of diverged runs are tested, and the smaller
    p-value is doubled for having looked twice.

    >>> pair_test([0.9, 0.91, 0.92, 0.9, 0.91], [float("nan")] * 5).by
    'diverged'
    """
    both = [(x, y) for x, y in zip(a, b, strict=True) if math.isfinite(x) and math.isfinite(y)]
    by_value = paired([x for x, _ in both], [y for _, y in both], step=step).p
    lost_a, lost_b = (sum(not math.isfinite(v) for v in values) for values in (a, b))
    if lost_a == lost_b == 0:
        return Verdict(by_value, "value")
    by_count = diverges_more(lost_a, len(a), lost_b, len(b))
    return Verdict(min(1.0, 2 * min(by_value, by_count)), "whole" if by_value <= by_count else "diverged")


def pair_p(a: Sequence[float], b: Sequence[float], step: float = 0.0) -> float:
    """p-value of "a and b are alike", see `pair_test`."""
    return pair_test(a, b, step).p


def all_pairs(values: Mapping[str, Sequence[float]], step: float = 0.0) -> dict[frozenset[str], float]:
    """Holm-corrected p-values of every pair of names; each has its values in the order of the same seeds, NaN where a run diverged."""
    pairs = list(combinations(values, 2))
    corrected = holm([pair_p(values[a], values[b], step) for a, b in pairs])
    return {frozenset(pair): p for pair, p in zip(pairs, corrected, strict=True)}


def smallest_visible(values: Mapping[str, Sequence[float]], step: float = 0.0, level: float = 0.05, *, questions: int = 1) -> float:
    """About how large a difference must be for these seeds to show it, corrected over all pairs; NaN for fewer than two whole seeds.

    Args:
        values: for each optimizer its values, in the order of the same seeds; NaN where a run diverged.
        step: the smallest amount by which the metric can move.
        level: of all claims together.
        questions: how many things are asked of every pair (2 where steps to a target are compared as well).

    >>> round(smallest_visible({"a": [1.0, 2.0, 3.0], "b": [1.1, 1.9, 3.0]}), 2)
    0.25
    """
    errors = []
    for a, b in combinations(values.values(), 2):
        gaps = [x - y for x, y in zip(a, b, strict=True) if math.isfinite(x) and math.isfinite(y)]
        if len(gaps) > 1:
            error = max(float(np.std(gaps, ddof=1)), step / math.sqrt(6)) / math.sqrt(len(gaps))
            errors.append(error * _quantile(1 - level / 2 / questions / math.comb(len(values), 2), len(gaps) - 1))
    return float(np.median(errors)) if errors else math.nan


def median(values: Sequence[float]) -> float:
    """The middle value; the upper one of two, so that an infinity (a miss) is never averaged away.

    >>> median([3, 1, float("inf")]), median([1, float("inf")])
    (3.0, inf)
    """
    return float(sorted(values)[len(values) // 2]) if values else math.nan


def _quantile(q: float, df: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, q))


def _tail(x: float, df: int) -> float:
    from scipy.special import stdtr

    return float(stdtr(df, -x))
