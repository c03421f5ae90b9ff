"""Where other libraries fail, one test a failure; what each did, in the version that was run, stands in the comment.

test_numerics.py and test_messages.py hold some of the field's traps already (half precision of mse, huber and log-cosh; labels above 2048
in half precision; class weights with label smoothing; saturated probabilities; infinite logits; the variance floor); the rest is here.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from fallline._core.errors import FalllineError, FalllineWarning
from fallline.losses import CrossEntropy, KLDivergence, MulticlassHinge, build, functional
from fallline.losses import _checks as checks
from tests.every.examples import NAMES, SEPARATE, D, example

INF, NAN = math.inf, math.nan


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch):
    monkeypatch.setattr(checks, "_warned", set())


def derivatives(call, *tensors):
    """Value, gradients and the gradient of their sum, by every tensor."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    value = call(*leaves)
    first = torch.autograd.grad(value, leaves, create_graph=True)
    total = sum(g.sum() for g in first)
    second = torch.autograd.grad(total, leaves, materialize_grads=True) if total.requires_grad else ()
    return value.detach(), [g.detach() for g in first], [g + 0 for g in second]


def all_finite(call, *tensors):
    value, first, second = derivatives(call, *tensors)
    return all(bool(torch.isfinite(t).all()) for t in (value, *first, *second))


# -- saturated logits ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [100.0, 1000.0, 1e30])
def test_the_wrong_side_keeps_its_slope_however_far(far):
    # torch 2.13 soft_margin_loss: inf from 89 on, NaN gradient at 1000; Keras 3.15.1 focal at 20: -6.6e-8; timm ASL at 25: -2.6e-10.
    wrong, two = torch.tensor([-far]), torch.tensor([[-far, 0.0]])
    for spec, x, y, slope in (
        ("binary_cross_entropy", wrong, torch.tensor([1]), -1.0),
        ("binary_cross_entropy", wrong, torch.tensor([1.0]), -1.0),
        ("asymmetric", wrong, torch.tensor([1]), -1.0),
        ("hinge", wrong, torch.tensor([1]), -1.0),
        ("cross_entropy", two, torch.tensor([0]), -1.0),
        ("cross_entropy:label_smoothing=0.1", two, torch.tensor([0]), -0.95),
        ("focal", two, torch.tensor([0]), -1.0),
        ("focal:gamma=0.5", two, torch.tensor([0]), -1.0),
        ("poly1", two, torch.tensor([0]), -1.0),
        ("multiclass_hinge", two, torch.tensor([0]), -1.0),
    ):
        value, (grad,), _ = derivatives(lambda x, spec=spec, y=y: build(spec)(x, y), x)
        assert torch.isfinite(value), spec
        assert grad.flatten()[0].item() == pytest.approx(slope, abs=1e-5), spec


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_no_overflow_of_the_exponential(dtype):
    # torch 2.13 soft_margin_loss overflows at -12 in float16; torchmetrics' log-cosh from 88 on; Keras' log-cosh at -40000 in float16.
    for spec, x, y in (
        ("binary_cross_entropy", [-12.0, 60000.0], torch.tensor([1, 0])),
        ("asymmetric", [-12.0, 60000.0], torch.tensor([1, 0])),
        ("log_cosh", [-40000.0, 60000.0], torch.zeros(2)),
        ("squared_hinge", [-12.0, 300.0], torch.tensor([1, -1])),
        ("gaussian_nll", [[3.0, -1.0], [300.0, 60000.0]], torch.zeros(2)),
        ("gaussian_nll:variance_from=log_variance", [[0.0, -5.0], [300.0, 60000.0]], torch.zeros(2)),
        ("cross_entropy", [[-60000.0, 60000.0]] * 2, torch.tensor([0, 1])),
        ("poly1", [[-60000.0, 60000.0]] * 2, torch.tensor([0, 1])),
        ("generalized_cross_entropy", [[-60000.0, 60000.0]] * 2, torch.tensor([0, 1])),
        ("multiclass_hinge:squared=true", [[-300.0, 300.0]] * 2, torch.tensor([0, 1])),
    ):
        assert all_finite(lambda x, spec=spec, y=y: build(spec)(x, y), torch.tensor(x, dtype=dtype)), spec


def test_cross_entropy_does_not_see_a_shift_of_the_logits():
    x, y = torch.tensor([[0.5, -1.0, 2.0]], dtype=D), torch.tensor([1])
    for shift in (1e4, -1e4):
        torch.testing.assert_close(functional.cross_entropy(x + shift, y), functional.cross_entropy(x, y), rtol=1e-10, atol=1e-10)
        assert torch.isfinite(functional.cross_entropy(x.float() + shift, y))


