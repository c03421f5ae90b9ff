"""A batch without weights or mask goes by one fused function where it can; value, gradient and refusals are those of the long way."""

import math
import warnings

import pytest
import torch

from fallline._core.errors import FalllineError
from fallline.losses import MSE, BinaryCrossEntropy, CrossEntropy, Huber, KLDivergence, build
from tests.every.examples import SEPARATE, D, example

SHORT = ["mse", "mae", "huber", "smooth_l1", "binary_cross_entropy", "cross_entropy", "kl_divergence", "poisson_nll"]


def run(loss, x, y, **kw):
    x = x.detach().clone().requires_grad_()
    value = loss(x, y, **kw)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.square().sum(), x, allow_unused=True) if slope.requires_grad else (None,)
    return value.detach(), slope.detach(), curve


@pytest.mark.parametrize("name", SEPARATE)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_both_ways_give_the_same(name, reduction):
    x, y = example(name)
    loss = build(name, reduction=reduction)
    everything = torch.ones(len(y), dtype=torch.bool)
    for left, right in zip(run(loss, x, y), run(loss, x, y, mask=everything), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spec", [*SHORT, "binary_cross_entropy:input_from=probabilities", "kl_divergence:input_from=log_probabilities"])
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_the_usual_batch_goes_the_short_way(spec, dtype):
    x, y = example(spec.partition(":")[0], dtype=dtype)
    if spec.startswith("binary"):
        y = y.to(dtype)
    x = {"input_from=probabilities": x.sigmoid(), "input_from=log_probabilities": x.log_softmax(-1)}.get(spec.partition(":")[2], x)
    assert build(spec).short(x, y) is not None
    assert build(spec).short(x.half(), y) is None
    assert build(spec).short(x[:0], y[:0]) is None


def test_the_short_way_of_cross_entropy_knows_what_torch_would_weigh_otherwise():
    x, y, w = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1.0, 2.0, 5.0])
    assert CrossEntropy(class_weight=w).short(x, y) is not None
    assert CrossEntropy(class_weight=w, label_smoothing=0.1).short(x, y) is None
    assert CrossEntropy(class_weight=w, normalize="count").short(x, y) is None
    assert CrossEntropy(class_weight=w).short(x, x.softmax(-1)) is None
    assert CrossEntropy(ignore_index=1).short(x, y) is None
    assert CrossEntropy(class_weight=w * 0)(x, y).item() == 0
    assert CrossEntropy().short(x, y.int()) is None
    assert CrossEntropy().short(x.T.unsqueeze(0), y.unsqueeze(0)) is not None
    assert CrossEntropy(validate=False).short(x, y) is None


@pytest.mark.parametrize("name", SHORT)
def test_it_compiles_in_one_graph(name):
    torch._dynamo.reset()
    x, y = example(name, dtype=torch.float32)
    loss = build(name)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), loss(x, y))


def test_infinities_take_the_long_way():
    inf = torch.tensor([math.inf, -math.inf])
    assert BinaryCrossEntropy()(inf, torch.tensor([1.0, 0.0])).item() == 0
    assert KLDivergence()(torch.tensor([[0.0, -math.inf]]), torch.tensor([[1.0, 0.0]])).item() == 0
    x = torch.tensor([[0.0, 0.0, -math.inf]])
    assert abs(CrossEntropy()(x, torch.tensor([[0.5, 0.5, 0.0]])).item() - math.log(2)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_under_autocast_every_loss_is_what_it_is_without(dtype):
    for name in SEPARATE:
        x, y = example(name, dtype=dtype)
        loss = build(name)
        expected = loss(x, y)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(loss(x, y), expected)
    p, y = torch.rand(8, dtype=dtype), torch.ones(8, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):  # on a GPU torch raises for its own form
        assert BinaryCrossEntropy(input_from="probabilities").short(p, y) is None
        torch.testing.assert_close(BinaryCrossEntropy(input_from="probabilities")(p, y), -p.log().mean())


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_bad_targets_are_refused_on_the_short_way_too(dtype):
    for name, x, y in (
        ("cross_entropy", torch.zeros(2, 3, dtype=dtype), torch.tensor([0, 3])),
        ("cross_entropy", torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype)),
        ("binary_cross_entropy", torch.zeros(2, dtype=dtype), torch.tensor([0, 2], dtype=dtype)),
        ("binary_cross_entropy", torch.zeros(2, dtype=dtype), torch.tensor([0, math.nan], dtype=dtype)),
        ("kl_divergence", torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype)),
        ("poisson_nll", torch.zeros(2, dtype=dtype), torch.tensor([1, -1], dtype=dtype)),
        ("hinge", torch.zeros(2, dtype=dtype), torch.tensor([1, 0], dtype=dtype)),
        ("msle", torch.zeros(2, dtype=dtype), torch.tensor([1, -1], dtype=dtype)),
    ):
        with pytest.raises(FalllineError, match="row"):
            build(name)(x, y)


def test_a_subclass_that_changes_the_formula_is_obeyed():
    class Doubled(MSE):
        def values(self, input, target):
            return 2 * (input - target).square()

    class Renamed(Huber):
        name = "renamed"

    x, y = torch.tensor([1.0]), torch.tensor([0.0])
    assert Doubled()(x, y).item() == 2
    assert Doubled().short(x, y) is None
    assert Renamed().short(x, y) is not None


def test_the_look_for_a_sigmoid_too_many_ends_after_some_calls():
    loss, x, y = BinaryCrossEntropy(), torch.linspace(-1, 2, 32), torch.zeros(32)
    for _ in range(8):
        loss(x, y)
    assert not loss.curious()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(torch.rand(32) * 0.5 + 0.2, y)
