"""The numerical traps of the field that these losses must not fall into."""

import math

import pytest
import torch
from torch.nn import functional as F

from fallline import losses
from fallline._core.errors import FalllineWarning
from fallline.losses import BinaryCrossEntropy, CrossEntropy, Focal, GaussianNLL, build, functional
from fallline.losses import _checks as checks

D = torch.float64


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch):
    monkeypatch.setattr(checks, "_warned", set())


def value_and_grad(loss, x, y):
    x = x.detach().clone().requires_grad_()
    value = loss(x, y)
    value.backward()
    return value.detach(), x.grad


@pytest.mark.parametrize("form", ["forward", "quick"])
@pytest.mark.parametrize(
    ("spec", "x", "expected"), [("mse", 300.0, 9e4), ("huber:delta=3", 3e4, 3 * (3e4 - 1.5)), ("log_cosh", -40000.0, 4e4 - math.log(2))]
)
def test_half_precision_does_not_overflow(spec, x, expected, form):
    loss = build(spec)
    call = loss if form == "forward" else loss.quick
    value, grad = value_and_grad(call, torch.tensor([x], dtype=torch.float16), torch.tensor([0.0], dtype=torch.float16))
    assert value.dtype == torch.float32
    assert abs(value.item() / expected - 1) < 1e-3
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("label", [257, 2049, 4095])
def test_labels_that_half_precision_cannot_hold(dtype, label):
    x = torch.zeros(1, 4096, dtype=dtype)
    x[0, label] = 20
    for call in (CrossEntropy(), CrossEntropy().quick):
        assert call(x, torch.tensor([label])).item() < 0.01
        assert call(x, torch.tensor([label - 1])).item() > 19


def test_log_cosh_keeps_its_digits_near_zero_and_its_curvature_at_zero():
    e = torch.tensor([1e-3], dtype=torch.float32)
    assert abs(functional.log_cosh(e, torch.zeros(1)).item() / 5e-7 - 1) < 1e-5
    slope = torch.func.grad(lambda x: functional.log_cosh(x, torch.zeros(())))
    assert torch.func.grad(slope)(torch.zeros(())).item() == 1
    value, grad = value_and_grad(build("log_cosh"), torch.tensor([1e30]), torch.tensor([0.0]))
    assert torch.isfinite(value)
    assert grad.item() == 1


def test_log_cosh_has_no_seam():
    x = torch.tensor([1 - 1e-9, 1 + 1e-9], dtype=D)
    values = functional.log_cosh(x, torch.zeros(2, dtype=D), reduction="none")
    assert abs(float(values[1] - values[0]) - 2e-9 * math.tanh(1)) < 1e-14


def test_label_smoothing_with_class_weights_keeps_the_optimum_on_the_true_class():
    # torch's optimum puts 0.63 on class 2 for target 0 (pytorch#104776).
    loss = CrossEntropy(label_smoothing=0.1, class_weight=torch.tensor([1.0, 1.0, 50.0]))
    x = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], max_iter=100)

    def closure():
        optimizer.zero_grad()
        value = loss(x, torch.tensor([0]))
        value.backward()
        return value

    optimizer.step(closure)
    expected = torch.tensor([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]])
    torch.testing.assert_close(x.detach().softmax(-1), expected, rtol=1e-3, atol=1e-3)


def test_class_weights_are_weights_of_the_mean():
    x, y = torch.randn(6, 3, dtype=D), torch.tensor([0, 1, 2, 0, 1, 2])
    w = torch.tensor([1.0, 2.0, 5.0], dtype=D)
    torch.testing.assert_close(CrossEntropy(class_weight=w)(x, y), F.cross_entropy(x, y, w))
    torch.testing.assert_close(CrossEntropy(class_weight=w)(x, y), CrossEntropy()(x, y, sample_weight=w[y]))
    by_count = CrossEntropy(class_weight=w, normalize="count")
    torch.testing.assert_close(by_count(x, y), by_count.per_example(x, y).mean())
    for loss in (CrossEntropy(class_weight=w, label_smoothing=0.1), by_count, CrossEntropy(class_weight=w), Focal(class_weight=w)):
        torch.testing.assert_close(loss.quick(x, y), loss(x, y))


