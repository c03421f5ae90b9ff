"""How often a study claims what is not there, and finds what is: simulated studies, judged by the code that judges real ones.

Margins are binomial: of N studies whose true rate is q, the share that is found lies within 3·√(q(1 − q)/N) of q in 99.7 % of cases.
"""

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fallline._core.errors import FalllineError
from fallline.study.pairs import differences
from fallline.study.sentence import sentence, shown_ratios, shown_values, steps_sentence
from fallline.study.statistics import paired
from fallline.study.steps import first_crossing, rank_sum, signed_rank, steps_ratio, walsh_interval

INF = math.inf


def margin(rate, repeats):
    return 3 * math.sqrt(rate * (1 - rate) / repeats)


# ---- the exact tests of ranks, against scipy, every sign and every split

gap = st.one_of(st.integers(-4, 4).map(float), st.sampled_from([INF, -INF]))
runs = st.lists(st.one_of(st.integers(1, 9).map(float), st.just(INF)), min_size=1, max_size=5)


@given(st.lists(st.floats(-10, 10).filter(lambda v: abs(v) > 1e-6), min_size=1, max_size=12, unique_by=abs))
def test_signed_ranks_are_scipys(gaps):
    assert signed_rank(gaps)[0] == pytest.approx(stats.wilcoxon(gaps, method="exact").pvalue, rel=1e-12)


@given(st.lists(gap, min_size=1, max_size=8))
def test_signed_ranks_by_every_sign(gaps):
    """Ties, zeros and infinities: the p-value is twice the share of the sign patterns whose sum is as small on the smaller side."""
    d = np.array([g for g in gaps if g != 0])
    if len(d) == 0:
        assert signed_rank(gaps) == (1.0, 0.0)
        return
    ranks = stats.rankdata(np.abs(d))
    sums = np.array([np.dot(signs, ranks) for signs in product((0, 1), repeat=len(d))])
    found = ranks[d > 0].sum()
    tail = min((sums <= found).mean(), (sums >= found).mean())
    assert signed_rank(gaps)[0] == pytest.approx(min(1.0, 2 * tail), rel=1e-12)
    assert signed_rank(gaps)[1] == pytest.approx(found - ranks.sum() / 2)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=14, unique=True), st.integers(1, 13))
def test_rank_sums_are_scipys(values, cut):
    a, b = values[:cut], values[cut:]
    if b:
        assert rank_sum(a, b)[0] == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue, rel=1e-12)


@given(runs, runs)
def test_rank_sums_by_every_split(a, b):
    ranks = stats.rankdata([*a, *b])
    sums = np.array([sum(chosen) for chosen in combinations(ranks, len(a))])
    found = ranks[: len(a)].sum()
    tail = min((sums <= found + 1e-9).mean(), (sums >= found - 1e-9).mean())
    assert rank_sum(a, b)[0] == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=12, unique=True), st.floats(-5, 5))
def test_walsh_interval_holds_what_the_signed_ranks_do_not_refuse(gaps, shift):
    d = np.array(gaps) - shift
    if len(np.unique(np.abs(d))) < len(d) or (d == 0).any():
        return
    _, low, high = walsh_interval(gaps)
    if min(abs(shift - low), abs(shift - high)) > 1e-9:
        assert (low <= shift <= high) == (signed_rank(d)[0] > 0.05)


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6])
def test_many_seeds_take_the_normal_distribution(shift):
    """Beyond 60 seeds: scipy's own normal p-values, ties and misses included; and the interval still is that of the signed ranks."""
    rng = np.random.default_rng(19)
    a, b = rng.integers(1, 60, 200) * 1.0 + 10 * shift, rng.integers(1, 60, 200) * 1.0
    a[:9] = INF
    assert rank_sum(a, b)[0] == pytest.approx(stats.mannwhitneyu(a, b, method="asymptotic").pvalue, rel=1e-9)
    gaps = rng.normal(size=200) + shift / 2
    assert signed_rank(gaps)[0] == pytest.approx(stats.wilcoxon(gaps, method="asymptotic", correction=True).pvalue, rel=1e-9)
    _, low, high = walsh_interval(gaps)
    assert signed_rank(gaps - low - 1e-9)[0] == pytest.approx(0.05, rel=0.02)
    assert signed_rank(gaps - high + 1e-9)[0] == pytest.approx(0.05, rel=0.02)
    assert steps_ratio(list(a), list(b), ran=([70.0] * 200, [70.0] * 200)).missed == (9, 0)


def test_walsh_with_infinities():
    middle, low, high = walsh_interval([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, INF, INF])
    assert 0 < low <= middle < INF
    assert high == INF
    assert walsh_interval([INF] * 6) == (INF, INF, INF)
    middle, low, high = walsh_interval([INF, -INF] * 4)
    assert (middle, low, high) == (0.0, -INF, INF)


