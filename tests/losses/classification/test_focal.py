"""Focal loss for labels 0/1, its form beside class indices: the registry's tests cover the latter."""

import math
import warnings

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from fallline._core.errors import FalllineError, FalllineWarning
from fallline.losses import LOSSES, BinaryCrossEntropy, CrossEntropy, Focal, check_task, functional, predict_from
from fallline.losses import _checks as checks
from tests.reference import losses64

D = torch.float64


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch):
    monkeypatch.setattr(checks, "_warned", set())


def slopes(loss, x):
    x = x.detach().clone().requires_grad_()
    value = loss(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return value.detach(), first.detach(), second


def labelled(n=30, seed=0, soft=False):
    g = torch.Generator().manual_seed(seed)
    y = torch.rand(n, generator=g, dtype=D) if soft else torch.randint(0, 2, (n,), generator=g)
    return torch.randn(n, generator=g, dtype=D) * 3, y


def focal_of_a_label(x, y, gamma=2.0, alpha=None):
    p = losses64.sigmoid(x)
    one, zero = (1, 1) if alpha is None else (alpha, 1 - alpha)
    return -y * one * (1 - p) ** gamma * math.log(p) - (1 - y) * zero * p**gamma * math.log(1 - p)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (0.0, None), (0.5, 0.25), (5.0, 0.9), (2.0, 0.0)])
def test_labels_equal_the_formula(gamma, alpha, soft):
    x, y = labelled(soft=soft)
    expected = [focal_of_a_label(a, b, gamma, alpha) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    each = functional.focal(x, y, gamma=gamma, alpha=alpha, reduction="none")
    torch.testing.assert_close(each, torch.tensor(expected, dtype=D), rtol=1e-9, atol=1e-13)
    for kind in (torch.bool, torch.uint8, D) if not soft else ():
        torch.testing.assert_close(functional.focal(x, y.to(kind), gamma=gamma, alpha=alpha, reduction="none"), each)
    narrow = functional.focal(x.float(), y.float() if soft else y, gamma=gamma, alpha=alpha, reduction="none")
    torch.testing.assert_close(narrow.double(), each, rtol=1e-5, atol=1e-6)


def test_published_figures():
    # Section 3.2 of the paper: at gamma 2 an example at p = 0.9 costs 100 times less than by cross-entropy, at 0.968 about 1000 times.
    for p, least in ((0.9, 100), (0.968, 970)):
        x = torch.tensor([p], dtype=D).logit()
        ratio = functional.binary_cross_entropy(x, torch.ones(1)) / Focal()(x, torch.ones(1))
        assert ratio.item() == pytest.approx(1 / (1 - p) ** 2)
        assert ratio > least * 0.999


def test_gamma_zero_is_cross_entropy():
    x, y = labelled()
    torch.testing.assert_close(Focal(gamma=0)(x, y), BinaryCrossEntropy()(x, y))
    torch.testing.assert_close(Focal(gamma=0, alpha=0.5)(x, y), BinaryCrossEntropy()(x, y) / 2)
    far = torch.tensor([math.inf, -math.inf, math.inf, -math.inf], dtype=D)
    for y in (torch.tensor([1, 0, 0, 1]), torch.tensor([1.0, 0.0, 0.0, 1.0])):
        assert Focal(gamma=0, reduction="none")(far, y).tolist() == [0, 0, math.inf, math.inf]
        assert Focal(gamma=2, reduction="none")(far, y).tolist() == [0, 0, math.inf, math.inf]


def test_two_classes_by_softmax_are_one_label_by_sigmoid():
    x, y = labelled()
    both = torch.stack([torch.zeros_like(x), x], dim=1)
    for gamma in (0.5, 2.0):
        torch.testing.assert_close(Focal(gamma=gamma)(x, y), Focal(gamma=gamma)(both, y))
    weight = torch.tensor([0.3, 2.0], dtype=D)
    torch.testing.assert_close(Focal(class_weight=weight)(x, y), Focal(class_weight=weight)(both, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, D])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_saturated_on_the_wrong_side_keeps_its_slope(gamma, dtype):
    # Keras: -6.6e-8 at logit -20, and 0 for classes wrong by 30.
    x = torch.tensor([-100.0, 100.0], dtype=dtype)
    value, first, second = slopes(lambda x: functional.focal(x, torch.tensor([1, 0]), gamma=gamma, reduction="none"), x)
    assert value.tolist() == [100.0, 100.0]
    assert first.tolist() == [-1.0, 1.0]
    assert torch.isfinite(second).all()
    rows = torch.tensor([[30.0, 0.0, 0.0]], dtype=dtype)
    _, first, second = slopes(lambda x: functional.focal(x, torch.tensor([1]), gamma=gamma), rows)
    assert abs(first[0, 1] + 1) < 1e-2
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("logit", [10.0, 30.0, 60.0, 1000.0])
@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.0, 1.5])
def test_any_gamma_is_smooth_where_p_rounds_to_1(gamma, logit):
    # pytorch_optimizer: NaN at gamma 0.5 and logit 30.
    for x, y in ((torch.tensor([logit]), torch.tensor([1])), (torch.tensor([[0.0, logit, -logit]]), torch.tensor([1]))):
        value, first, second = slopes(lambda x, y=y: functional.focal(x, y, gamma=gamma), x)
        assert torch.isfinite(value).all()
        assert torch.isfinite(first).all()
        assert torch.isfinite(second).all()
    if logit == 30:  # -log p = e^-30 and (1 - p) = e^-30: the slope is -(1 + gamma) e^(-30 (1 + gamma))
        _, first, _ = slopes(lambda x: functional.focal(x, torch.tensor([1]), gamma=gamma), torch.tensor([logit], dtype=D))
        assert first.item() == pytest.approx(-(1 + gamma) * math.exp(-30 * (1 + gamma)), rel=1e-9)


