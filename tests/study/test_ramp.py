"""The range test on bowls, where the edge and the best rate are known, and on functions that never fall."""

import math

import numpy as np
import pytest

from fallline._core.errors import FalllineError
from fallline.study.ramp import Walk, range_test


def bowl(*curvatures, noise=0.0):
    """Gradient descent on sum(c x^2) / 2 from x = 1; stable below lr = 2 / max(c)."""
    c = np.array(curvatures)

    def begin(order):
        rng = np.random.default_rng(order)
        x = np.ones_like(c)

        def step(lr):
            nonlocal x
            with np.errstate(all="ignore"):
                before = float((c * x * x).sum() / 2) + noise * rng.normal()
                x = x - lr * (c * x + noise * rng.normal(size=len(c)))
            return before

        def measure():
            with np.errstate(all="ignore"):
                return float((c * x * x).sum() / 2)

        return Walk(step, measure)

    return begin


@pytest.mark.parametrize("curvature", [0.01, 1.0, 300.0])
def test_on_a_bowl_the_edge_is_two_over_the_curvature(curvature):
    found = range_test(bowl(curvature), low=1e-5, high=1e4, default=1.0)
    assert found.found
    assert found.suggested < 2 / curvature
    assert 1.5 / curvature < found.edge < 8 / curvature
    assert found.useful[0] <= found.suggested <= found.useful[1] < 2 / curvature


def test_the_suggestion_really_descends_and_scales_with_the_problem():
    """Scaling the loss by k divides every rate by k."""
    one, ten = (range_test(bowl(c, c / 30), low=1e-6, high=1e3, default=1.0) for c in (1.0, 10.0))
    assert 5 < one.suggested / ten.suggested < 20
    begin = bowl(1.0, 1 / 30)
    walk = begin(99)
    for _ in range(100):
        walk.step(one.suggested)
    assert walk.measure() < 0.2 * begin(0).measure()


def test_noise_between_batches_does_not_move_it_far():
    quiet = range_test(bowl(1.0, 0.1), low=1e-5, high=1e2, default=1.0)
    noisy = range_test(bowl(1.0, 0.1, noise=0.05), low=1e-5, high=1e2, default=1.0)
    assert noisy.found
    assert noisy.useful[0] <= quiet.suggested
    assert noisy.suggested < 2.0
    assert noisy.edge < 10.0


def test_every_walk_starts_at_the_same_beginning():
    """A rate of zero descent would otherwise be credited with the work of the one before."""
    starts = []
    inner = bowl(1.0)

    def begin(order):
        walk = inner(order)
        starts.append(walk.measure())
        return walk

    range_test(begin, low=1e-3, high=10.0, default=1.0)
    assert len(starts) > 10
    assert set(starts) == {0.5}


def test_where_nothing_falls_it_says_so_and_takes_the_default():
    def begin(order):
        return Walk(lambda lr: 1.0, lambda: 1.0)

    found = range_test(begin, low=1e-3, high=1.0, default=0.05)
    assert not found.found
    assert found.suggested == 0.05
    assert found.confidence == 0
    assert "default" in found.text()


def test_a_loss_that_is_not_finite_is_not_hidden():
    found = range_test(lambda order: Walk(lambda lr: math.nan, lambda: math.nan), low=1e-3, high=1.0, default=0.05)
    assert not found.found
    assert "not finite" in found.reason


def test_negative_losses_are_fine():
    """A loss may lie below zero (Gaussian likelihood): thresholds are differences, never ratios."""
    inner = bowl(1.0)

    def begin(order):
        walk = inner(order)
        return Walk(lambda lr: walk.step(lr) - 7.0, lambda: walk.measure() - 7.0)

    found = range_test(begin, low=1e-4, high=1e2, default=1.0)
    assert found.found
    assert found.suggested < 2.0


def test_doubt_is_told():
    """Only one rate of the range works: the neighbours do much worse, so less is promised."""
    narrow = range_test(bowl(1.0), low=1e-8, high=1e-3, default=1e-3)
    wide = range_test(bowl(1.0), low=1e-4, high=1e2, default=1e-3)
    assert narrow.confidence < wide.confidence
    assert "end of those that were tried" in narrow.reason


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 0.1), (-1.0, 1.0), (1.0, math.inf)])
def test_a_bad_range_is_refused(low, high):
    with pytest.raises(FalllineError, match="0 < low < high"):
        range_test(bowl(1.0), low=low, high=high, default=1.0)
