"""The statistics against closed forms, and by simulation: how often they claim what is not there, and find what is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fallline._core.errors import FalllineError
from fallline.study.statistics import all_pairs, diverges_more, holm, mean_interval, median, pair_p, paired, smallest_move, smallest_visible

finite = st.floats(-1e3, 1e3)


@given(st.lists(finite, min_size=2, max_size=12))
def test_mean_interval_is_students(values):
    if np.std(values) < 1e-9:
        return
    found = mean_interval(values, 0.9)
    low, high = stats.t.interval(0.9, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=12))
def test_paired_is_scipys_paired_test(pairs):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    if np.std(np.subtract(a, b)) < 1e-6 or abs(np.mean(np.subtract(a, b))) < 1e-9:
        return
    expected = stats.ttest_rel(a, b)
    found = paired(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)


def test_textbook_sleep_data():
    """Student's own example (Biometrika 1908): two drugs, ten patients, t = 4.0621, p = 0.00283."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired(second, first)
    assert found.mean == pytest.approx(1.58)
    assert found.p == pytest.approx(0.00283289, abs=1e-7)
    assert (found.low, found.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)


def test_holm_by_hand():
    assert holm([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert holm([]) == []
    assert holm([0.9, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order(ps):
    out = holm(ps)
    for p, q in zip(ps, out, strict=True):
        assert p <= q <= min(1.0, len(ps) * p) + 1e-12
    order = np.argsort(ps, kind="stable")
    assert all(np.diff(np.array(out)[order]) >= 0)


def test_one_seed_has_no_interval_and_shows_nothing():
    assert mean_interval([0.5]) == (0.5, None, None, 1)
    assert paired([1.0], [2.0]) == (-1.0, None, None, 1.0, 1)
    assert math.isnan(mean_interval([]).mean)
    assert all_pairs({"a": [1.0], "b": [9.0]})[frozenset("ab")] == 1.0


def test_pairs_must_match():
    with pytest.raises(FalllineError, match="as many values"):
        paired([1.0, 2.0], [1.0])


def test_equal_runs_never_differ():
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1.0
    assert paired([1.0, 2.0, 3.0], [1.1, 2.1, 3.1], step=0.1).p > 0.05  # one step apart three times is luck, not proof


def test_median_keeps_misses():
    assert median([1, 2, math.inf]) == 2
    assert median([1, math.inf]) == math.inf
    assert math.isnan(median([]))


def test_diverged_runs_count_as_evidence():
    fine, broken = [0.9, 0.91, 0.92, 0.9, 0.91], [math.nan] * 5
    assert diverges_more(5, 5, 0, 5) == pytest.approx(2 / 252)
    assert pair_p(fine, broken) == pytest.approx(4 / 252)
    assert pair_p(fine[:3], broken[:3]) > 0.05  # three against three cannot show it


# ---- calibration: 4,000 studies each; the binomial band of 5 % is 4.0 .. 6.1 % at three deviations

REPEATS = 4000
BAND = 3 * math.sqrt(0.05 * 0.95 / REPEATS)


def _claims(draw, seeds, optimizers, step=0.0, shift=0.0):
    rng = np.random.default_rng(7)
    claimed = 0
    for _ in range(REPEATS):
        common = rng.normal(size=seeds)  # what a seed does to every optimizer alike
        values = {str(i): common + draw(rng, i, seeds) for i in range(optimizers)}
        values["0"] = values["0"] + shift
        if step:
            values = {k: np.round(v / step) * step for k, v in values.items()}
        claimed += any(p <= 0.05 for p in all_pairs(values, step).values())
    return claimed / REPEATS


NOISE = {
    "normal": lambda rng, i, n: rng.normal(size=n),
    "skewed": lambda rng, i, n: rng.exponential(size=n),
    "heavy tails": lambda rng, i, n: rng.standard_t(2, size=n),
    "one optimizer noisier": lambda rng, i, n: rng.normal(size=n) * (10.0 if i == 0 else 1.0),
    "mostly equal, rarely bad": lambda rng, i, n: np.where(rng.random(n) < 0.1, -5.0, 0.0) + 0.01 * rng.normal(size=n),
}


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("seeds", [3, 10])
def test_an_optimizer_against_itself_seldom_differs(noise, seeds):
    assert _claims(NOISE[noise], seeds, 2) <= 0.05 + BAND


@pytest.mark.parametrize("step", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_coarse_metric_does_not_fool_it(step, seeds):
    assert _claims(NOISE["normal"], seeds, 2, step=step) <= 0.05 + BAND


def test_every_share_of_rows_moves_in_steps():
    few = [0] * 30 + [1] * 10
    assert [smallest_move(m, few) for m in ("accuracy", "roc_auc", "recall", "precision", "f1")] == [1 / 40] * 2 + [0.1] * 3
    assert smallest_move("recall", [1 - c for c in few]) == 1 / 30
    assert smallest_move("f1", [0, 0, 0, 1, 1, 2, 2, 2]) == 1 / 6
    assert smallest_move("accuracy", []) == smallest_move("r2", [0.5, 1.5]) == smallest_move("loss", few) == 0.0


@pytest.mark.parametrize("metric", ["f1", "recall", "precision", "roc_auc", "accuracy"])
@pytest.mark.parametrize(("seeds", "names"), [(2, 2), (2, 4), (3, 4)])
@pytest.mark.parametrize("positive", [12, 53])
def test_few_seeds_of_a_metric_that_moves_in_steps_do_not_fool_it(metric, seeds, names, positive):
    """Networks that are all alike, on 85 rows: each run scores every row on the wrong side with a chance of 4 %."""
    draw = np.random.default_rng(3)
    y = np.arange(85) < positive
    made = (300, names, seeds, 85)
    scores = np.where((draw.random(made) < 0.04) ^ y, draw.uniform(0.5, 1, made), draw.uniform(0, 0.5, made))
    called = scores > 0.5
    right, said = (called & y).sum(-1), called.sum(-1)
    if metric == "roc_auc":
        places = scores.argsort(-1).argsort(-1)
        found = ((places * y).sum(-1) - positive * (positive - 1) / 2) / (positive * (85 - positive))
    else:
        shares = {"recall": right / positive, "precision": right / np.maximum(said, 1), "f1": 2 * right / (said + positive)}
        found = shares.get(metric, (called == y).mean(-1))
    step = smallest_move(metric, y)
    claimed = sum(any(p <= 0.05 for p in all_pairs(dict(zip("abcd"[:names], one, strict=True)), step).values()) for one in found)
    assert claimed / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_it_is_exact_on_normal_data():
    assert abs(_claims(NOISE["normal"], 5, 2) - 0.05) <= BAND


@pytest.mark.slow
@pytest.mark.parametrize("step", [0.0, 1.0])
def test_choosing_the_best_of_nine_does_not_fool_it(step):
    assert _claims(NOISE["normal"], 3, 9, step=step) <= 0.05 + BAND


def test_an_injected_difference_is_found():
    """Power against the non-central t: 10 seeds, a shift of 1.5 deviations of the difference."""
    shift = 1.5 * math.sqrt(2)
    df, centre = 9, 1.5 * math.sqrt(10)
    edge = stats.t.ppf(0.975, df)
    expected = stats.nct.sf(edge, df, centre) + stats.nct.cdf(-edge, df, centre)
    found = _claims(NOISE["normal"], 10, 2, shift=shift)
    assert expected > 0.9
    assert abs(found - expected) <= 3 * math.sqrt(expected * (1 - expected) / REPEATS)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_intervals_cover_the_truth(seeds):
    rng = np.random.default_rng(11)
    draws = rng.normal(loc=3.0, size=(REPEATS, seeds))
    found = [mean_interval(list(row)) for row in draws]
    cover = np.mean([i.low <= 3.0 <= i.high for i in found])  # pyright: ignore[reportOptionalOperand]
    assert abs(cover - 0.95) <= BAND


@pytest.mark.parametrize("optimizers", [2, 4])
def test_what_is_visible_is_where_power_is_about_a_half(optimizers):
    rng = np.random.default_rng(5)
    base = {str(i): rng.normal(size=6) for i in range(optimizers)}
    edge = smallest_visible(base)
    a, b = base["0"] - base["0"].mean(), base["1"] - base["1"].mean()
    for factor, claimed in ((0.3, False), (4.0, True)):
        moved = {**base, "0": a, "1": b + factor * edge}
        assert (all_pairs(moved)[frozenset("01")] <= 0.05) == claimed
    assert math.isnan(smallest_visible({"a": [1.0], "b": [2.0]}))
