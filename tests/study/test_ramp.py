"""The range test on bowls, where the edge and the best rate are known, and on functions that never fall."""

import itertools
import math

import numpy as np
import pytest

from fallline._core.errors import FalllineError
from fallline.study.ramp import range_test, steepest
from fallline.study.trials import candidates, vertex
from fallline.study.walks import OneByOne, Walk


def bowl(*curvatures, noise=0.0, rows=0.0):
    """Gradient descent on sum(c x^2) / 2 from x = 1; stable below lr = 2 / max(c).

    `noise`: of the gradient and, alone, of the loss; `rows`: noise that a mini-batch adds to both, as rows do: loss + m x, gradient + m.
    """
    c = np.array(curvatures)

    def begin(order):
        rng = np.random.default_rng(order)
        x = np.ones_like(c)

        def step(lr):
            nonlocal x
            with np.errstate(all="ignore"):
                m = rows * rng.normal(size=len(c))
                before = float((c * x * x).sum() / 2 + m @ x) + noise * rng.normal()
                x = x - lr * (c * x + m + noise * rng.normal(size=len(c)))
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
    assert 1.6 / curvature < found.edge < 2.5 / curvature
    assert found.useful[0] <= found.suggested <= found.useful[1] < 2 / curvature


@pytest.mark.parametrize("curvature", [1e-7, 1e9])
def test_a_range_that_misses_the_edge_is_left(curvature):
    """The edge lies four decades above, or four below, what was asked for."""
    found = range_test(bowl(curvature), low=1e-5, high=1e4, default=1.0)
    assert found.found
    assert 0.1 / curvature < found.suggested < 2 / curvature
    assert 1.6 / curvature < found.edge < 2.5 / curvature


def test_noise_of_the_rows_does_not_hide_the_descent():
    """The loss of a mini-batch moves by a hundred times the whole fall; only the difference to the untrained model shows it."""
    found = range_test(bowl(1.0, rows=50.0), low=1e-8, high=1e3, default=1.0)
    quiet = range_test(bowl(1.0), low=1e-8, high=1e3, default=1.0)
    assert found.found
    assert 1e-7 < found.suggested < 0.01 < quiet.suggested  # noise of 50 asks for small steps
    assert found.confidence < quiet.confidence


def test_the_suggestion_really_descends_and_scales_with_the_problem():
    """Scaling the loss by k divides every rate by k."""
    one, ten = (range_test(bowl(c, c / 30), low=1e-6, high=1e3, default=1.0) for c in (1.0, 10.0))
    assert 5 < one.suggested / ten.suggested < 20
    begin = bowl(1.0, 1 / 30)
    walk = begin(99)
    for _ in range(100):
        walk.step(one.suggested)
    assert walk.measure() < 0.2 * begin(0).measure()


def test_a_longer_training_asks_for_a_smaller_rate_where_the_gradient_is_noisy():
    """On a noisy bowl the best fixed rate of n steps is near log(n) / n; on a quiet one it does not fall at all."""
    ask = {"low": 1e-5, "high": 1e2, "default": 1.0, "orders": 4, "looks": 3}
    short, long, far = (range_test(bowl(1.0, noise=0.3), total=n, longest=min(n, 400), **ask).suggested for n in (100, 400, 6400))
    assert short / long > 1.5
    assert long / far > 1.5
    quiet = [range_test(bowl(1.0, 0.1), total=n, longest=400, **ask).suggested for n in (100, 6400)]
    assert 0.5 < quiet[0] / quiet[1] < 2


def test_noise_between_batches_does_not_move_it_far():
    quiet = range_test(bowl(1.0, 0.1), low=1e-5, high=1e2, default=1.0)
    noisy = range_test(bowl(1.0, 0.1, noise=0.05), low=1e-5, high=1e2, default=1.0)
    assert noisy.found
    assert noisy.useful[0] <= quiet.suggested
    assert noisy.suggested < 2.0
    assert noisy.edge < 4.0


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
    assert found.useful == (0.05, 0.05)
    assert found.edge is None
    assert found.confidence == 0
    assert "stayed where it was" in found.reason
    assert "default" in found.text()


def test_where_the_loss_only_rises_it_says_so():
    """An optimizer with the wrong sign."""
    inner = bowl(1.0)

    def begin(order):
        walk = inner(order)
        return Walk(lambda lr: walk.step(-lr), walk.measure)

    found = range_test(begin, low=1e-3, high=1.0, default=0.05)
    assert not found.found
    assert found.suggested == 0.05
    assert "rose at every rate" in found.reason


def test_a_loss_that_is_not_finite_is_not_hidden():
    found = range_test(lambda order: Walk(lambda lr: math.nan, lambda: math.nan), low=1e-3, high=1.0, default=0.05)
    assert not found.found
    assert "not finite" in found.reason


def test_a_loss_that_is_lost_at_the_first_step_is_no_suggestion():
    found = range_test(lambda order: Walk(lambda lr: math.nan, lambda: 1.0), low=1e-3, high=1.0, default=0.05)
    assert not found.found
    assert found.suggested == 0.05