@pytest.mark.parametrize("soft", [False, True])
def test_labels_are_differentiated_twice_and_mapped(soft):
    x, y = labelled(6, soft=soft)
    loss = Focal(gamma=1.5, alpha=0.3)
    assert gradcheck(lambda x: loss.per_example(x, y), (x.clone().requires_grad_(),))
    assert gradgradcheck(lambda x: loss.per_example(x, y), (x.clone().requires_grad_(),))
    torch.testing.assert_close(torch.func.vmap(loss)(x, y), loss.per_example(x, y))
    each = torch.func.vmap(torch.func.grad(loss))(x, y)
    torch.testing.assert_close(torch.func.grad(loss)(x, y), each / 6)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), loss(x, y))


def test_many_labels_with_weights_masks_and_ignored_ones():
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(4, 3, 2, generator=g, dtype=D), torch.randint(0, 2, (4, 3, 2), generator=g)
    loss = Focal(alpha=0.25, ignore_index=255)
    each = Focal(alpha=0.25, reduction="none")(x, y)
    assert each.shape == (4, 3, 2)
    mask = torch.rand(4, 3, 2, generator=g) > 0.3
    torch.testing.assert_close(loss(x, y, mask=mask), each[mask].mean())
    torch.testing.assert_close(loss(x, torch.where(mask, y, 255)), each[mask].mean())
    w = torch.tensor([1.0, 2.0, 0.0, 0.5], dtype=D)
    torch.testing.assert_close(loss(x, y, sample_weight=w), (each.mean((1, 2)) * w).sum() / w.sum())
    poisoned = torch.where(mask, x, torch.nan).requires_grad_()
    loss(poisoned, y, mask=mask).backward()
    assert torch.isfinite(poisoned.grad).all()
    gone = x.clone().requires_grad_()
    value = loss(gone, torch.full_like(y, 255))
    value.backward()
    assert value.item() == 0
    assert not gone.grad.any()


def test_the_shapes_tell_which_form():
    logits, index = torch.randn(8, 5), torch.randint(0, 5, (8,))
    torch.testing.assert_close(Focal(gamma=0)(logits, index), CrossEntropy()(logits, index))
    hot = F.one_hot(index, 5)
    with pytest.warns(FalllineWarning, match="one-hot.*target.argmax"):
        labels = Focal(gamma=0)(logits, hot)
    torch.testing.assert_close(labels, BinaryCrossEntropy()(logits, hot))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Focal(gamma=0)(logits, hot) == labels  # told once
    for x, y, advice in (
        (torch.zeros(4, 1), torch.zeros(4).long(), r"input\.squeeze\(1\)"),
        (torch.zeros(4, 1), torch.zeros(4), r"input\.squeeze\(1\)"),
        (torch.zeros(4), torch.zeros(4, 1), r"target\.reshape"),
        (torch.zeros(4), torch.zeros(3), "same shape"),
        (torch.zeros(4, 3), torch.zeros(4), "whole numbers"),
    ):
        with pytest.raises(FalllineError, match=advice):
            Focal()(x, y)


def test_bad_labels_and_options_are_told():
    x = torch.randn(4)
    with pytest.raises(FalllineError, match=r"-1/\+1 labels"):
        Focal()(x, torch.tensor([-1, 1, 1, 1]))
    with pytest.raises(FalllineError, match=r"alpha is None for class indices.*class_weight"):
        Focal(alpha=0.25)(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(FalllineError, match=r"shape \(2,\) for labels 0 and 1"):
        Focal(class_weight=[1, 2, 3])(x, torch.tensor([0, 1, 1, 0]))
    with pytest.warns(FalllineWarning, match="drop the sigmoid"):
        Focal()(torch.rand(20), torch.ones(20))
    checks._warned.clear()
    with pytest.warns(FalllineWarning, match="drop the softmax"):
        Focal()(torch.rand(20, 3).softmax(1), torch.ones(20).long())


@pytest.mark.parametrize("name", ["focal", "dice", "tversky"])
def test_either_kind_of_task_by_name(name):
    cls = LOSSES[name]
    check_task(name, "binary", (0, 1))
    check_task(name, "multiclass")
    assert (cls.outputs(2), cls.outputs(3)) == (1, 3)
    two = predict_from(cls.output, torch.tensor([[0.0], [2.0]]))
    torch.testing.assert_close(two, torch.tensor([0.0, 2.0]).sigmoid())
    raw = torch.randn(4, 3)
    torch.testing.assert_close(predict_from(cls.output, raw), raw.softmax(1))
    loss = cls()
    labels = loss.prepare(torch.tensor([0, 1]))
    assert loss(torch.tensor([-9.0, 9.0]), labels) < 1e-2
    assert loss(torch.eye(3) * 20, loss.prepare(torch.arange(3))) < 1e-2