@pytest.mark.parametrize("label", [0, 1])
def test_probabilities_at_saturation_have_a_finite_value_and_a_gradient(label):
    wrong = torch.tensor([1.0 - label])
    value, grad = value_and_grad(BinaryCrossEntropy(input_from="probabilities"), wrong, torch.tensor([label]))
    assert 20 < value.item() < 100
    assert torch.isfinite(grad).all()
    assert grad.item() * (1 - 2 * label) > 1e6
    near = abs(label - 1e-9) if label else 1 - 1e-7
    _, grad = value_and_grad(BinaryCrossEntropy(input_from="probabilities"), torch.tensor([1e-9 if label else near]), torch.tensor([label]))
    assert abs(grad.item()) > 1e6  # keras clips there: no gradient


def test_saturated_probabilities_are_told():
    p = torch.tensor([0.0, 1.0] * 16)
    with pytest.warns(FalllineWarning, match="exactly 0 or 1"):
        functional.binary_cross_entropy(p, (p > 0.5).long(), input_from="probabilities")


def test_infinite_logits_have_their_limit():
    x = torch.tensor([math.inf, -math.inf, math.inf, -math.inf], dtype=D)
    for y in (torch.tensor([1, 0, 0, 1]), torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=D)):
        each = functional.binary_cross_entropy(x, y, reduction="none")
        assert each.tolist() == [0, 0, math.inf, math.inf]


def test_soft_binary_targets():
    x, y = torch.randn(8, dtype=D), torch.rand(8, dtype=D)
    torch.testing.assert_close(functional.binary_cross_entropy(x, y), F.binary_cross_entropy_with_logits(x, y))
    torch.testing.assert_close(
        functional.binary_cross_entropy(x.sigmoid(), y, input_from="probabilities"), F.binary_cross_entropy(x.sigmoid(), y)
    )


def test_minus_infinite_logits_with_soft_targets():
    x = torch.tensor([[0.0, 0.0, -math.inf]], dtype=D)
    soft = torch.tensor([[0.5, 0.5, 0.0]], dtype=D)
    assert torch.isnan(F.cross_entropy(x, soft))  # torch: 0 * inf
    value, grad = value_and_grad(CrossEntropy(), x, soft)
    assert abs(value.item() - math.log(2)) < 1e-12
    assert grad.tolist() == [[0, 0, 0]]
    value, grad = value_and_grad(build("kl_divergence"), x, soft)
    assert abs(value.item()) < 1e-12
    assert torch.isfinite(grad).all()


def test_gaussian_variance_at_its_floor():
    raw = torch.tensor([[0.0, 0.0], [0.0, -1.0]])
    with pytest.warns(FalllineWarning, match="softplus"):
        value, grad = value_and_grad(GaussianNLL(variance_from="variance", eps=1e-3), raw, torch.tensor([0.1, 0.1]))
    assert torch.isfinite(value)
    assert grad.abs().max() < 1e3  # torch: -5e11
    value, grad = value_and_grad(GaussianNLL(), torch.tensor([[0.0, -30.0]]), torch.tensor([0.01]))
    assert torch.isfinite(value)
    assert grad[0, 1] != 0


def test_gaussian_equals_torch_where_the_variance_is_sound():
    x, v, y = torch.randn(8, dtype=D), torch.rand(8, dtype=D) + 0.1, torch.randn(8, dtype=D)
    both = torch.stack([x, v], -1)
    for full in (False, True):
        torch.testing.assert_close(
            functional.gaussian_nll(both, y, variance_from="variance", full=full), F.gaussian_nll_loss(x, y, v, full=full)
        )


