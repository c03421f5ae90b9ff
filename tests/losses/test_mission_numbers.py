"""The numbers of MISSION section 1, each a test."""

import math

import pytest
import torch

from fallline import penalties
from fallline._core.errors import FalllineError
from fallline.losses import CrossEntropy, MulticlassHinge, functional

D = torch.float64


def t(*values):
    return torch.tensor(values, dtype=D)


def close(value, expected, tolerance=1e-9):
    got = float(torch.as_tensor(value).detach())
    assert abs(got - expected) <= tolerance, (got, expected)


def test_mse_of_the_text():
    close(functional.mse(t(0.8), t(1)), 0.04)


def test_mae_has_subgradient_zero_at_zero():
    x = t(1.0, 2.0).requires_grad_()
    functional.mae(x, t(1, 0), reduction="sum").backward()
    assert x.grad.tolist() == [0, 1]


MSLE_TABLE = [(30, 20, 0.02861), (30000, 20000, 0.03100), (20, 10, 0.07886), (20, 30, 0.02861)]


@pytest.mark.parametrize(("y", "x", "printed"), MSLE_TABLE)
def test_msle_table_of_s1_is_base_ten(y, x, printed):
    factor = math.log(10) ** 2
    close(factor, 5.3019, 5e-5)
    # S1 prints five digits, and its (30000, 20000) drops the 1 before the logarithm's last digit: hence 1.5e-5.
    close(functional.msle(t(x), t(y)) / factor, printed, 1.5e-5)


@pytest.mark.parametrize(("x", "y"), [(-1.0, 2.0), (-3.0, 2.0), (2.0, -1.0), (2.0, -5.0)])
def test_msle_at_or_below_minus_one_is_an_error(x, y):
    with pytest.raises(FalllineError, match="above -1"):
        functional.msle(t(x), t(y))


def test_huber_is_half_mse_inside_a_line_outside_and_seamless():
    for delta in (0.5, 1.0, 3.0):
        inside, outside = t(0.9 * delta), t(2 * delta, 3 * delta)
        close(functional.huber(inside, t(0), delta=delta), functional.mse(inside, t(0)) / 2)
        values = functional.huber(outside, t(0, 0), delta=delta, reduction="none")
        close(values[1] - values[0], delta * delta)  # slope delta over a step of delta
        around = t(delta - 1e-7, delta + 1e-7).requires_grad_()
        values = functional.huber(around, t(0, 0), delta=delta, reduction="none")
        close(values[1] - values[0], 2e-7 * delta, 1e-12)
        values.sum().backward()
        close(around.grad[1] - around.grad[0], 1e-7, 1e-12)
        close(functional.huber(outside, t(0, 0), delta=delta), delta * functional.smooth_l1(outside, t(0, 0), beta=delta))


def test_quantile_poisson_and_gaussian_closed_forms():
    close(functional.quantile(t(1), t(3), q=0.9), 1.8)
    close(functional.quantile(t(3), t(1), q=0.9), 0.2)
    close(functional.poisson_nll(t(math.log(2.0)), t(3)), 2 - 3 * math.log(2))
    close(functional.poisson_nll(t(math.log(2.0)), t(3), full=True), -math.log(math.exp(-2) * 2**3 / 6))
    two = torch.tensor([[1.0, 4.0]], dtype=D)
    density = math.exp(-((3 - 1) ** 2) / 8) / math.sqrt(2 * math.pi * 4)
    close(functional.gaussian_nll(two, t(3), variance_from="variance", full=True), -math.log(density))
    log = torch.tensor([[1.0, math.log(4.0)]], dtype=D)
    close(functional.gaussian_nll(log, t(3), variance_from="log_variance", full=True), -math.log(density), 1e-6)


def test_minimisers_are_the_mean_the_median_and_the_quantile():
    y = t(1, 2, 3, 10, 50)
    grid = torch.linspace(0, 60, 6001, dtype=D)

    def best(loss, **kw):
        cost = torch.stack([loss(g.expand(5), y, **kw) for g in grid])
        return float(grid[cost.argmin()])

    close(best(functional.mse), 13.2, 0.01)
    close(best(functional.mae), 3, 0.01)
    close(best(functional.quantile, q=0.9), 50, 0.01)


def test_binary_cross_entropy_of_the_text():
    close(functional.binary_cross_entropy(t(0.748), t(1), input_from="probabilities"), 0.2904, 5e-5)


def test_weighted_binary_cross_entropy_of_s2():
    p, y = t(0.7, 0.4), t(1, 0)
    expected = -(0.8 * math.log(0.7) + 0.2 * math.log(0.6)) / 2
    close(functional.binary_cross_entropy(p, y, input_from="probabilities", class_weight=(0.2, 0.8)), expected, 1e-7)
    close(functional.binary_cross_entropy(torch.logit(p), y, class_weight=(0.2, 0.8)), expected, 1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("x", "y"), [(100.0, 0), (-100.0, 1)])
@pytest.mark.parametrize("form", ["forward", "quick"])
def test_binary_cross_entropy_on_the_wrong_side(dtype, x, y, form):
    from fallline.losses import BinaryCrossEntropy

    logit = torch.tensor([x], dtype=dtype, requires_grad=True)
    loss = BinaryCrossEntropy()
    value = (loss if form == "forward" else loss.quick)(logit, torch.tensor([y]))
    value.backward()
    close(value, 100)
    assert abs(float(logit.grad)) == 1


def test_hinges():
    x, y = t(0.3, -2.0, 2.0), torch.tensor([1, 1, 1])
    assert torch.allclose(functional.hinge(x, y, reduction="none"), t(0.7, 3, 0))
    assert torch.allclose(functional.squared_hinge(x, y, reduction="none"), t(0.49, 9, 0))