def test_focal_of_a_hopeless_logit_is_not_flat():
    # Keras 3.15.1 CategoricalFocalCrossentropy, wrong by 30: gradient 0. pytorch_optimizer 4.1 with gamma < 1: NaN at logit 30.
    for gamma in (0.5, 1.0, 2.0, 5.0):
        for x in ([[-30.0, 0.0]], [[30.0, 0.0]], [[0.0, 0.0]]):
            loss = build("focal", gamma=gamma)
            assert all_finite(lambda x, loss=loss: loss(x, torch.tensor([0])), torch.tensor(x)), (gamma, x)
        _, (grad,), _ = derivatives(
            lambda x, gamma=gamma: functional.focal(x, torch.tensor([0]), gamma=gamma), torch.tensor([[-30.0, 0.0]])
        )
        assert grad[0, 0].item() == pytest.approx(-1, abs=1e-4)


# -- zeros where a logarithm stands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q_form", ["logits", "log_probabilities", "probabilities"])
@pytest.mark.parametrize("p_form", ["probabilities", "log_probabilities", "logits"])
def test_kl_of_zeros_on_both_sides(q_form, p_form):
    # torch 2.13: NaN where target is 0 and input -inf, and with log_target where both are; optax: NaN, NaN by the target; Keras clips both.
    p, q = torch.tensor([[0.25, 0.75, 0.0]], dtype=D), torch.tensor([[0.5, 0.5, 0.0]], dtype=D)
    loss = KLDivergence(input_from=q_form, target_from=p_form)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    x, y = (side if form == "probabilities" else side.log() for side, form in ((q, q_form), (p, p_form)))
    assert loss(x, y).item() == pytest.approx(expected, abs=1e-12)
    assert all_finite(loss, x, y)
    assert loss(x.float(), y.float()).item() == pytest.approx(expected, abs=1e-6)


def test_kl_is_the_mean_over_what_is_not_classes_and_zero_at_a_match():
    # torch's 'batchmean' on (B, T, C) is T times the mean over tokens, its 'mean' 1/C of it; KL(p, p) passed as probabilities gives -1.19.
    x, y = torch.randn(2, 5, 3, dtype=D), torch.rand(2, 5, 3, dtype=D).softmax(-1)
    by_hand = (y * (y.log() - x.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(functional.kl_divergence(x, y), by_hand)
    torch.testing.assert_close(functional.kl_divergence(x.movedim(-1, 1), y.movedim(-1, 1), axis=1), by_hand)
    assert functional.kl_divergence(y, y, input_from="probabilities").abs() < 1e-15
    with pytest.warns(FalllineWarning, match="input_from='probabilities'"):
        functional.kl_divergence(y, y)


def test_a_class_that_is_ruled_out_gets_no_mass_from_smoothing():
    # torch 2.13: inf with label smoothing, NaN with soft targets.
    x, rest = torch.tensor([[0.5, -1.0, -INF]], dtype=D), torch.tensor([[0.5, -1.0]], dtype=D)
    hard, soft = torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.0]], dtype=D)
    assert torch.isinf(F.cross_entropy(x, hard, label_smoothing=0.1))
    assert torch.isnan(F.cross_entropy(x, soft))
    for target, narrow in ((hard, hard), (soft, soft[:, :2])):
        for smoothing in (0.0, 0.1):
            loss = CrossEntropy(label_smoothing=smoothing)
            value, (grad,), (curve,) = derivatives(lambda x, loss=loss, t=target: loss(x, t), x)
            torch.testing.assert_close(value, loss(rest, narrow))
            assert grad[0, 2] == 0
            assert torch.isfinite(grad).all()
            assert torch.isfinite(curve).all()
    assert functional.cross_entropy(x, torch.tensor([2])).item() == INF