def test_poisson_overflow_is_told_and_rates_are_read():
    with pytest.warns(FalllineWarning, match="overflows float32"):
        functional.poisson_nll(torch.tensor([100.0]), torch.tensor([1.0]))
    rate, y = torch.tensor([0.5, 2.0, 0.0], dtype=D), torch.tensor([1.0, 2.0, 0.0], dtype=D)
    torch.testing.assert_close(functional.poisson_nll(rate, y, input_from="rate"), F.poisson_nll_loss(rate, y, log_input=False))


def test_focal_has_a_gradient_below_gamma_one_and_far_on_the_wrong_side():
    value, grad = value_and_grad(Focal(gamma=0.5), torch.tensor([[40.0, 0.0]]), torch.tensor([0]))
    assert torch.isfinite(grad).all()
    assert value.item() < 1e-6
    _, grad = value_and_grad(Focal(gamma=2.0), torch.tensor([[-30.0, 0.0]]), torch.tensor([0]))
    assert abs(grad[0, 0].item() + 1) < 1e-3


def test_asymmetric_keeps_the_slope_of_a_lost_positive():
    _, grad = value_and_grad(build("asymmetric"), torch.tensor([-100.0]), torch.tensor([1]))
    assert grad.item() == -1
    _, grad = value_and_grad(build("asymmetric:gamma_negative=0.5"), torch.tensor([-100.0, 50.0]), torch.tensor([0, 0]))
    assert torch.isfinite(grad).all()


def test_generalized_cross_entropy_is_finite_where_the_probability_is_nought():
    value, grad = value_and_grad(build("generalized_cross_entropy"), torch.tensor([[-200.0, 0.0]]), torch.tensor([0]))
    assert abs(value.item() - 1 / 0.7) < 1e-5
    assert torch.isfinite(grad).all()


def test_weighted_mean_is_one_law_for_all():
    # torch: mse divides by the sum of the weights, huber by N.
    w = torch.tensor([1.0, 3.0], dtype=D)
    for name in ("mse", "huber", "mae"):
        loss = build(name)
        each = loss.per_example(torch.tensor([0.5, 0.2], dtype=D), torch.zeros(2, dtype=D))
        got = loss(torch.tensor([0.5, 0.2], dtype=D), torch.zeros(2, dtype=D), sample_weight=w)
        torch.testing.assert_close(got, (each * w).sum() / 4)


def test_weights_by_example_reach_every_column():
    x, y = torch.randn(3, 2, dtype=D), torch.randn(3, 2, dtype=D)
    w = torch.tensor([1.0, 0.0, 2.0], dtype=D)
    by_hand = ((x - y).square() * w[:, None]).sum() / (2 * w.sum())
    torch.testing.assert_close(functional.mse(x, y, sample_weight=w), by_hand)
    torch.testing.assert_close(functional.mse(x, y, mask=w > 0), (x - y)[w > 0].square().mean())


def test_whole_numbers_are_fine_targets_of_a_regression():
    x = torch.tensor([0.5, 2.0])
    for name in ("mse", "mae", "huber", "smooth_l1", "log_cosh", "quantile", "poisson_nll", "msle"):
        value, grad = value_and_grad(build(name), x, torch.tensor([1, 2]))
        assert torch.isfinite(value)
        assert grad.dtype == torch.float32
        torch.testing.assert_close(value, build(name)(x, torch.tensor([1.0, 2.0])))


def test_predictions_from_raw_outputs():
    raw = torch.tensor([[0.0, math.log(3.0)]])
    torch.testing.assert_close(losses.predict_from("logits", raw), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(losses.predict_from("logit", torch.tensor([[0.0], [math.log(3.0)]])), torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(losses.predict_from("log_rate", torch.tensor([math.log(3.0)])), torch.tensor([3.0]))
    assert losses.predict_from("identity", torch.ones(4, 1)).shape == (4,)
    assert losses.predict_from("mean_and_variance", torch.tensor([[2.0, 9.0]])).tolist() == [2]
    for cls in losses.LOSSES.values():
        if cls.output == "embedding":  # not a prediction
            continue
        assert torch.isfinite(losses.predict_from(cls.output, torch.zeros(3, cls.outputs(3)))).all()