def test_multiclass_hinge_of_s3():
    s = torch.tensor([[-5.0, 15.0, 7.0]], dtype=D)
    close(functional.multiclass_hinge(s, torch.tensor([0]), delta=8), 48)
    close(functional.multiclass_hinge(s, torch.tensor([0]), delta=8, squared=True), 28**2 + 20**2)
    assert functional.multiclass_hinge(s, torch.tensor([1]), delta=8) == 0


def test_the_whole_of_s3_is_the_mean_plus_lambda_times_the_squared_weights():
    model = torch.nn.Linear(2, 3, dtype=D)
    x, y = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=D), torch.tensor([0, 2])
    total = MulticlassHinge(delta=8)(model(x), y) + 0.1 * penalties.l2(model.named_parameters())
    s = (x @ model.weight.T + model.bias).tolist()
    data = sum(sum(max(0, v - row[k] + 8) for j, v in enumerate(row) if j != k) for row, k in zip(s, [0, 2], strict=True)) / 2
    close(total, data + 0.1 * (model.weight.detach() ** 2).sum().item())


def test_cross_entropy_does_not_shift():
    x, y = torch.randn(6, 4, dtype=D, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    close(functional.cross_entropy(x + 1e4, y), float(functional.cross_entropy(x, y)), 1e-10)
    big = torch.tensor([[1e4, -1e4]], dtype=torch.float32, requires_grad=True)
    value = functional.cross_entropy(big, torch.tensor([1]))
    value.backward()
    assert value.item() == 2e4
    assert big.grad.tolist() == [[1, -1]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5), (2, 4, 3, 2), (4,)])
def test_sparse_is_one_hot(smoothing, weighted, shape):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, dtype=D, generator=g)
    labels = torch.randint(0, 4, shape[:1] + shape[2:] if len(shape) > 1 else (), generator=g)
    hot = torch.nn.functional.one_hot(labels, 4).to(D)
    hot = hot.movedim(-1, 1) if len(shape) > 2 else hot
    loss = CrossEntropy(label_smoothing=smoothing, class_weight=torch.tensor([1.0, 2.0, 0.5, 4.0], dtype=D) if weighted else None)
    torch.testing.assert_close(loss(x, hot), loss(x, labels))
    torch.testing.assert_close(loss.per_example(x, hot), loss.per_example(x, labels))


def test_all_ignored_is_zero_with_zero_gradient():
    for kw in ({}, {"label_smoothing": 0.1}, {"class_weight": torch.tensor([1.0, 5.0, 2.0])}):
        x = torch.randn(4, 3, requires_grad=True)
        value = functional.cross_entropy(x, torch.full((4,), -100), **kw)
        value.backward()
        assert value.item() == 0
        assert x.grad.abs().sum() == 0


def test_an_ignored_label_is_left_out_of_the_mean_and_its_nan_with_it():
    x = torch.randn(4, 3, dtype=D)
    y = torch.tensor([0, 7, 2, 7])
    x[1] = torch.nan
    x = x.requires_grad_()
    value = functional.cross_entropy(x, y, ignore_index=7)
    close(value, float(functional.cross_entropy(x.detach()[[0, 2]], y[[0, 2]])))
    value.backward()
    assert x.grad[[1, 3]].abs().sum() == 0
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("form", ["probabilities", "log_probabilities", "logits"])
def test_kl_of_itself_is_zero_whatever_the_form(form):
    p = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], dtype=D)
    x = p if form == "probabilities" else p.log()
    close(functional.kl_divergence(x, p, input_from=form), 0)
    close(functional.kl_divergence(x, x, input_from=form, target_from=form), 0)


def test_zero_log_zero_is_zero_in_value_and_gradient():
    q = torch.tensor([[0.5, 0.5, 0.0]], dtype=D, requires_grad=True)
    p = torch.tensor([[1.0, 0.0, 0.0]], dtype=D, requires_grad=True)
    value = functional.kl_divergence(q, p, input_from="probabilities")
    value.backward()
    close(value, math.log(2))
    assert torch.isfinite(q.grad).all()
    assert torch.isfinite(p.grad).all()
    assert functional.kl_divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]), input_from="probabilities") == math.inf


def test_kl_means_over_all_but_the_classes():
    q, p = torch.randn(2, 3, 4, dtype=D), torch.randn(2, 3, 4, dtype=D).softmax(-1)
    by_hand = (p * (p.log() - q.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(functional.kl_divergence(q, p), by_hand)
    torch.testing.assert_close(functional.kl_divergence(q.movedim(-1, 1), p.movedim(-1, 1), axis=1), by_hand)


def test_focal_asymmetric_poly_and_gce_meet_cross_entropy():
    x, y = torch.randn(6, 4, dtype=D), torch.tensor([0, 1, 2, 3, 0, 1])
    ce = functional.cross_entropy(x, y)
    torch.testing.assert_close(functional.focal(x, y, gamma=0), ce)
    torch.testing.assert_close(functional.poly1(x, y, epsilon=0), ce)
    torch.testing.assert_close(functional.generalized_cross_entropy(x, y, q=1e-7), ce, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(functional.generalized_cross_entropy(x, y, q=1), (1 - x.softmax(-1)[range(6), y]).mean())
    z, b = torch.randn(8, dtype=D), torch.arange(8) % 2
    same = functional.asymmetric(z, b, gamma_positive=0, gamma_negative=0, margin=0)
    torch.testing.assert_close(same, functional.binary_cross_entropy(z, b))
