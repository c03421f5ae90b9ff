"""GradNorm against a plain second-order implementation in float64, and what must hold of any balancing."""

import math
from collections.abc import Callable

import pytest
import torch

from fallline import FalllineError
from fallline.losses import MultiTask, functional
from tests.losses.combined.toys import TASKS, D, batch, loss_of, network, num, walk


def objective(losses, w, shared, initial, alpha):
    """The paper's Σ|G − mean(G) r^α|, its targets held fixed, with a graph to the weights."""
    norms = []
    for i, loss in enumerate(losses):
        slopes = torch.autograd.grad(w[i] * loss, shared, create_graph=True)
        norms.append(torch.cat([s.flatten() for s in slopes]).norm())
    g = torch.stack(norms)
    ratio = torch.stack([loss.detach() for loss in losses]) / initial
    target = (g.mean() * (ratio / ratio.mean()) ** alpha).detach()
    return (g - target).abs().sum(), g.detach(), target


def brute(model, steps, alpha, scale=1.0, rate=0.1, start=(1.0, 1.0), tasks=(0, 1)):
    """Algorithm 1 as it stands: second-order weights' gradient, torch's Adam on the weights, renormalised to the number of tasks."""
    w = torch.tensor(start, dtype=D)
    w = (w * len(w) / w.sum()).requires_grad_()
    adam, initial, seen = torch.optim.Adam([w], lr=0.025), None, []
    for step in range(steps):
        x, y = batch(seed=step)
        out = model(x)
        found = (
            torch.nn.functional.cross_entropy(out["class"], y["class"]),
            (out["brightness"] - scale * y["brightness"]).square().mean(),
        )
        losses = [found[i] for i in tasks]
        if initial is None:
            initial = torch.stack(losses).detach()
        value, _, _ = objective(losses, w, model.shared, initial, alpha)
        w.grad = torch.autograd.grad(value, w, retain_graph=True)[0]
        slopes = torch.autograd.grad((w.detach() * torch.stack(losses)).sum(), list(model.parameters()))
        adam.step()
        with torch.no_grad():
            w *= len(w) / w.sum()
            for p, slope in zip(model.parameters(), slopes, strict=True):
                p -= rate * slope
        seen.append(w.detach().clone())
    return torch.stack(seen)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5, 3.0])
def test_the_gradient_of_the_weights_is_the_second_order_one(alpha):
    model, (x, y) = network(), batch()
    out = model(x)
    losses = [torch.nn.functional.cross_entropy(out["class"], y["class"]), (out["brightness"] - 4 * y["brightness"]).square().mean()]
    w, initial = torch.tensor([0.6, 1.4], dtype=D, requires_grad=True), torch.tensor([2.0, 3.0], dtype=D)
    value, norms, target = objective(losses, w, model.shared, initial, alpha)
    expected = torch.autograd.grad(value, w, retain_graph=True)[0]
    found = functional.gradnorm(losses, w, model.shared, initial, alpha)
    assert torch.allclose(found.gradient, expected, rtol=1e-12)
    assert torch.allclose(found.norms, norms, rtol=1e-12)
    assert torch.allclose(found.targets, target, rtol=1e-12)
    assert num(found.rates.mean()) == pytest.approx(1)
    assert functional.gradnorm(torch.stack(losses), w, model.shared, initial, alpha).gradient.equal(found.gradient)
    assert found.gradient.any()
    torch.stack(losses).sum().backward()  # the graph is still there


def test_a_task_that_is_absent_does_not_count_in_the_means():
    w = torch.tensor([1.0, 2.0, -1.0], dtype=D, requires_grad=True)
    losses = [w.square().sum(), (3 * w).square().mean(), (w[0] - w[1]).square() * 50]
    weights, initial = torch.tensor([0.5, 1.5, 1.0], dtype=D), torch.tensor([4.0, 30.0, 20.0], dtype=D)
    two = functional.gradnorm(losses[:2], weights[:2], w, initial[:2], 0.7)
    three = functional.gradnorm(losses, weights, w, initial, 0.7, present=torch.tensor([True, True, False]))
    assert torch.allclose(three.targets[:2], two.targets, rtol=1e-14)
    assert torch.allclose(three.gradient[:2], two.gradient, rtol=1e-14)
    assert num(three.gradient[2]) == num(three.targets[2]) == 0


@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_twelve_steps_are_those_of_the_plain_algorithm(alpha, scale):
    ours, plain = network(), network()
    seen = walk(ours, loss_of("gradnorm", alpha=alpha, weights=(0.5, 1.5)), 12, scale=scale, rate=1e-3)
    expected = brute(plain, 12, alpha, scale=scale, rate=1e-3, start=(0.5, 1.5))
    assert torch.allclose(seen, expected, rtol=0, atol=1e-12)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert (seen[-1] - seen[0]).abs().max() > 0.1
    assert torch.allclose(seen.sum(1), torch.full((12,), 2.0, dtype=D), atol=1e-12)