@pytest.mark.parametrize("label", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("p", [0.0, 1e-30, 1e-12, 0.5, 1 - 1e-7, 1.0])
def test_probabilities_of_any_size_keep_a_finite_value_and_both_derivatives(p, label):
    # torch 2.13 clamps the logarithm at -100 (gradient -1e12 at 0); Keras and pytorch_optimizer clip p: gradient 0.
    call = lambda x: functional.binary_cross_entropy(x, torch.tensor([label], dtype=D), input_from="probabilities")  # noqa: E731
    value, (grad,), second = derivatives(call, torch.tensor([p], dtype=D))
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()
    assert all(torch.isfinite(s).all() for s in second)
    if label != 0.5 and abs(p - label) > 0.4:
        assert abs(grad.item()) > 1


def test_generalised_cross_entropy_where_the_probability_is_nought():
    # Keras 3.15.1: gradient -inf or NaN at p = 0, and one-hot labels silently wrong.
    for q in (0.1, 0.7, 1.0):
        for x in ([[-200.0, 0.0]], [[200.0, 0.0]], [[-INF, 0.0]]):
            loss = build("generalized_cross_entropy", q=q)
            _, (grad,), _ = derivatives(lambda x, loss=loss: loss(x, torch.tensor([0])), torch.tensor(x))
            assert torch.isfinite(grad).all()
    with pytest.raises(FalllineError, match=r"target.argmax\(1\)"):
        functional.generalized_cross_entropy(torch.zeros(2, 3), torch.eye(3)[:2])


@pytest.mark.parametrize("form", ["softplus", "log_variance"])
@pytest.mark.parametrize("raw", [-1000.0, -100.0, -1.0, 0.0, 100.0, 1000.0])
def test_a_gaussian_of_any_spread_has_finite_derivatives(form, raw):
    # torch 2.13 gaussian_nll_loss: slopes of -5e11 at its floor.
    assert all_finite(lambda x: build("gaussian_nll", variance_from=form)(x, torch.tensor([0.1])), torch.tensor([[0.0, raw]]))


# -- kinks -----------------------------------------------------------------------------------------------------------------------------

EDGES = [
    ("mae", [0.0], [0.0]),
    ("mse", [0.0], [0.0]),
    ("quantile", [0.0], [0.0]),
    ("huber", [1.0], [0.0]),
    ("huber", [-1.0], [0.0]),
    ("smooth_l1", [1.0], [0.0]),
    ("log_cosh", [0.0], [0.0]),
    ("log_cosh", [1.0], [0.0]),
    ("msle", [0.0], [0.0]),
    ("poisson_nll:input_from=rate", [0.0], [0.0]),
    ("hinge", [1.0], [1]),
    ("squared_hinge", [1.0], [1]),
    ("binary_cross_entropy", [0.0], [1]),
    ("asymmetric", [math.log(0.05 / 0.95)], [0]),
    ("asymmetric:gamma_negative=0.5", [math.log(0.05 / 0.95) + 1e-6], [0]),
    ("multiclass_hinge", [[1.0, 0.0, 1.0]], [0]),
    ("multiclass_hinge:squared=true", [[1.0, 0.0, 1.0]], [0]),
]


@pytest.mark.parametrize("edge", EDGES, ids=lambda e: f"{e[0]} at {e[1]}")
def test_both_derivatives_at_a_kink_are_finite(edge):
    # torch 2.13 multi_margin_loss has no second derivative at all.
    spec, x, y = edge
    target = torch.tensor(y, dtype=D) if isinstance(y[0], float) else torch.tensor(y)
    assert all_finite(lambda x: build(spec)(x, target), torch.tensor(x, dtype=D))


def test_subgradients_at_a_kink():
    x = torch.zeros(1, requires_grad=True)
    functional.mae(x, torch.zeros(1)).backward()
    assert x.grad.item() == 0
    for delta in (0.5, 1.0, 3.0):
        for side in (-1, 1):
            x = torch.tensor([side * delta], dtype=D, requires_grad=True)
            functional.huber(x, torch.zeros(1, dtype=D), delta=delta).backward()
            assert x.grad.item() == side * delta


# -- nothing to average, or one class --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_but_ignored_labels_is_zero(smoothing, weighted, reduction):
    # torch 2.13: NaN (pytorch#70348); its chunked linear cross-entropy: NaN gradients.
    loss = CrossEntropy(label_smoothing=smoothing, class_weight=[1.0, 2.0, 3.0] if weighted else None, reduction=reduction)
    value, (grad,), _ = derivatives(lambda x: loss(x, torch.full((4,), -100)), torch.randn(4, 3))
    assert value.item() == 0
    assert not grad.any()


def test_class_weights_that_leave_nobody_are_zero():
    value, (grad,), _ = derivatives(lambda x: CrossEntropy(class_weight=[0.0, 1.0])(x, torch.tensor([0, 0])), torch.randn(2, 2))
    assert value.item() == 0
    assert not grad.any()


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "poly1", "generalized_cross_entropy", "multiclass_hinge"])
def test_one_class_and_one_example(name):
    x = torch.randn(1, 3, dtype=D)
    torch.testing.assert_close(build(name)(x, torch.tensor([1])), build(name)(x.repeat(4, 1), torch.full((4,), 1)))
    if name != "focal":  # one output is a logit there
        assert build(name)(torch.zeros(2, 1, dtype=D), torch.tensor([0, 0])).item() == 0  # nothing to tell apart


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "poly1", "generalized_cross_entropy", "multiclass_hinge"])
def test_nan_in_an_ignored_row_stays_there(name):
    # Keras 3.15.1: NaN * 0 = NaN. timm's asymmetric and soft-target losses crash on -100.
    x, y = torch.randn(4, 3, dtype=D), torch.tensor([0, -100, 2, 1])
    poisoned = x.clone()
    poisoned[1] = NAN
    value, (grad,), _ = derivatives(lambda x: build(name)(x, y), poisoned)
    keep = y >= 0
    torch.testing.assert_close(value, build(name)(x[keep], y[keep]))
    assert not grad[1].any()


