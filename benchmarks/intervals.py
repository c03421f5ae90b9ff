"""Which interval of a paired difference holds what it says with 3, 5 and 10 seeds: Student's t, exact sign flips, or the bootstrap-t.

    python benchmarks/intervals.py [studies]

Each of 4,000 simulated studies gives an interval of 95 %; the result is the share that holds the truth, and the middle width. Student's t
is the one that fallline uses (`fallline.study.paired`, `fallline.study.steps.steps_ratio`); the other two are written here, for comparison:

- sign flips: the interval between the k-th smallest and k-th largest mean of all subsets of the differences (Hartigan, "Using subsample
  values as typical values", JASA 1969); all 2ⁿ − 1 subsets, or 999 of them at random for n = 10; unbounded where (1 − 0.95)/2 · 2ⁿ < 1;
- bootstrap-t (Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 12), 999 resamples.
"""

import math
import sys
from itertools import product

import numpy as np
from common import save

from fallline.study import paired

ROWS = 270  # of validation, for accuracy
SEEDS = (3, 5, 10)


def accuracy(rng, shape):
    common = rng.normal(size=shape)
    a, b = (np.round(ROWS * (0.95 + 0.008 * (0.5 * common + rng.normal(size=shape)))) / ROWS for _ in "ab")
    return a - b


CASES = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0, 0.0),
    "Student's t, 3 degrees": (lambda rng, shape: rng.standard_t(3, size=shape), 0.0, 0.0),
    "log-normal, deviation 0.3": (lambda rng, shape: rng.lognormal(0, 0.3, size=shape), math.exp(0.045), 0.0),
    "log-normal, deviation 1": (lambda rng, shape: rng.lognormal(0, 1, size=shape), math.exp(0.5), 0.0),
    "two log-normals, deviation 1": (lambda rng, shape: rng.lognormal(0, 1, size=shape) - rng.lognormal(0, 1, size=shape), 0.0, 0.0),
    "log steps, deviation 0.15": (lambda rng, shape: rng.normal(0, 0.15, size=shape), 0.0, 0.0),
    f"accuracy on {ROWS} rows": (accuracy, 0.0, 1 / ROWS),
}


def student(gaps, step, rng):
    del rng
    found = [paired(list(row), [0.0] * len(row), step=step) for row in gaps]
    return np.array([f.low for f in found]), np.array([f.high for f in found])


def sign_flips(gaps, step, rng):
    del step
    subsets = np.array([s for s in product((0, 1), repeat=gaps.shape[1]) if any(s)], float)
    if len(subsets) > 999:
        subsets = subsets[rng.choice(len(subsets), 999, replace=False)]
    means = np.sort(gaps @ (subsets / subsets.sum(axis=1, keepdims=True)).T, axis=1)
    cut = int(0.025 * (len(subsets) + 1) + 1e-9)
    if cut == 0:
        return np.full(len(gaps), -np.inf), np.full(len(gaps), np.inf)
    return means[:, cut - 1], means[:, -cut]


def bootstrap_t(gaps, step, rng):
    del step
    n = gaps.shape[1]
    drawn = rng.integers(0, n, (999, n))
    low, high = [], []
    for row in gaps:
        again = row[drawn]
        mean, error = row.mean(), row.std(ddof=1) / math.sqrt(n)
        spread = again.std(axis=1, ddof=1)
        off = again.mean(axis=1) - mean
        # a resample of one value alone has no spread: its t is infinite
        t = np.where(spread > 1e-12, off * math.sqrt(n) / np.maximum(spread, 1e-12), np.sign(off) * 1e9)
        left, right = np.quantile(t, [0.025, 0.975])
        low.append(mean - right * error)
        high.append(mean - left * error)
    return np.array(low), np.array(high)


def main(studies: int = 4000) -> None:
    rng = np.random.default_rng(1)
    result: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for name, (draw, truth, step) in CASES.items():
        result[name] = {}
        for seeds in SEEDS:
            gaps = draw(rng, (studies, seeds))
            for method in (student, sign_flips, bootstrap_t):
                low, high = method(gaps, step, rng)
                width = float(np.median(high - low))
                cover = float(np.mean((low <= truth) & (truth <= high)))
                entry = result[name].setdefault(method.__name__, {"covers": [], "width": []})
                entry["covers"].append(round(cover, 4))
                entry["width"].append(round(width, 4) if width < 1e6 else None)
        print(name, {method: found["covers"] for method, found in result[name].items()}, flush=True)
    print(save("intervals", {"studies": studies, "seeds": SEEDS, "width None": "not bounded", "cases": result}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