def test_the_backward_pass_uses_the_weights_that_made_the_total():
    model, loss = network(), loss_of("gradnorm")
    x, y = batch()
    parts = loss.parts(model(x), y)
    expected = torch.autograd.grad(sum(parts.raw.values()), list(model.parameters()), retain_graph=True)
    loss.backward(parts, shared=model.shared)
    assert all(torch.allclose(p.grad, e, atol=1e-14) for p, e in zip(model.parameters(), expected, strict=True))
    assert loss.weights != {"class": 1.0, "brightness": 1.0}
    assert [num(w) for w in parts.weights.values()] == [1.0, 1.0]


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_equal_tasks_keep_equal_weights(tasks):
    names = [f"t{i}" for i in range(tasks)]
    loss = MultiTask(dict.fromkeys(names, "mse"), weighting="gradnorm").double()
    layer = torch.nn.Linear(4, 1).double()
    for step in range(20):
        x, y = batch(seed=step)
        output = layer(x).squeeze(-1)
        layer.zero_grad()
        loss.backward(loss.parts([output] * tasks, [y["brightness"]] * tasks), shared=layer)
        with torch.no_grad():
            for p in layer.parameters():
                p -= 0.05 * p.grad
    assert loss.weights == pytest.approx(dict.fromkeys(names, 1.0), abs=1e-12)


def test_alpha_moves_the_trajectory():
    paths = [walk(network(), loss_of("gradnorm", alpha=alpha), 40, rate=0.02) for alpha in (0.0, 0.5, 3.0)]
    assert (paths[0] - paths[1]).abs().max() > 0.01
    assert (paths[1] - paths[2]).abs().max() > 0.01


def test_a_task_that_drowns_the_other_is_turned_down():
    """Targets of 30 times the size: with alpha 0 the two pull alike in the end."""
    model, loss = network(), loss_of("gradnorm", alpha=0.0)
    x, y = batch()
    y["brightness"] = 30 * y["brightness"]

    def pulls():
        parts = loss.parts(model(x), y)
        w = torch.tensor(list(loss.weights.values()), dtype=D)
        return functional.gradnorm(list(parts.raw.values()), w, model.shared, torch.ones(2, dtype=D), 0.0).norms

    before = pulls()
    for _ in range(120):
        loss.balance(loss.parts(model(x), y), shared=model.shared)
    after = pulls()
    assert num(before[1] / before[0]) > 10
    assert num(after[1] / after[0]) == pytest.approx(1, abs=0.5)
    assert sum(loss.weights.values()) == pytest.approx(2)


def test_no_weight_reaches_zero():
    model, loss = network(), loss_of("gradnorm", alpha=0.0, weight_lr=0.5)
    x, y = batch()
    for _ in range(50):
        loss.balance(loss.parts(model(x), y | {"brightness": 1e4 * y["brightness"]}), shared=model.shared)
        assert min(loss.weights.values()) > 0
        assert sum(loss.weights.values()) == pytest.approx(2)


def test_an_absent_task_keeps_its_weight_and_the_others_their_sum():
    heads = {"a": 1, "b": 1, "c": 1}
    tasks = dict.fromkeys(heads, "mse")
    for absent in ("none", "mask"):
        model, loss = network(heads=heads), loss_of("gradnorm", tasks=tasks, weights=(0.5, 1.0, 1.5))
        for step in range(6):
            x, y = batch(seed=step)
            targets = {"a": y["brightness"], "b": y["brightness"] * 3, "c": None if absent == "none" else y["brightness"]}
            mask = None if absent == "none" else {"c": torch.zeros(8, dtype=torch.bool)}
            loss.backward(loss.parts(model(x), targets, mask=mask), shared=model.shared)
        assert loss.weights["c"] == 1.5
        assert loss.weights["a"] + loss.weights["b"] == pytest.approx(1.5)
        assert abs(loss.weights["a"] - 0.5) > 0.05
        assert math.isnan(num(loss.weighting.get_buffer("initial_c")))
        assert num(loss.weighting.get_buffer("steps_c")) == 0
    pair, alone = network(heads=heads), loss_of("gradnorm", tasks={"a": "mse", "b": "mse"}, weights=(0.5, 1.0))
    for step in range(6):
        x, y = batch(seed=step)
        out = pair(x)
        alone.backward(alone.parts({"a": out["a"], "b": out["b"]}, {"a": y["brightness"], "b": y["brightness"] * 3}), shared=pair.shared)
    assert alone.weights["a"] / alone.weights["b"] == pytest.approx(loss.weights["a"] / loss.weights["b"], rel=0.2)