# -- labels ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_every_width_are_the_same_labels(dtype):
    # torch says that torch.tensor([156], dtype=torch.uint8) == -100, so the label 156 would count as ignored.
    x, y = torch.randn(2, 200, dtype=D), torch.tensor([156, 3])
    assert functional.cross_entropy(x, y.to(dtype)).item() == pytest.approx(F.cross_entropy(x, y).item(), rel=1e-12)
    build("cross_entropy").validate_targets(y.to(dtype), 200)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_class_labels_in_floating_point_are_refused(dtype):
    # Keras 3.15.1 SparseCategoricalCrossentropy(dtype="float16") reads label 2049 as 2048: loss 20 for a perfect score.
    for name in ("cross_entropy", "focal", "multiclass_hinge"):
        with pytest.raises(FalllineError, match=r"target.long\(\)"):
            build(name)(torch.zeros(2, 4096), torch.tensor([2049, 1]).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_one_hot_labels_for_a_sparse_loss_are_told_what_to_write(dtype):
    one_hot = torch.eye(3)[:2].to(dtype)
    for name in ("poly1", "generalized_cross_entropy", "multiclass_hinge"):
        with pytest.raises(FalllineError, match=r"write target.argmax\(1\)"):
            build(name)(torch.zeros(2, 3), one_hot)
    if dtype == torch.int64:
        with pytest.raises(FalllineError, match=r"target.float\(\)"):
            build("cross_entropy")(torch.zeros(2, 3), one_hot)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distributions_rounded_to_16_bits_are_distributions(dtype):
    p = torch.rand(8, 1000, generator=torch.Generator().manual_seed(0)).softmax(-1).to(dtype)
    x = torch.randn(8, 1000)
    torch.testing.assert_close(functional.kl_divergence(x, p), functional.kl_divergence(x, p.float()))
    torch.testing.assert_close(functional.cross_entropy(x, p), functional.cross_entropy(x, p.float()))


def test_hinge_does_not_guess_what_scores_are():
    # torchmetrics multiclass_hinge_loss takes a softmax unless all scores lie in [0, 1]: 0.30, and 0.0028 for ten times the scores.
    x, y = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1])
    assert functional.multiclass_hinge(x, y).item() == pytest.approx(((1 - 0.8) + (1 - 0.6)) / 2)
    assert functional.multiclass_hinge(10 * x, y).item() == 0


def test_weston_watkins_is_not_divided_by_the_classes():
    # torch 2.13 multi_margin_loss: 1.25; Keras' categorical_hinge: 0.5 where the margin is kept.
    x, y = torch.tensor([[0.0, 1.0, 1.0, 0.0]]), torch.tensor([0])
    assert functional.multiclass_hinge(x, y).item() == 5
    assert F.multi_margin_loss(x, y).item() == 1.25


# -- probabilities where logits belong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "poly1", "generalized_cross_entropy"])
def test_a_softmax_too_many_is_told(name):
    # silent in torch, Keras and optax: ten classes cannot go below 1.461
    with pytest.warns(FalllineWarning, match="drop the softmax"):
        build(name)(torch.randn(8, 3).softmax(-1), torch.zeros(8).long())


@pytest.mark.parametrize("name", ["binary_cross_entropy", "asymmetric"])
def test_a_sigmoid_too_many_is_told(name):
    with pytest.warns(FalllineWarning, match="drop the sigmoid"):
        build(name)(torch.rand(32) * 0.9 + 0.05, torch.zeros(32))