# ---- ratios of steps


def test_a_ratio_is_the_exponential_of_a_paired_difference():
    a, b = [120.0, 90.0, 100.0], [100.0, 80.0, 95.0]
    expected = paired(list(np.log(a)), list(np.log(b)))
    found = steps_ratio(a, b)
    assert (found.ratio, found.low, found.high) == pytest.approx(tuple(np.exp(expected[:3])))
    assert found.p == expected.p


steps_lists = st.integers(1, 8).flatmap(
    lambda n: st.tuples(*[st.lists(st.one_of(st.integers(1, 500).map(float), st.just(INF)), min_size=n, max_size=n)] * 2)
)


@given(steps_lists)
def test_the_ratio_the_other_way_round(both):
    a, b = both
    one, two = steps_ratio(a, b), steps_ratio(b, a)
    assert one.p == pytest.approx(two.p, rel=1e-9)
    assert one.missed == two.missed[::-1]
    assert {one.faster, two.faster} in ({"a", "b"}, {""})
    for x, y in ((one.ratio, two.ratio), (one.low, two.high), (one.high, two.low)):
        assert (x == 0 and y == INF) or (x == INF and y == 0) or x * y == pytest.approx(1, rel=1e-9)
    assert one.low <= one.high
    if one.p <= 0.05 and one.by == "steps" and one.missed == (0, 0):
        assert not one.low <= 1 <= one.high


def test_misses_are_never_left_out():
    reached, missed = [100.0, 110.0, 105.0, 120.0, 95.0], [INF] * 5
    found = steps_ratio(missed, reached)
    assert found == (INF, 0.0, INF, pytest.approx(2 * 2 / 252), 5, "ranks", "b", (5, 0))
    assert steps_ratio(missed, missed).p == 1.0
    assert steps_ratio(missed[:3], reached[:3]).p == pytest.approx(2 * 2 / 20)
    ten = steps_ratio(reached + [INF] * 5, [50.0] * 10)
    assert ten.faster == "b"
    assert ten.p < 0.01


def test_steps_that_are_read_at_moments_are_not_believed_too_much():
    """Two runs that always cross one judgement apart: the rounding alone gives a deviation."""
    exact = steps_ratio([80.0] * 3, [40.0] * 3)
    read = steps_ratio([80.0] * 3, [40.0] * 3, every=40)
    assert exact.p == 0.0
    assert read.p > 0.05
    error = 40 / math.sqrt(80 * 40) / math.sqrt(6) / math.sqrt(3)
    assert read.p == pytest.approx(2 * stats.t.sf(math.log(2) / error, 2))


def test_bad_steps_are_refused():
    with pytest.raises(FalllineError, match="above 0"):
        steps_ratio([0.0], [1.0])
    with pytest.raises(FalllineError, match="as many values"):
        steps_ratio([1.0], [1.0, 2.0])


def test_the_crossing_of_a_straight_line_is_exact():
    at = np.arange(0, 101, 7.0)
    assert first_crossing(at, 2 - 0.01 * at, 1.5, lower=True) == pytest.approx(50)
    assert first_crossing(at, 0.01 * at, 0.33, lower=False) == pytest.approx(33)
    assert first_crossing(at, 0.01 * at, 2.0, lower=False) == INF
    assert first_crossing([0, 10], [0.5, 0.9], 0.4, lower=False) == 0
    assert first_crossing([0, 10, 20], [math.nan, math.nan, 1.0], 0.9, lower=False) == 20


# ---- coverage: 4,000 studies each, between 93 and 97 %

REPEATS = 4000


def _accuracy(rng, n):
    """Differences of accuracy on 270 rows, with a seed in common."""
    common = rng.normal(size=(REPEATS, n))
    a, b = (np.round(270 * (0.95 + 0.008 * (0.5 * common + rng.normal(size=(REPEATS, n))))) / 270 for _ in "ab")
    return a - b


DIFFERENCES = {
    "normal": (lambda rng, n: 0.7 + rng.normal(size=(REPEATS, n)), 0.7, 0.0),
    "Student's t, 3 degrees": (lambda rng, n: rng.standard_t(3, size=(REPEATS, n)), 0.0, 0.0),
    "log-normal, deviation 0.3": (lambda rng, n: rng.lognormal(0, 0.3, size=(REPEATS, n)), math.exp(0.045), 0.0),
    "accuracy on 270 rows": (_accuracy, 0.0, 1 / 270),
}


@pytest.mark.parametrize("noise", DIFFERENCES)
@pytest.mark.parametrize("n", [5, 10])
def test_intervals_of_differences_cover(noise, n):
    draw, truth, step = DIFFERENCES[noise]
    found = [paired(list(d), [0.0] * n, step=step) for d in draw(np.random.default_rng(2), n)]
    assert 0.93 <= np.mean([f.low <= truth <= f.high for f in found]) <= 0.97  # pyright: ignore[reportOptionalOperand]