def test_the_first_loss_of_a_task_is_its_start_unless_given():
    model, loss = network(), loss_of("gradnorm", initial={"class": math.log(3)})
    x, y = batch()
    parts = loss.parts(model(x), y)
    loss.balance(parts, shared=model.shared)
    assert num(loss.weighting.get_buffer("initial_class")) == pytest.approx(math.log(3))
    assert num(loss.weighting.get_buffer("initial_brightness")) == num(parts.raw["brightness"])
    loss.balance(loss.parts(model(x), batch(seed=5)[1]), shared=model.shared)
    assert num(loss.weighting.get_buffer("initial_brightness")) == num(parts.raw["brightness"])


def test_a_step_that_is_not_finite_leaves_the_weights_and_the_start():
    model, loss = network(), loss_of("gradnorm")
    walk(model, loss, 3, rate=0.01)
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    x, y = batch()
    parts = loss.parts(model(x), y | {"brightness": torch.full_like(y["brightness"], torch.inf)})
    loss.balance(parts, shared=model.shared)
    assert all(v.equal(before[k]) for k, v in loss.state_dict().items())
    walk(model, loss, 1, rate=0.01)
    assert loss.weights != {t: num(before[f"weighting.weight_{t}"]) for t in TASKS}


def test_a_saved_loss_goes_on_bit_for_bit():
    whole, model = loss_of("gradnorm"), network()
    expected = walk(model, whole, 10, rate=0.05)
    first, model = loss_of("gradnorm"), network()
    walk(model, first, 4, rate=0.05)
    second = loss_of("gradnorm")
    second.load_state_dict(first.state_dict())
    assert walk(model, second, 6, rate=0.05, first=4).equal(expected[4:])


def test_features_may_stand_in_for_the_shared_parameters():
    model, loss = network(), loss_of("gradnorm")
    x, y = batch()
    z = model.trunk(x)
    out = {name: model.head(name)(z) for name in model.names}
    loss.backward(loss.parts({"class": out["class"], "brightness": out["brightness"].squeeze(-1)}, y), shared=z)
    assert loss.weights["class"] != 1
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_the_same_loop_serves_the_other_weightings(weighting):
    model, loss = network(), loss_of(weighting)
    x, y = batch()
    loss.backward(loss.parts(model(x), y), shared=model.shared)
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss(model(x), y).backward()
    assert all(a.equal(p.grad) for a, p in zip(ours, model.parameters(), strict=True))


def used_up(model, loss, x, y):
    parts = loss.parts(model(x), y)
    parts.total.backward()
    loss.balance(parts, shared=model.shared)


def emptied(model, loss, x, y):
    shared = model.trunk.parameters()
    for _ in range(2):
        loss.balance(loss.parts(model(x), y), shared=shared)


def without_a_graph(model, loss, x, y):
    with torch.no_grad():
        parts = loss.parts(model(x), y)
    loss.balance(parts, shared=model.shared)


def detached(model, loss, x, y):
    out = model(x)
    loss.balance(loss.parts(out | {"class": out["class"].detach()}, y), shared=model.shared)


def negative(model, loss, x, y):
    odd = MultiTask({"class": "cross_entropy", "brightness": lambda a, b: -a.square().mean()}, weighting="gradnorm")
    odd.parts(model(x), y)


CASES: list[tuple[Callable[..., None], str]] = [
    (lambda model, loss, x, y: loss.balance(loss.parts(model(x), y)), "shared=model.shared"),
    (lambda model, loss, x, y: loss.balance(loss.parts(model(x), y), shared=[]), "a shared parameter that learns is given"),
    (
        lambda model, loss, x, y: loss.balance(loss.parts(model(x), y), shared=model.head("class")),
        "task 'brightness' depends on the shared parameters",
    ),
    (used_up, r"call balance before parts.total.backward\(\)"),
    (emptied, "used up"),
    (without_a_graph, r"torch.no_grad\(\)"),
    (detached, "task 'class' depends on the shared parameters"),
    (negative, r"'brightness' >= 0.*compared with its value at the start"),
]


@pytest.mark.parametrize(("wrong", "words"), CASES)
def test_wrong_use_is_said(wrong, words):
    with pytest.raises(FalllineError, match=words):
        wrong(network(), loss_of("gradnorm"), *batch())


def test_in_half_precision_the_weights_still_move():
    model, (x, y) = network().half(), batch()
    loss = MultiTask({"class": "cross_entropy", "brightness": "mse"}, weighting="gradnorm").half()
    start = loss.weighting.weight("class").clone()
    assert start.dtype == torch.float32
    # a step too small for 16 bits at 1, where the next number is 0.001 away
    loss.weighting.weight_lr = 1e-4
    for _ in range(3):
        loss.balance(loss.parts(model(x.half()), y), shared=model.shared)
    assert 1e-4 < (loss.weighting.weight("class") - start).abs() < 4e-4
    assert loss.double().weighting.weight("class").dtype == torch.float64