def test_a_training_of_one_step():
    """One step of gradient descent on a bowl of curvature c is best at 1 / c."""
    found = range_test(bowl(4.0), low=1e-4, high=1e2, default=1.0, steps=1, total=1)
    assert found.found
    assert (1 - 4 * found.suggested) ** 2 < 0.05  # of the loss before the step


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
    """Orders of the data that disagree, and a fall that is small beside the noise, lower what is promised."""
    sure, unsure = (
        range_test(bowl(1.0), low=1e-4, high=1e2, default=1e-3),
        range_test(bowl(1.0, rows=5.0), low=1e-4, high=1e2, default=1e-3),
    )
    assert sure.confidence == 1
    assert unsure.confidence < 0.75
    assert "but" in unsure.reason


def test_the_number_of_mini_batches_is_counted():
    count = 0
    inner = bowl(1.0, noise=0.1)

    def begin(order):
        walk = inner(order)

        def step(lr):
            nonlocal count
            count += 1
            return walk.step(lr)

        return Walk(step, walk.measure)

    found = range_test(begin, low=1e-4, high=1e2, default=1e-3, total=1000, longest=400)
    assert found.steps == count


@pytest.mark.parametrize("total", [1, 20, 29, 30, 100, 300, 2000])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("curvature", [1e-6, 1.0, 1e6])
def test_where_steps_are_dear_no_more_are_made_than_is_said(total, noise, curvature):
    """And the rate is still one at which the loss falls."""
    from fallline.study.lr import _effort

    made = 0

    def counted(order):
        walk = bowl(curvature, noise=noise)(order)

        def step(lr):
            nonlocal made
            made += 1
            return walk.step(lr)

        return Walk(step, walk.measure)

    found = range_test(counted, low=1e-4, high=10.0, default=1.0, total=total, **_effort(False, total, short=total < 30))
    assert made == found.steps <= max(600, 3 * total)
    if curvature == 1.0:
        assert found.found
        assert 0.01 < found.suggested < 2


@pytest.mark.parametrize("scale", [1e-13, 1e-6, 1.0, 1e13])
@pytest.mark.parametrize("offset", [0.0, -1e4])
def test_neither_the_scale_of_the_loss_nor_a_constant_in_it_hides_the_descent(scale, offset):
    def begin(order):
        walk = bowl(1.0, rows=0.1)(order)
        return Walk(lambda lr: scale * (walk.step(lr) + offset), lambda: scale * (walk.measure() + offset))

    found = range_test(begin, low=1e-5, high=1e2, default=1.0)
    assert found.found
    assert found.suggested == pytest.approx(range_test(bowl(1.0, rows=0.1), low=1e-5, high=1e2, default=1.0).suggested, rel=0.03)


def test_the_steepest_rate_is_taken_on_log_lr():
    """Losses that fall by the same amount a decade are steepest nowhere on log lr, and at the smallest rate on lr itself."""
    lrs = np.geomspace(1e-6, 1.0, 61)
    curve = 1 / (1 + (lrs / 1e-3) ** 2)
    assert steepest(lrs.tolist(), curve.tolist()) == pytest.approx(1e-3, rel=0.3)  # half-way down, by symmetry on log lr
    assert steepest(lrs.tolist(), lrs.tolist()) is None


def test_the_vertex_of_a_parabola_is_exact():
    rates = [0.01, 0.07, 0.3]
    ends = {rate: (math.log(rate) - math.log(0.05)) ** 2 for rate in rates}
    assert vertex(ends, 100.0) == pytest.approx(0.05, rel=1e-12)


def test_candidates_span_the_bracket():
    rates = candidates(0.001, 10.0, 8)
    assert (rates[0], rates[-1], len(rates)) == (0.001, 10.0, 8)
    assert max(b / a for a, b in itertools.pairwise(rates)) < 4


def test_walks_go_on_where_they_ended():
    """Two runs of fifty steps are one of a hundred; a walk that is not asked stays where it is."""
    rates = [[0.1] * 100, [0.3] * 100]
    whole = OneByOne(bowl(1.0, noise=0.1), [0, 1], hold=True).run(rates, marks=[100])
    walks = OneByOne(bowl(1.0, noise=0.1), [0, 1], hold=True)
    first = walks.run([part[:50] for part in rates])
    second, third = walks.run([rates[0][50:], []], marks=[50]), walks.run([[], rates[1][50:]], marks=[50])
    assert first[0].losses + second[0].losses == whole[0].losses
    assert first[1].losses + third[1].losses == whole[1].losses
    assert (second[0].ends, third[1].ends) == (whole[0].ends, whole[1].ends)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 0.1), (-1.0, 1.0), (1.0, math.inf)])
def test_a_bad_range_is_refused(low, high):
    with pytest.raises(FalllineError, match="0 < low < high"):
        range_test(bowl(1.0), low=low, high=high, default=1.0)