@pytest.mark.parametrize("every", [0.0, 40.0])
@pytest.mark.parametrize("n", [5, 10])
def test_intervals_of_ratios_cover(n, every):
    """Log-normal steps around 200, 1.2 times as many for one; read exactly, and every 40 steps."""
    rng = np.random.default_rng(3)
    common = rng.normal(scale=0.1, size=(REPEATS, n))
    a, b = (200 * f * np.exp(common + rng.normal(scale=0.1, size=(REPEATS, n))) for f in (1.2, 1.0))
    if every:
        a, b = (np.ceil(v / every) * every for v in (a, b))
    found = [steps_ratio(list(x), list(y), every=every) for x, y in zip(a, b, strict=True)]
    cover = np.mean([f.low <= 1.2 <= f.high for f in found])
    assert 0.93 <= cover <= (0.97 if not every else 0.98)


@pytest.mark.parametrize("n", [6, 10])
def test_intervals_of_ratios_with_misses_cover(n):
    """Runs beyond a limit of steps are missed: the interval covers at least as often as it says."""
    rng = np.random.default_rng(4)
    repeats = 1500
    a, b = (200 * f * np.exp(rng.normal(scale=0.15, size=(repeats, n))) for f in (1.2, 1.0))
    a, b = (np.where(v > 260, INF, v) for v in (a, b))
    ran = ([260.0] * n, [260.0] * n)
    found = [f for x, y in zip(a, b, strict=True) if sum((f := steps_ratio(list(x), list(y), ran=ran)).missed)]
    assert len(found) > 1000
    assert np.mean([f.low <= 1.2 <= f.high for f in found]) >= 0.95 - margin(0.95, len(found))
    assert np.mean([f.low > 0 for f in found]) > 0.2  # and says something


# ---- whole studies of simulated curves: metric and steps, all pairs, one correction

JUDGED = np.arange(0, 481, 40)


def curves(rng, optimizers, seeds, *, slower=1.0, noise=0.1, metric_noise=0.008):
    """Rows of a study whose optimizers are all alike, but that the first needs `slower` times as many steps.

    Accuracy rises to 0.95 over 1 − e^(−t/τ), judged every 40 steps; τ has a part of the seed, the same for all, and a part of its own.
    """
    common = rng.normal(scale=0.15, size=seeds)
    rows = []
    for i in range(optimizers):
        tau = 80 * np.exp(common + rng.normal(scale=noise / math.sqrt(2), size=seeds)) * (slower if i == 0 else 1.0)
        curve = 0.95 * (1 - np.exp(-JUDGED / tau[:, None]))
        last = np.round(270 * (0.95 + metric_noise * rng.normal(size=seeds))) / 270
        steps = [first_crossing(JUDGED, c, 0.8, lower=False) for c in curve]
        rows.append(made_row(f"o{i}", last, steps))
    return rows


def made_row(name, values, steps, step=1 / 270, rank=1):
    return {
        "cell": name,
        "rank": rank,
        "at_seeds": list(range(len(values))),
        "values": [None if math.isnan(v) else float(v) for v in values],
        "steps": None if steps is None else [None if math.isinf(s) else float(s) for s in steps],
        "ran": [JUDGED[-1]] * len(values),
        "step": step,
        "every": 0.0,
        "metric": "accuracy",
        "mean": float(np.nanmean(values)) if not np.isnan(values).all() else None,
        "seeds": len(values),
        "diverged": int(np.isnan(values).sum()),
    }


def claims(rows):
    """How many differences a study claims of the metric and of the steps; its words must agree."""
    pairs = differences(rows)
    found = len(shown_values(pairs, lower=False)), len(shown_ratios(pairs))
    assert ("beat" in sentence(rows, pairs) or "more often" in sentence(rows, pairs)) == (found[0] > 0)
    assert steps_sentence(rows, pairs, 0.8).startswith("to reach") == (found[1] > 0)
    return found


def false_claims(repeats, make, seed=0):
    rng = np.random.default_rng(seed)
    return np.mean([any(claims(make(rng))) for _ in range(repeats)])


def test_studies_of_four_optimizers_that_are_alike():
    """200 studies of 5 seeds: at most 5 % claim anything, give or take 4.6 % (three deviations of 200 draws)."""
    assert false_claims(200, lambda rng: curves(rng, 4, 5)) <= 0.05 + margin(0.05, 200)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizers", "seeds"), [(2, 3), (2, 10), (4, 5), (9, 5)])
def test_many_studies_of_optimizers_that_are_alike(optimizers, seeds):
    assert false_claims(2000, lambda rng: curves(rng, optimizers, seeds), seed=1) <= 0.05 + margin(0.05, 2000)


