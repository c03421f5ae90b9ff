"""Schedules equal torch's own where torch has them, hold what their formula says, and depend on the step alone."""

import math

import pytest
import torch

from fallline._core.errors import FalllineError
from fallline.optim import schedules as s

STEPS = 60


def torch_rates(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


T = torch.optim.lr_scheduler
PAIRS = {
    "step": (s.step(7, factor=0.3), lambda o: T.StepLR(o, 7, 0.3)),
    "exponential": (s.exponential(1, factor=0.9), lambda o: T.ExponentialLR(o, 0.9)),
    "polynomial": (s.polynomial(40, power=2.0), lambda o: T.PolynomialLR(o, 40, 2.0)),
    "cosine": (s.cosine(STEPS, end=0.1), lambda o: T.CosineAnnealingLR(o, STEPS, eta_min=0.1)),
    "warm_restarts": (s.warm_restarts(6, mult=2, end=0.05), lambda o: T.CosineAnnealingWarmRestarts(o, 6, 2, 0.05)),
    "warm_restarts_1": (s.warm_restarts(6, mult=1), lambda o: T.CosineAnnealingWarmRestarts(o, 6, 1)),
    "warmup": (s.warmup(10), lambda o: T.LinearLR(o, 0.1, 1.0, 9)),
    "one_cycle": (s.one_cycle(STEPS + 1, peak=0.25), lambda o: T.OneCycleLR(o, 1.0, STEPS + 1, pct_start=0.25, cycle_momentum=False)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equals_torch(name):
    ours, theirs = PAIRS[name]
    assert [ours(t) for t in range(STEPS)] == pytest.approx(torch_rates(theirs), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_depends_on_the_step_alone(name):
    schedule = PAIRS[name][0]
    forward = [schedule(t) for t in range(STEPS)]
    assert [schedule(t) for t in reversed(range(STEPS))] == forward[::-1]


def test_plateau_equals_torch_and_survives_a_stop():
    losses = [1.0, 0.9, 0.9, 0.9, 0.9, 0.8, 0.85, 0.85, 0.85, 0.85, 0.7999, 0.79, 0.79, math.nan, 0.79, 0.79]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = T.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, threshold=1e-2)
    ours = s.Plateau(factor=0.5, patience=2, threshold=1e-2)
    seen = []
    for loss in losses:
        theirs.step(loss)
        again = s.Plateau(factor=0.5, patience=2, threshold=1e-2)
        again.load(ours.state())
        ours = again
        ours.update(loss)
        assert ours(123) == optimizer.param_groups[0]["lr"]
        seen.append(ours(0))
    assert len(set(seen)) >= 3


def test_warmup_then_cosine():
    both = s.warmup(5) >> s.cosine(20)
    assert [both(t) for t in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [both(5 + t) for t in range(21)] == [s.cosine(20)(t) for t in range(21)]
    assert both.length == 25


@pytest.mark.parametrize("name", s.SCHEDULES)
def test_build_knows_every_name_and_stays_in_range(name):
    schedule = s.build(name, total_steps=100, steps_per_epoch=10)
    rates = [schedule(t) for t in range(130)]
    assert all(0 <= rate <= 1 for rate in rates)
    if name not in ("constant", "plateau"):
        assert len(set(rates)) > 1


def test_times_are_in_epochs():
    assert [s.build("step:every=2,factor=0.5", total_steps=100, steps_per_epoch=10)(t) for t in (0, 19, 20, 40)] == [1, 1, 0.5, 0.25]
    assert s.build("warmup:epochs=0.5", total_steps=100, steps_per_epoch=10)(4) == 1.0
    built = s.build("warmup:epochs=1+cosine:end=0.2", total_steps=100, steps_per_epoch=10)
    assert built(9) == 1.0
    assert built(100) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "spec",
    [
        "cosin",
        "cosine:stop=1",
        "cosine:end=x",
        "cosine:end=2",
        "step:every=0",
        "step:factor=0",
        "cosine+step",
        "warmup+plateau",
        "plateau:factor=1",
        "plateau:end=5",
        "plateau:patience=nan",
        "one_cycle:start=-3",
        "step:every=inf",
    ],
)
def test_a_bad_spec_is_refused(spec):
    with pytest.raises(FalllineError):
        s.build(spec, total_steps=100, steps_per_epoch=10)


def test_an_endless_schedule_cannot_come_first():
    with pytest.raises(FalllineError, match="end"):
        s.constant() >> s.cosine(3)
