"""Dice and Tversky against the formula element by element, Keras' values where they are right, and every edge of a mask."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from fallline._core.errors import FalllineError, FalllineWarning
from fallline.losses import Dice, Tversky, build, functional
from fallline.losses import _checks as checks
from tests.reference import batch64

D = torch.float64
BOTH = ["dice", "dice:squared=true", "tversky", "tversky:gamma=0.75"]


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch):
    monkeypatch.setattr(checks, "_warned", set())


def oracle(spec):
    """p, y (lists) to the ratio of the loss of that spec."""
    kw = {"dice:squared=true": {"squared": True}, "tversky:gamma=0.75": {"gamma": 0.75}}.get(spec, {})
    form = batch64.dice if spec.startswith("dice") else batch64.tversky
    return lambda p, y: form(p.flatten().tolist(), y.flatten().tolist(), **kw)


def masks(shape=(3, 4, 5), seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=D) * 2, (torch.rand(shape, generator=g) < 0.3).long()


def classes(n=3, c=4, shape=(5, 2), seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, c, *shape, generator=g, dtype=D) * 2, torch.randint(0, c, (n, *shape), generator=g)


def slopes(call, x):
    x = x.detach().clone().requires_grad_()
    value = call(x)
    value.backward()
    return value.detach(), x.grad


def near(a, b):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=1e-10, atol=1e-12)


# -- the formula -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", BOTH)
@pytest.mark.parametrize("input_from", ["logits", "probabilities"])
def test_each_example_and_the_batch(spec, input_from):
    x, y = masks()
    p, formula = x.sigmoid(), oracle(spec)
    given = x if input_from == "logits" else p
    kw = {"input_from": input_from}
    each = [formula(a, b) for a, b in zip(p, y, strict=True)]
    near(build(spec, reduction="none", **kw)(given, y), each)
    near(build(spec, over="example", **kw)(given, y), sum(each) / 3)
    near(build(spec, over="batch", **kw)(given, y), formula(p, y))
    near(build(spec, **kw)(given[:, 0, 0], y[:, 0, 0]), formula(p[:, 0, 0], y[:, 0, 0]))  # (N,): the batch by itself
    near(build(spec, over="example", **kw)(given[:, 0, 0], y[:, 0, 0]), sum(map(formula, p[:, 0, 0], y[:, 0, 0])) / 3)
    near(build(spec, **kw)(given, y.double()), sum(each) / 3)
    near(build(spec, **kw)(given, y == 1), sum(each) / 3)
    narrow = build(spec, **kw)(given.float(), y)
    assert abs(narrow.item() - sum(each) / 3) < 1e-6


@pytest.mark.parametrize("spec", BOTH)
@pytest.mark.parametrize("input_from", ["logits", "probabilities"])
def test_classes_have_a_ratio_each(spec, input_from):
    x, y = classes()
    p, hot, formula = x.softmax(1), F.one_hot(y, 4).movedim(-1, 1), oracle(spec)
    given = x if input_from == "logits" else p
    kw = {"input_from": input_from}
    each = torch.tensor([[formula(p[i, c], hot[i, c]) for c in range(4)] for i in range(3)], dtype=D)
    near(build(spec, reduction="none", **kw)(given, y), each.mean(1))
    one = torch.tensor([formula(p[:, c], hot[:, c]) for c in range(4)], dtype=D)
    near(build(spec, over="batch", **kw)(given, y), one.mean())
    weight = torch.tensor([0.0, 1.0, 2.0, 0.5], dtype=D)
    near(build(spec, over="batch", class_weight=weight, **kw)(given, y), (one * weight).sum() / 3.5)
    near(build(spec, class_weight=weight, **kw)(given, y), ((each * weight).sum(1) / 3.5).mean())
    flat = [formula(p[:, c, 0, 0], hot[:, c, 0, 0]) for c in range(4)]  # (N, C): the batch by itself
    near(build(spec, **kw)(given[:, :, 0, 0], y[:, 0, 0]), sum(flat) / 4)


@pytest.mark.parametrize("spec", BOTH)
def test_channels_have_a_ratio_each(spec):
    x, y = masks((3, 4, 6))
    p, formula = x.sigmoid(), oracle(spec)
    each = torch.tensor([[formula(p[i, c], y[i, c]) for c in range(4)] for i in range(3)], dtype=D)
    near(build(spec, channels=True, reduction="none")(x, y), each.mean(1))
    weight = torch.tensor([3.0, 0.0, 1.0, 1.0], dtype=D)
    near(build(spec, channels=True, class_weight=weight)(x, y), ((each * weight).sum(1) / 5).mean())
    near(build(spec, channels=True)(x[..., 0], y[..., 0]), sum(formula(p[:, c, 0], y[:, c, 0]) for c in range(4)) / 4)


def test_the_values_that_keras_gives_where_it_is_right():
    # Keras 3.15: Dice(axis=1), Dice(), Tversky(axis=1), and its tests' picture; its s of 1e-7 counts nothing here. Its alpha, documented as
    # the price of false positives, falls on the misses: it is beta here (keras/src/losses/losses.py takes y_true for the prediction).
    y = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]])
    p = torch.tensor([[0.2, 0.7, 0.9, 0.1], [0.6, 0.3, 0.2, 0.4]])
    kw = {"input_from": "probabilities", "smooth": 0.0}
    as_keras = {"rtol": 0, "atol": 5e-5}
    torch.testing.assert_close(Dice(reduction="none", **kw)(p, y), torch.tensor([0.1795, 0.5200]), **as_keras)
    torch.testing.assert_close(Dice(over="batch", **kw)(p, y), torch.tensor(0.3125), **as_keras)
    swapped = {"alpha": 0.7, "beta": 0.3}
    torch.testing.assert_close(Tversky(**swapped, reduction="none", **kw)(p, y), torch.tensor([0.1710, 0.5556]), **as_keras)
    torch.testing.assert_close(Tversky(**swapped, over="batch", **kw)(p, y), torch.tensor(0.3293), **as_keras)
    y = torch.tensor([[[1, 1], [0, 0]], [[1, 1], [0, 0]]])
    p = torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[0.4, 0.0], [0.0, 0.9]]])
    torch.testing.assert_close(Dice(reduction="none", **kw)(p, y), torch.tensor([0.5, 0.7576]), **as_keras)
    torch.testing.assert_close(Dice(over="batch", **kw)(p, y), torch.tensor(0.6164), **as_keras)
    torch.testing.assert_close(Tversky(alpha=0.8, beta=0.2, reduction="none", **kw)(p, y), torch.tensor([0.5, 0.7222]), **as_keras)


def test_closed_forms():
    y = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]])
    x = torch.tensor([[50.0, 50, -50, 50, -50, -50, -50, -50]])  # 2 found, 1 missed, 1 too much
    assert Dice(smooth=0)(x, y).item() == pytest.approx(1 - 4 / 6)
    assert Dice()(x, y).item() == pytest.approx(1 - 5 / 7)
    assert Dice(squared=True, smooth=0)(x, y).item() == pytest.approx(1 - 4 / 6)
    assert Tversky(smooth=0)(x, y).item() == pytest.approx(1 - 2 / (2 + 0.3 + 0.7))
    assert Tversky(alpha=1, beta=1, smooth=0)(x, y).item() == pytest.approx(1 - 2 / 4)  # the Jaccard index
    assert Tversky(alpha=0, beta=1, smooth=0)(x, y).item() == pytest.approx(1 / 3)  # 1 - recall
    assert Tversky(gamma=0.75)(x, y).item() == pytest.approx(Tversky()(x, y).item() ** 0.75)


def test_dice_is_tversky_at_one_half():
    for x, y in (masks(), classes()):
        near(Dice(smooth=1.0)(x, y), Tversky(alpha=0.5, beta=0.5, smooth=0.5)(x, y))


# -- edges -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", BOTH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_an_empty_mask_predicted_empty_costs_nothing(spec, dtype):
    # Keras: 1.
    loss, empty = build(spec, input_from="probabilities"), torch.zeros(2, 4, 4, dtype=dtype)
    value, slope = slopes(lambda p: loss(p, torch.zeros(2, 4, 4)), empty)
    assert value.item() == 0
    assert torch.isfinite(slope).all()
    value, slope = slopes(lambda x: build(spec)(x, torch.zeros(2, 4, 4).long()), torch.full((2, 4, 4), -10.0, dtype=dtype))
    assert value.item() < 2e-2
    assert (slope >= 0).all()
    value = build(spec, smooth=0, input_from="probabilities")(empty, torch.zeros(2, 4, 4))
    assert value.item() == 0
    full = build(spec, input_from="probabilities")(torch.ones(2, 4, 4), torch.zeros(2, 4, 4))
    assert full.item() > 0.5


@pytest.mark.parametrize("gamma", [0.3, 0.75, 1.0, 1.5, 2.0])
def test_a_perfect_match_has_finite_slopes_at_any_gamma(gamma):
    # pytorch_optimizer: NaN for gamma below 1.
    y = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    loss = Tversky(gamma=gamma, input_from="probabilities")
    p = y.clone().requires_grad_()
    value = loss(p, y)
    (first,) = torch.autograd.grad(value, p, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), p)
    assert value.item() == 0
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()
    if gamma < 1:
        assert (first[y == 1] < -0.3).all()
    near_it = Tversky(gamma=gamma)(torch.tensor([[9.0, 9.0, -9.0, -9.0]], dtype=D), y.double())
    ratio = Tversky()(torch.tensor([[9.0, 9.0, -9.0, -9.0]], dtype=D), y.double())
    near(near_it, ratio**gamma)


@pytest.mark.parametrize("spec", BOTH)
def test_saturated_on_the_wrong_side_keeps_a_slope(spec):
    x = torch.tensor([[30.0, -30.0, 30.0, 5.0]])
    _, slope = slopes(lambda x: build(spec)(x, torch.tensor([[0, 1, 1, 1]])), x)
    assert slope[0, 0] > 0
    assert slope[0, 1] < 0
    assert slope[0, 2] < 0  # right, and p rounds to 1: 1 − p does not round to 0
    x, y = torch.tensor([[30.0, 0.0, 0.0]]), torch.tensor([0])
    _, slope = slopes(lambda x: build(spec)(x, y), x)
    assert (slope != 0).all()
    assert torch.isfinite(slope).all()


def test_half_precision_sums_do_not_overflow():
    # 100,000 elements sum to more than float16 holds
    x, y = torch.full((1, 100_000), 20.0, dtype=torch.float16), torch.ones(1, 100_000, dtype=torch.float16)
    for spec in BOTH:
        value, slope = slopes(lambda x, s=spec: build(s)(x, y), x)
        assert value.dtype == torch.float32
        assert value.item() < 1e-4
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("spec", BOTH)
@pytest.mark.parametrize("over", ["example", "batch"])
def test_masked_and_ignored_elements_leave_both_sums(spec, over):
    x, y = masks((3, 7))
    mask = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[1] = False  # a whole example
    loss, p, formula = build(spec, over=over), x.sigmoid(), oracle(spec)
    parts = [formula(p[i][mask[i]], y[i][mask[i]]) for i in (0, 2)]
    expected = sum(parts) / 2 if over == "example" else formula(p[mask], y[mask])
    poisoned = torch.where(mask, x, torch.nan)
    value, slope = slopes(lambda x: loss(x, y, mask=mask), poisoned)
    near(value, expected)
    assert torch.equal(slope[~mask], torch.zeros((~mask).sum(), dtype=D))
    assert (slope[mask] != 0).all()
    near(loss(x, torch.where(mask, y, -100)), expected)
    near(loss(x, torch.where(mask, y, -7), mask=mask), expected)
    whole = torch.tensor([True, False, True])
    near(loss(x, y, mask=whole), loss(x[whole], y[whole]))
    total, count = loss.sum_and_count(x, y, mask=whole)
    assert count == (2 if over == "example" else 1)
    near(total / count, loss(x[whole], y[whole]))


@pytest.mark.parametrize("spec", BOTH)
@pytest.mark.parametrize("over", ["example", "batch"])
@pytest.mark.parametrize("input_from", ["logits", "probabilities"])
def test_ignored_classes(spec, over, input_from):
    x, y = classes()
    x = x if input_from == "logits" else x.softmax(1)
    loss = build(spec, over=over, input_from=input_from, ignore_index=255)
    gone = torch.zeros_like(y, dtype=torch.bool)
    gone[:, 0] = True
    with_ignored = torch.where(gone, 255, y)
    value, slope = slopes(lambda x: loss(x, with_ignored), torch.where(gone[:, None], torch.nan, x))
    near(value, loss(x[:, :, 1:], y[:, 1:]))
    assert not slope[:, :, 0].any()
    value, slope = slopes(lambda x: loss(x, torch.full_like(y, 255)), x)
    assert value.item() == 0
    assert not slope.any()


@pytest.mark.parametrize("spec", BOTH)
def test_weights_of_examples(spec):
    for x, y in (masks((4, 5)), classes(n=4), (masks((4, 5))[0][:, 0], masks((4, 5))[1][:, 0])):
        w = torch.tensor([1.0, 2.0, 0.0, 1.0], dtype=D)
        again = torch.tensor([0, 1, 1, 3])
        for over in ("example", "batch"):
            loss = build(spec, over=over)
            near(loss(x, y, sample_weight=w), loss(x[again], y[again]))
            by_count = build(spec, over=over, normalize="count")(x, y, sample_weight=w)
            near(by_count, loss(x[again], y[again]) * (4 / 3 if over == "example" else 1))
            parts = build(spec, over=over, reduction="none")(x, y, sample_weight=w)
            near(parts.sum(), loss(x, y, sample_weight=w) * (4 if over == "example" else 1))


def test_a_class_that_is_nowhere_costs_what_is_marked_as_it():
    x, y = torch.full((1, 3, 4), -20.0), torch.tensor([[0, 0, 1, 1]])
    x[0, 0, :2] = x[0, 1, 2:] = 20
    for spec in BOTH:
        assert build(spec)(x, y) < 1e-4  # class 2, absent and not predicted, neither costs nor earns
    x[0, 2, 0] = 60
    assert Dice()(x, y).item() == pytest.approx(((1 - 3 / 4) + 0 + (1 - 1 / 2)) / 3, abs=1e-6)


# -- differentiation and form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [*BOTH, "tversky:gamma=1.7"])
def test_derivatives_of_pictures(spec):
    for x, y in (masks((2, 3)), classes(n=2, c=3, shape=(2,))):
        for over in ("example", "batch"):
            loss = build(spec, over=over)
            assert gradcheck(lambda x, y=y, loss=loss: loss.per_example(x, y), (x.clone().requires_grad_(),))
            assert gradgradcheck(lambda x, y=y, loss=loss: loss(x, y), (x.clone().requires_grad_(),))
    x, y = classes()
    torch._dynamo.reset()
    loss = build(spec)
    mask = y != 2
    compiled = torch.compile(lambda x, y: loss(x, y, mask=mask), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), loss(x, y, mask=mask))
    stacked = torch.func.vmap(loss)(torch.stack([x, -x]), torch.stack([y, y]))
    torch.testing.assert_close(stacked, torch.stack([loss(x, y), loss(-x, y)]))


def test_parts_of_a_batch_are_each_examples_own():
    x, y = masks((4, 6))
    parts = Dice(over="batch", reduction="none")(x, y)
    p = x.sigmoid()
    near(parts, ((p + y - 2 * p * y).sum(1)) / (p.sum() + y.sum() + 1))


def test_bad_input_is_told():
    x, y = masks((2, 3))
    for wrong, match in (
        ({"sample_weight": torch.ones(2, 3)}, r"sample_weight has the shape \(2,\).*mask"),
        ({"mask": torch.ones(3, 2, dtype=torch.bool)}, "mask has the shape"),
    ):
        with pytest.raises(FalllineError, match=match):
            Dice()(x, y, **wrong)
    with pytest.raises(FalllineError, match=r"0\.\.1.*input_from='logits'"):
        Dice(input_from="probabilities")(x, y)
    with pytest.raises(FalllineError, match="sums to 1"):
        Dice(input_from="probabilities")(torch.rand(4, 3) + 1, torch.tensor([0, 1, 2, 0]))
    with pytest.raises(FalllineError, match="channels=True"):
        Dice(class_weight=[1, 2])(x, y)
    with pytest.raises(FalllineError, match=r"shape \(3,\)"):
        Dice(class_weight=[1, 2], channels=True)(x, y)
    with pytest.raises(FalllineError, match="channels"):
        Dice(channels=True)(torch.randn(3, 2), torch.tensor([0, 1, 1]))
    with pytest.raises(FalllineError, match="the first axis is the batch"):
        Dice()(torch.tensor(1.0), torch.tensor(1))
    with pytest.raises(FalllineError, match="every label is 0 or 1"):
        Dice()(x, y * 255)
    with pytest.raises(FalllineError, match=r"input\.squeeze\(1\)"):
        Dice()(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4).long())
    with pytest.raises(FalllineError, match=r"0\.\.3"):
        Dice()(torch.zeros(2, 4, 3), torch.full((2, 3), 4))
    with pytest.warns(FalllineWarning, match="drop the sigmoid"):
        functional.dice(torch.rand(4, 8), torch.ones(4, 8))
    checks._warned.clear()
    with pytest.warns(FalllineWarning, match="one-hot"):
        functional.tversky(torch.randn(8, 3), F.one_hot(torch.arange(8) % 3, 3))


def test_a_small_mask_is_found():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 16, 16, generator=g)
    y = torch.zeros(8, 16, 16)
    y[:, 3:6, 9:12] = 1
    x = x + 3 * y
    found = {}
    for spec in ("dice", "tversky"):
        w, b = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
        optimizer = torch.optim.Adam([w, b], lr=0.2)
        for _ in range(80):
            optimizer.zero_grad()
            build(spec)(w * x + b, y).backward()
            optimizer.step()
        seen = (w * x + b > 0).float()
        found[spec] = 2 * (seen * y).sum() / (seen.sum() + y.sum()), (seen * y).sum() / y.sum()
    assert found["dice"][0] > 0.65
    assert found["tversky"][1] > found["dice"][1]  # misses cost more, so fewer are missed


@pytest.mark.parametrize("spec", BOTH)
def test_a_column_is_a_row_of_single_labels(spec):
    x, y = masks((8,))
    assert torch.equal(build(spec)(x[:, None], y[:, None]), build(spec)(x, y))
    assert torch.equal(build(spec, reduction="none")(x[:, None], y[:, None]), build(spec, reduction="none")(x, y))
    each = build(spec, over="example")
    assert (each(x[:, None], y[:, None]) - build(spec)(x, y)).abs() > 1e-3
    picture = x.reshape(8, 1, 1), y.reshape(8, 1, 1)
    assert torch.equal(build(spec)(*picture), each(*picture))


@pytest.mark.parametrize("spec", BOTH)
def test_weights_of_examples_without_elements(spec):
    x, y = torch.zeros(3, 0, 4, requires_grad=True), torch.zeros(3, 0, 4)
    assert build(spec)(x, y, sample_weight=torch.tensor([1.0, 2.0, 0.0])) == 0
    assert build(spec)(x, y) == 0
