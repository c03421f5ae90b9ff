"""Every member is stepped as its own optimizer would alone, whatever stands beside it."""

import pytest
import torch

from fallline import optim
from fallline.optim import schedules
from fallline.population.stack import Stack
from fallline.population.steppers import Steppers, build_one, fits
from fallline.training import Settings
from fallline.training.stepping import as_used
from tests.training.toys import net

STEPS = 6


def slope(weights, kept, step):
    """A gradient that depends on the weights, alike for a member alone and in a stack."""
    g = torch.Generator().manual_seed(step)
    return {n: 0.1 * weights[n] + torch.randn(kept[n].shape, generator=g, dtype=weights[n].dtype) for n in weights}


def by_itself(settings, rate, dtype, steps=STEPS):
    model = net(seed=settings.seed).to(dtype)
    named = dict(model.named_parameters())
    optimizer = build_one(settings, list(named.items()))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        found = slope({n: p.detach() for n, p in named.items()}, named, step)
        for name, p in named.items():
            p.grad = found[name]
        optimizer.step()
    with as_used(optimizer):
        return {n: p.detach().clone() for n, p in named.items()}


def together(chosen, rates, dtype, alike=None, leave=None, prepared=True):
    stack = Stack([net(seed=s.seed).to(dtype) for s in chosen])
    steppers = Steppers(stack, chosen, rates, list(range(len(chosen))) if alike is None else alike)
    one = dict(net().named_parameters())
    for step in range(STEPS):
        if prepared and step % 3 == 0:
            steppers.prepare(step, 3)
        each = [slope({n: v[i] for n, v in stack.values.items()}, one, step) for i in range(len(stack))]
        for name, grad in stack.grads.items():
            grad.copy_(torch.stack([found[name] for found in each]))
        steppers.step(step)
        if leave is not None and step == 2:
            stack.take(torch.tensor(leave))
            steppers.take(leave)
    with steppers.as_used():
        return steppers, {n: v.clone() for n, v in stack.values.items()}


def constant(lr):
    return lambda step: lr


def apart(stacked, member, alone):
    return max(float((stacked[n][member] - alone[n]).abs().max()) for n in alone)


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_every_rule_steps_as_alone(name):
    chosen = [Settings(optimizer=name, lr=lr, seed=seed) for seed, lr in ((0, 0.01), (1, 0.003), (2, 0.01))]
    rates = [constant(float(s.lr)) for s in chosen]
    _, found = together(chosen, rates, torch.float64)
    for member, (settings, rate) in enumerate(zip(chosen, rates, strict=True)):
        alone = by_itself(settings, rate, torch.float64)
        assert apart(found, member, alone) < 1e-12
        assert apart(found, member, {n: p.detach().double() for n, p in net(seed=settings.seed).named_parameters()}) > 0  # it moved


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize(
    "more", [{}, {"clip_norm": 0.5}, {"weight_decay": 0.1}, {"clip_norm": 1e6}], ids=["plain", "clips", "decays", "clips nothing"]
)
def test_rules_side_by_side_in_single_precision(engine, more):
    rules = ("sgd:momentum=0.9", "adam", "rmsprop", "adam", "adagrad", "adamax", "adam")
    chosen = [Settings(optimizer=o, lr=0.003 * (1 + i % 3), seed=i, engine=engine, **more) for i, o in enumerate(rules)]
    rates = [constant(float(s.lr)) for s in chosen]
    steppers, found = together(chosen, rates, torch.float32)
    assert bool(steppers.each) is (engine == "torch")
    for member, (settings, rate) in enumerate(zip(chosen, rates, strict=True)):
        assert apart(found, member, by_itself(settings, rate, torch.float32)) == 0


def test_some_clip_and_some_do_not():
    chosen = [Settings(optimizer="sgd", lr=0.1, seed=i, clip_norm=c) for i, c in enumerate((None, 0.1, 0.5, None))]
    rates = [constant(0.1)] * 4
    _, found = together(chosen, rates, torch.float64)
    for member, settings in enumerate(chosen):
        assert apart(found, member, by_itself(settings, rates[member], torch.float64)) < 1e-12


def test_members_alike_share_a_row_and_others_do_not():
    chosen = [Settings(optimizer="adam", lr=lr, seed=i) for i, lr in enumerate((0.01, 0.01, 0.02, 0.01))]
    rates = [constant(float(s.lr)) for s in chosen]
    steppers, _ = together(chosen, rates, torch.float32, alike=["", "", "", "own"])
    (bucket,) = steppers.buckets
    assert len(bucket.heads) == 3
    assert bucket.head_of.tolist() == [0, 0, 1, 2]


def test_schedules_of_their_own():
    plans = [schedules.build(spec, total_steps=STEPS, steps_per_epoch=3) for spec in ("cosine", "constant", "linear")]
    chosen = [Settings(optimizer="nadam", lr=0.02, seed=i) for i in range(3)]
    rates = [lambda step, plan=plan: 0.02 * plan(step) for plan in plans]
    for prepared in (True, False):
        _, found = together(chosen, rates, torch.float64, prepared=prepared)
        for member, settings in enumerate(chosen):
            assert apart(found, member, by_itself(settings, rates[member], torch.float64)) < 1e-12


@pytest.mark.parametrize("kept", [[0, 2, 5], [1, 3, 4], [5], [0, 1, 2, 3, 4, 5]])
def test_those_that_stay_are_stepped_on_with_their_own_state(kept):
    rules = ("adam", "muon", "rmsprop:momentum=0.5", "adam", "muon", "sgd:momentum=0.9")
    chosen = [Settings(optimizer=o, lr=0.01, seed=i, clip_norm=1.0 if i == 3 else None) for i, o in enumerate(rules)]
    rates = [constant(0.01)] * 6
    steppers, found = together(chosen, rates, torch.float64, leave=kept)
    for place, member in enumerate(kept):
        assert apart(found, place, by_itself(chosen[member], rates[member], torch.float64)) < 1e-12
    assert sorted([*steppers.each, *(int(m) for b in steppers.buckets for m in b.members)]) == list(range(len(kept)))


def test_seconds_are_counted_once():
    chosen = [Settings(optimizer=o, lr=0.01, seed=i) for i, o in enumerate(("adam", "muon", "adam"))]
    steppers, _ = together(chosen, [constant(0.01)] * 3, torch.float32)
    first = steppers.spent()
    assert all(seconds > 0 for seconds in first)
    assert first[0] == first[2]
    assert steppers.spent() == [0.0] * 3


def test_which_rules_the_table_can_step():
    def one(spec):
        return build_one(Settings(optimizer=spec, lr=0.01), [("w", torch.nn.Parameter(torch.zeros(2, 2)))])

    assert fits(one("adam"))
    assert fits(one("sgd:momentum=0.9,nesterov=true"))
    assert not fits(one("muon"))
    assert not fits(one("lamb"))