def noisy(rng, optimizers, seeds):
    """Diverged runs, missed targets and skewed steps, at random and alike for all."""
    rows = []
    for i in range(optimizers):
        values = np.where(rng.random(seeds) < 0.2, math.nan, 0.9 + 0.01 * rng.normal(size=seeds))
        steps = np.where(rng.random(seeds) < 0.3, INF, 100 * rng.lognormal(0, 0.5, size=seeds))
        rows.append(made_row(f"o{i}", values, np.where(np.isnan(values), INF, steps), 0.0))
    return rows


@pytest.mark.parametrize("seeds", [5, 10])
def test_diverged_runs_and_missed_targets_do_not_fool_it(seeds):
    assert false_claims(400, lambda rng: noisy(rng, 2, seeds), seed=2) <= 0.05 + margin(0.05, 400)


def test_two_questions_do_not_double_the_error():
    """Metric and steps of one pair, independent: corrected one by one, 9.75 % of the studies would claim something."""
    rng = np.random.default_rng(5)
    repeats = 2000
    one_by_one = together = 0
    for _ in range(repeats):
        a, b, x, y = rng.normal(size=(4, 5))
        rows = [made_row("a", a, np.exp(x), 0.0), made_row("b", b, np.exp(y), 0.0)]
        rows = [{**row, "steps": [100 * s for s in row["steps"]]} for row in rows]
        (found,) = differences(rows)
        together += found["p"] <= 0.05 or found["ratio_p"] <= 0.05
        one_by_one += min(paired(list(a), list(b)).p, paired(list(x), list(y)).p) <= 0.05
    assert together / repeats <= 0.05 + margin(0.05, repeats)
    assert one_by_one / repeats > 0.0975 - margin(0.0975, repeats)


@pytest.mark.parametrize("trials", [1, 8])
def test_a_longer_search_claims_nothing_on_fresh_seeds(trials):
    """Alike at every rate: one is tuned as the best of 8 trials, its twin of one; fresh seeds judge, so the luck of the search is gone."""
    rng = np.random.default_rng(6)
    repeats, claimed, on_trials = 1000, 0, 0
    for _ in range(repeats):
        lucky = rng.normal(size=(5, trials)).max(axis=1)  # what the search saw, were it to judge as well
        fresh, twin = rng.normal(size=(2, 5))
        claimed += differences([made_row("a", fresh, None, 0.0), made_row("b", twin, None, 0.0)])[0]["p"] <= 0.05
        on_trials += differences([made_row("a", lucky, None, 0.0), made_row("b", twin, None, 0.0)])[0]["p"] <= 0.05
    assert claimed / repeats <= 0.05 + margin(0.05, repeats)
    if trials == 8:
        assert on_trials / repeats > 0.3  # the mistake that fresh seeds prevent


def test_rows_at_the_edge_are_asked_nothing_and_cost_nothing():
    rows = [made_row("a", np.array([1.0, 1.1, 0.9]), None, 0.0), made_row("b", np.array([0.5, 0.62, 0.4]), None, 0.0)]
    edge = made_row("c", np.array([0.1, 0.2, 0.15]), None, 0.0, rank=None)
    alone, beside = differences(rows), differences([*rows, edge])
    assert beside[0] == alone[0]
    assert [p["p"] for p in beside[1:]] == [None, None]
    assert beside[1]["difference"] == pytest.approx(0.85)


# ---- power


@pytest.mark.parametrize("noise", [0.1, 0.15])
def test_a_planted_difference_in_steps_is_found(noise):
    """1.2 times as many steps, 10 paired seeds, log ratios that deviate by 0.1 or 0.15 (digits: 0.04 to 0.14), two questions asked."""
    rng = np.random.default_rng(8)
    repeats = 200
    found = [shown_ratios(differences(curves(rng, 2, 10, slower=1.2, noise=noise))) for _ in range(repeats)]
    assert np.mean([edges.keys() == {("o1", "o0")} for edges in found]) >= 0.8
    assert not any(("o0", "o1") in edges for edges in found)


def test_a_planted_difference_is_found_where_half_of_the_slower_runs_miss():
    rng = np.random.default_rng(9)
    hits = 0
    for _ in range(200):
        x, y = (100 * f * np.exp(rng.normal(scale=0.1 / math.sqrt(2), size=10)) for f in (1.2, 1.0))
        x = np.where(x > 120, INF, x)
        values = 0.95 + 0.008 * rng.normal(size=(2, 10))
        (found,) = differences([made_row("slow", values[0], x, 0.0), made_row("fast", values[1], y, 0.0)])
        hits += found["ratio_p"] <= 0.05 and found["faster"] == "fast"
    assert hits / 200 >= 0.8