# -- one law for weights and reductions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEPARATE)
def test_weights_have_one_meaning_in_every_loss(name):
    # torch 2.13: weighted mse and l1 divide by the sum of the weights, huber by N, cross-entropy by its classes' weights, BCE by N.
    x, y = example(name)
    w = torch.linspace(0.5, 2, len(y), dtype=D)
    values, own, _ = build(name)._terms(x, y, None, None)
    own = torch.ones_like(values) if own is None else own
    torch.testing.assert_close(build(name)(x, y, sample_weight=w), (w * own * values).sum() / (w * own).sum())
    torch.testing.assert_close(build(name, normalize="count")(x, y, sample_weight=w), (w * own * values).sum() / len(y))


@pytest.mark.parametrize("bad", [INF, NAN, -1.0])
def test_weights_that_weigh_nothing_sensible_are_refused(bad):
    with pytest.raises(FalllineError, match=r"finite` must hold for mse, but got \S+ in row 1"):
        functional.mse(torch.zeros(3), torch.ones(3), sample_weight=torch.tensor([1.0, bad, 1.0]))


# -- nothing is done behind the caller's back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_grad_mode_and_the_options_stay_as_they_were(name):
    # timm's AsymmetricLoss leaves gradients on inside no_grad; pytorch-metric-learning turns its weights into the input's type.
    x, y = example(name)
    loss = build(name)
    before = {key: value.dtype for key, value in loss.state_dict().items()}
    with torch.no_grad():
        value = loss(x, y)
        assert not torch.is_grad_enabled()
        assert not value.requires_grad
    assert {key: value.dtype for key, value in loss.state_dict().items()} == before


def test_class_weights_keep_their_type():
    loss = CrossEntropy(class_weight=[1.0, 2.0])
    loss(torch.zeros(2, 2, dtype=D), torch.tensor([0, 1]))
    assert loss.class_weight.dtype == torch.float32


# -- types and devices -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("input", "target", "words"),
    [
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2), ["floating point", "int64", "input.float()"]),
        (torch.zeros(2, dtype=torch.bool), torch.zeros(2), ["floating point", "bool", "input.float()"]),
        (torch.zeros(2, dtype=torch.complex64), torch.zeros(2), ["floating point", "complex64", "input.real"]),
        (torch.zeros(2), torch.zeros(2, dtype=torch.complex64), ["real", "complex64", "target.real"]),
        (torch.zeros(2), torch.zeros(2, device="meta"), ["input's device, cpu", "meta", "target.to(input.device)"]),
        (torch.zeros(2, device="meta"), torch.zeros(2), ["input's device, meta", "cpu", "target.to(input.device)"]),
        (torch.zeros(2, 1), torch.zeros(2), ["same shape", "(2, 1)", "squeeze(-1)"]),
    ],
)
@pytest.mark.parametrize("name", ["mse", "mae", "huber", "log_cosh", "poisson_nll", "binary_cross_entropy"])
def test_types_and_devices_that_do_not_fit(name, input, target, words):
    with pytest.raises(FalllineError) as error:
        build(name)(input, target)
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


@pytest.mark.parametrize("what", ["sample_weight", "mask"])
def test_weights_and_masks_elsewhere_are_refused(what):
    given = {what: torch.ones(2, dtype=torch.bool if what == "mask" else torch.float32, device="meta")}
    with pytest.raises(FalllineError, match=f"{what} is on the input's device"):
        functional.mse(torch.zeros(2), torch.zeros(2), **given)


def test_the_place_of_a_bad_label_in_a_picture_is_told():
    y = torch.zeros(2, 3, 4).long()
    y[1, 2, 3] = 9
    with pytest.raises(FalllineError, match=r"labels from 0 to 9: 9 in row 1, at \[1, 2, 3\] \(1 such\)"):
        functional.cross_entropy(torch.zeros(2, 5, 3, 4), y)


def test_a_whole_model_on_the_meta_device_still_has_shapes():
    x = torch.zeros(4, 3, device="meta", requires_grad=True)
    value = CrossEntropy()(x, torch.zeros(4, dtype=torch.int64, device="meta"))
    value.backward()
    assert value.shape == ()
    assert x.grad.shape == (4, 3)


def test_multiclass_hinge_has_every_order_and_width():
    # torch 2.13 multi_margin_loss: no second derivative, no forward mode, no 16 bits on the CPU.
    x, y = torch.randn(3, 4, dtype=D), torch.tensor([0, 1, 2])
    assert torch.autograd.gradgradcheck(lambda x: MulticlassHinge(squared=True)(x, y), x.requires_grad_())
    assert torch.isfinite(MulticlassHinge()(x.detach().half(), y))
