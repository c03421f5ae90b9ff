"""Performance profiles against integrals and hand counts; the best of k trials against every subset of the trials."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallline._core.errors import FalllineError
from fallline.study.expected_best import budget_curve, expected_best
from fallline.study.profiles import profiles, ratios, score, share_within, study_profiles

times = st.one_of(st.integers(1, 1000).map(float), st.just(math.inf))
tables = st.integers(1, 8).flatmap(
    lambda problems: st.dictionaries(st.sampled_from("abcde"), st.lists(times, min_size=problems, max_size=problems), min_size=1)
)


def test_a_profile_by_hand():
    """Three problems: a is twice the fastest, b thrice and missing once, and one problem no one solves."""
    found = {p["name"]: p for p in profiles({"a": [10.0, 40.0, math.inf], "b": [30.0, 20.0, math.inf]})}
    assert found["a"]["tau"] == [1.0, 2.0, 4.0]
    assert found["a"]["rho"] == [1 / 3, 2 / 3, 2 / 3]
    assert found["b"]["rho"] == [1 / 3, 2 / 3, 2 / 3]
    assert found["b"]["tau"] == [1.0, 3.0, 4.0]
    assert found["a"]["score"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["b"]["score"] == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert found["a"]["missed"] == found["b"]["missed"] == 1


@given(tables, st.floats(1.5, 10))
def test_the_score_is_the_integral_of_the_staircase(table, farthest):
    for profile in profiles(table, farthest):
        area = sum(
            height * (right - left)
            for height, left, right in zip(profile["rho"][:-1], profile["tau"][:-1], profile["tau"][1:], strict=True)
        )
        assert profile["score"] == pytest.approx(area / (farthest - 1), abs=1e-12)


@given(tables)
def test_a_profile_rises_from_being_fastest_to_arriving_at_all(table):
    by = ratios(table)
    solved = [p for p in range(len(next(iter(table.values())))) if any(math.isfinite(t[p]) for t in table.values())]
    assert sum(share_within(r, 1.0) for r in by.values()) >= len(solved) / max(1, len(next(iter(by.values())))) - 1e-12
    for name, r in by.items():
        assert share_within(r, 1e9) == pytest.approx(np.mean(np.isfinite(table[name])))
        heights = [share_within(r, tau) for tau in np.linspace(1, 6, 30)]
        assert heights == sorted(heights)
        assert (r >= 1).all()


@given(tables, st.integers(2, 9))
def test_another_unit_of_time_changes_nothing(table, factor):
    scaled = {name: [t * 2.0**factor for t in found] for name, found in table.items()}
    assert profiles(scaled) == profiles(table)


def test_the_scores_of_a_rival_that_is_always_k_times_slower():
    for k in (1.0, 2.5, 4.0, 5.0):
        found = {p["name"]: p["score"] for p in profiles({"a": [1.0, 7.0], "b": [k, 7 * k]})}
        assert found["a"] == 1.0
        assert found["b"] == pytest.approx(max(0.0, 4 - k) / 3)


def test_bad_tables_are_refused():
    with pytest.raises(FalllineError, match="a time for every problem"):
        ratios({"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(FalllineError, match="above 0"):
        ratios({"a": [0.0]})
    with pytest.raises(FalllineError, match="farthest > 1"):
        score([1.0], 1.0)


def row(optimizer, steps, batch=32, rank=1, seeds=(0, 1)):
    return {"rank": rank, "optimizer": optimizer, "batch_size": batch, "at_seeds": list(seeds), "steps": steps}


def test_a_study_has_seeds_and_batch_sizes_as_problems():
    rows = [row("a", [10, 20]), row("a", [100, None], 64), row("b", [20, 20]), row("b", [50, 60], 64), row("c", [1, 1], rank=None)]
    found = {p["name"]: p for p in study_profiles(rows)}
    assert set(found) == {"a", "b"}  # c is not ranked
    assert found["a"]["problems"] == found["b"]["problems"] == 4
    assert found["a"]["score"] == pytest.approx(np.mean([1, 1, 2 / 3, 0]))
    assert found["b"]["score"] == pytest.approx(np.mean([2 / 3, 1, 1, 1]))


def test_a_schedule_belongs_to_the_optimizer_and_a_loss_to_the_problem():
    rows = [{**row("a", [10, 20]), "schedule": "constant", "loss": "mse"}, {**row("a", [20, 20]), "schedule": "cosine", "loss": "mse"}]
    assert [p["name"] for p in study_profiles(rows)] == ["a under constant", "a under cosine"]
    rows = [
        {**row(name, steps), "schedule": "cosine", "loss": loss}
        for name, steps, loss in [("a", [1, 2], "mse"), ("a", [3, 3], "mae"), ("b", [2, 4], "mse"), ("b", [3, 3], "mae")]
    ]
    assert [(p["name"], p["problems"], p["rho"][0]) for p in study_profiles(rows)] == [("a", 4, 1.0), ("b", 4, 0.5)]


def test_problems_that_not_all_were_run_on_are_left_out():
    found = study_profiles([row("a", [10, 20, 5], seeds=(0, 1, 2)), row("b", [30, 10], seeds=(1, 2))])
    assert found[0]["name"] == "a"
    assert [p["score"] for p in found] == [1.0, pytest.approx((2.5 + 2) / 3 / 2)]
    assert study_profiles([row("a", [1, 2])]) == study_profiles([row("a", None), row("b", None)]) == []


# ---- the best of k trials

losses = st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=8)


@given(losses, st.data())
def test_expected_best_is_the_mean_over_every_subset(values, data):
    k = data.draw(st.integers(1, len(values)))
    for lower, best in ((True, min), (False, max)):
        expected = np.mean([best(subset) for subset in combinations(values, k)])
        assert expected_best(values, k, lower=lower) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(losses)
def test_the_curve_begins_at_the_mean_ends_at_the_best_and_never_rises(values):
    curve = budget_curve(values)
    assert curve[0] == pytest.approx(np.mean(values), abs=1e-12)
    assert curve[-1] == min(values)
    assert all(np.diff(curve) <= 1e-12)


def test_it_is_unbiased_where_drawing_with_replacement_is_not():
    """Exactly, over all 6^4 samples of 4 trials from a die: the best of 2 averages 91/36; Dodge's estimate is too high."""
    grid = np.stack(np.meshgrid(*[np.arange(1, 7)] * 4, indexing="ij"), -1).reshape(-1, 4)
    found = np.mean([expected_best(list(map(float, trials)), 2) for trials in grid])
    assert found == pytest.approx(91 / 36, rel=1e-12)
    replaced = np.mean([np.minimum.outer(t, t).mean() for t in grid])
    assert replaced > 91 / 36 + 0.1


def test_diverged_trials_are_the_worst():
    assert expected_best([1.0, math.nan, math.inf], 2) == math.inf
    assert expected_best([1.0, 2.0, math.nan], 2) == pytest.approx((1 + 1 + 2) / 3)
    assert expected_best([1.0, math.nan], 2, lower=False) == 1.0
    with pytest.raises(FalllineError, match="number of trials"):
        expected_best([1.0], 2)
