"""What holds of a loss beyond its usual arguments: a class that changes part of it, options changed later, infinities, wrong types."""

import math
import pickle

import pytest
import torch

import fallline as fl
from fallline import losses as L
from fallline._core.errors import FalllineError
from fallline.losses import functional
from fallline.losses._kinds import Regression

D = torch.float64
X, Y = torch.tensor([1.0, 2.0, 4.0], dtype=D), torch.tensor([0.5, 2.5, 1.0], dtype=D)
SCORES, LABELS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=D), torch.arange(8) % 3


def slope(f, x):
    x = x.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(f(x), x)
    return found


class Cubic(L.MSE):
    def values(self, input, target):
        return 1000 * (input - target).abs() ** 3


class Costly:
    def values(self, input, target):
        return 1000 * (input - target).abs()


class Mixed(Costly, L.MSE):
    pass


class Heavy(Regression):
    name = "heavy"

    def values(self, input, target):
        return (input - target).square()

    def weights(self, input, target):
        return target


class Weighed(L.CrossEntropy):
    def weights(self, input, target):
        return 1.0 + target


class Doubled(L.MSE):
    def forward(self, input, target, **kw):
        return 2 * super().forward(input, target, **kw)


@pytest.mark.parametrize("kind", [Cubic, Mixed, Heavy, Doubled])
def test_a_changed_part_changes_every_way(kind):
    loss = kind()
    value = loss(X, Y)
    expected = loss.per_example(X, Y).sum() / (Y.sum() if kind is Heavy else 3) * (2 if kind is Doubled else 1)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(loss.quick(X, Y), value)
    torch.testing.assert_close(loss.quick_slope(X, Y), (value, slope(lambda x: loss(x, Y), X)))


def test_changed_weights_of_classes_are_trained_by_too():
    loss = Weighed()
    for _ in range(2):
        torch.testing.assert_close(loss.quick(SCORES, LABELS), loss(SCORES, LABELS))
        torch.testing.assert_close(loss.quick_slope(SCORES, LABELS)[0], loss(SCORES, LABELS))
        loss.validate_targets(LABELS, 3)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "poly1", "generalized_cross_entropy", "multiclass_hinge"])
@pytest.mark.parametrize("options", [{"ignore_index": 1}, {"ignore_index": 1, "class_weight": [1.0, 2.0, 0.0]}])
@pytest.mark.parametrize("validated", [False, True])
def test_quick_knows_ignored_labels_and_classes_without_weight(name, options, validated):
    loss = L.build(name, **options).to(D)
    if validated:
        loss.validate_targets(LABELS, 3)
    for y in (LABELS, torch.ones_like(LABELS)):
        value = loss(SCORES, y)
        torch.testing.assert_close(loss.quick(SCORES, y), value)
        torch.testing.assert_close(loss.quick_slope(SCORES, y), (value, slope(lambda x, y=y: loss(x, y), SCORES)))
    assert value.item() == 0


def test_labels_once_looked_through_are_not_looked_through_again():
    loss = L.CrossEntropy()
    assert loss._all_count is None
    loss.validate_targets(LABELS, 3)
    assert loss._all_count
    loss.validate_targets(torch.tensor([0, -100]), 3)
    loss.validate_targets(LABELS, 3)
    assert loss._all_count is False
    loss.ignore_index = 7
    assert loss._all_count is None
    assert L.Focal(class_weight=[1.0, 0.0]).all_count(LABELS) is False


def test_fit_refuses_another_reduction_than_the_mean():
    with pytest.raises(FalllineError, match="mean loss"):
        fl.fit("mlp:4", "digits", loss=L.CrossEntropy(reduction="sum"), epochs=1)


def test_soft_targets_go_with_any_ignored_label():
    soft = SCORES.softmax(1)
    for call in (L.CrossEntropy(ignore_index=255), L.CrossEntropy(ignore_index=255).quick):
        torch.testing.assert_close(call(SCORES, soft), L.CrossEntropy()(SCORES, soft))


def test_soft_targets_of_0_and_1_have_their_derivative():
    t = torch.tensor([[1.0, 0.0, 0.0]], dtype=D)
    x, all_of = SCORES[:1], torch.ones(1, dtype=torch.bool)
    torch.testing.assert_close(slope(lambda t: L.CrossEntropy()(x, t, mask=all_of), t), -x.log_softmax(1))
    t = torch.tensor([0.0, 1.0, 0.5], dtype=D)
    everything = torch.ones(3, dtype=torch.bool)
    for loss in (L.BinaryCrossEntropy(reduction="sum"), L.Focal(gamma=0.0, reduction="sum"), L.BinaryCrossEntropy(reduction="sum")):
        torch.testing.assert_close(slope(lambda t, loss=loss: loss(X, t, mask=everything), t), -X)


@pytest.mark.parametrize(
    "loss", [L.BinaryCrossEntropy(), L.Focal(), L.Focal(gamma=0.5), L.Asymmetric(), L.Asymmetric(margin=0.0, gamma_positive=1.0)]
)
def test_infinite_logits_on_the_right_side_cost_nothing(loss):
    x, y = torch.tensor([math.inf, -math.inf]), torch.tensor([1, 0])
    for target in (y, y.float()):
        assert loss(x, target).item() == 0
        assert torch.equal(slope(lambda x, t=target: loss(x, t), x), torch.zeros(2))


def test_focal_loss_where_every_other_class_is_impossible():
    x, y = torch.tensor([[0.0, -math.inf]]), torch.tensor([0])
    assert L.Focal()(x, y).item() == 0
    assert torch.equal(slope(lambda x: L.Focal()(x, y), x), torch.zeros(1, 2))


def test_asymmetric_loss_with_a_small_margin_keeps_its_digits():
    for margin, x in ((1e-8, 20.0), (1e-8, 50.0), (1e-4, 20.0), (0.05, 3.0), (0.05, -2.0)):
        wide, single = (torch.tensor([x], dtype=dtype) for dtype in (D, torch.float32))
        loss, y = L.Asymmetric(margin=margin), torch.tensor([0])
        q = 1 / (1 + math.exp(x))
        torch.testing.assert_close(loss(wide, y).item(), -((1 - q - margin) ** 4) * math.log(q + margin), rtol=1e-9, atol=0)
        torch.testing.assert_close(loss(single, y.float()).double(), loss(wide, y), rtol=1e-5, atol=0)
        exact = 4 * (1 - q - margin) ** 3 * q * (1 - q) * -math.log(q + margin) + (1 - q - margin) ** 4 * q * (1 - q) / (q + margin)
        torch.testing.assert_close(slope(lambda x, loss=loss, y=y: loss(x, y), single).item(), exact, rtol=1e-4, atol=0)


def test_small_probabilities_and_small_violations_count():
    p = torch.tensor([1e-9])
    torch.testing.assert_close(L.BinaryCrossEntropy(input_from="probabilities")(p, torch.tensor([0])).item(), 1e-9)
    s = torch.tensor([[1.0, 1e-5]])
    for squared, expected in ((True, 1e-10), (False, 1e-5)):
        loss = L.MulticlassHinge(squared=squared)
        torch.testing.assert_close(loss(s, torch.tensor([0])).item(), expected, rtol=1e-2, atol=0)
        for y in (0, 1):

            def cost(s, loss=loss, target=torch.tensor([y])):  # noqa: B008
                return loss(s, target)

            torch.testing.assert_close(torch.func.grad(cost)(s), slope(cost, s))


def test_a_weight_of_0_can_be_learnt():
    w = torch.tensor([0.0, 1.0, 2.0], dtype=D)
    each = L.MSE().per_example(X, Y)
    torch.testing.assert_close(slope(lambda w: L.MSE(reduction="sum")(X, Y, sample_weight=w), w), each)
    torch.testing.assert_close(torch.func.grad(lambda w: L.MSE(reduction="sum")(X, Y, sample_weight=w))(w), each)
    learnt = w.clone().requires_grad_()
    for normalize in ("weight", "count"):
        loss = L.MSE(normalize=normalize)
        torch.testing.assert_close(loss(X, Y, sample_weight=learnt).detach(), loss(X, Y, sample_weight=w))


def test_class_weights_can_be_learnt_and_changed():
    w = torch.tensor([1.0, 2.0, 3.0], dtype=D)
    everything = torch.ones(8, dtype=torch.bool)
    for call in ((lambda loss: loss(SCORES, LABELS)), (lambda loss: loss.quick(SCORES, LABELS))):
        expected = slope(lambda w: L.CrossEntropy(class_weight=w)(SCORES, LABELS, mask=everything), w)
        torch.testing.assert_close(slope(lambda w, call=call: call(L.CrossEntropy(class_weight=w)), w), expected)
    loss = L.CrossEntropy()
    loss.class_weight = torch.nn.Parameter(w)
    loss(SCORES, LABELS).backward()
    assert loss.class_weight.grad.abs().sum() > 0
    loss.class_weight = [1.0, 2.0, 3.0]
    assert not list(loss.parameters())
    torch.testing.assert_close(loss.to(D)(SCORES, LABELS), L.CrossEntropy(class_weight=w)(SCORES, LABELS))


def test_options_changed_later_are_obeyed_and_checked():
    loss = L.BinaryCrossEntropy()
    y = torch.tensor([1.0, 0.0, 1.0], dtype=D)
    loss.pos_weight = 5.0
    torch.testing.assert_close(loss(X, y), L.BinaryCrossEntropy(pos_weight=5.0)(X, y))
    loss.pos_weight, loss.input_from = 1.0, "probabilities"
    assert loss.output == "probability"
    torch.testing.assert_close(loss(X.sigmoid(), y), L.BinaryCrossEntropy()(X, y))
    loss.input_from = "logits"
    assert loss.output == "logit"
    with pytest.raises(FalllineError, match="reduction is one of"):
        loss.reduction = "batchmean"
    with pytest.raises(FalllineError, match="pos_weight"):
        loss.pos_weight = -1.0
    with pytest.raises(FalllineError, match="make a new one"):
        L.InfoNCE().learn = True
    assert loss.reduction == "mean"


def test_function_forms_can_be_pickled():
    assert pickle.loads(pickle.dumps(functional.huber)) is functional.huber


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: L.MSE()(X, None), "target is a tensor"),
        (lambda: L.MSE()(None, X), "input is a tensor"),
        (lambda: L.CrossEntropy(class_weight="balanced"), "class_weight is numbers"),
        (lambda: L.CrossEntropy(class_weight={0: 1.0, 1: 2.0}), "class_weight is numbers"),
        (lambda: L.CrossEntropy(class_weight=2.0), "class_weight is numbers"),
        (lambda: L.BinaryCrossEntropy(class_weight=2.0), "two finite numbers"),
        (lambda: L.BinaryCrossEntropy(class_weight="ab"), "two finite numbers"),
        (lambda: L.BinaryCrossEntropy(class_weight=(1.0, math.nan)), "two finite numbers"),
        (lambda: L.MSE()(X, Y, sample_weight=X + 0j), "sample_weight is real"),
        (lambda: L.MSE()(X.to(torch.float8_e5m2), Y), "floating point of 16, 32 or 64 bits"),
        (lambda: L.MSE()(X.to_sparse(), Y), "input is dense"),
        (lambda: L.MSE()(X, Y.to_sparse()), "target is dense"),
    ],
)
def test_wrong_arguments_get_one_sentence(make, match):
    with pytest.raises(FalllineError, match=match):
        make()


def test_limits_of_likelihoods():
    low = torch.tensor([-math.inf])
    assert L.PoissonNLL()(low, torch.tensor([0.0])).item() == 0
    assert torch.equal(slope(lambda x: L.PoissonNLL()(x, torch.tensor([0.0])), low), torch.zeros(1))
    x = torch.tensor([[0.0, -200.0]])
    for form in ("softplus", "log_variance", "variance"):
        loss = L.GaussianNLL(eps=1e-50, variance_from=form)
        loss._looks, loss.validate = 0, False
        assert math.isfinite(loss(x, torch.tensor([0.0])).item())


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "poly1", "multiclass_hinge"])
def test_a_class_without_weight_may_be_nan(name):
    x = SCORES.clone()
    x[LABELS == 1] = math.nan
    loss = L.build(name, class_weight=[1.0, 0.0, 2.0]).to(D)
    torch.testing.assert_close(loss(x, LABELS), loss(SCORES, LABELS))
    torch.testing.assert_close(slope(lambda x: loss(x, LABELS), x), slope(lambda x: loss(x, LABELS), SCORES))


def test_a_label_without_weight_may_be_nan():
    x, y = torch.tensor([math.nan, 1.0]), torch.tensor([0, 1])
    loss = L.BinaryCrossEntropy(class_weight=(0.0, 1.0), reduction="sum")
    for target in (y, y.float()):
        torch.testing.assert_close(loss(x, target), torch.nn.functional.softplus(torch.tensor(-1.0)))
        assert slope(lambda x, t=target: loss(x, t), x)[0].item() == 0


def test_an_ignored_label_that_the_type_cannot_hold_ignores_nothing():
    torch._dynamo.reset()
    loss, y = L.CrossEntropy(ignore_index=258), (LABELS % 3).to(torch.int8)  # 258 is 2 in 8 bits
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(SCORES, y), L.CrossEntropy()(SCORES, LABELS))


def test_class_weights_of_soft_targets_are_exact_under_autocast():
    w, soft = torch.tensor([1.001, 2.003, 3.007]), SCORES.softmax(1).float()
    loss, x = L.CrossEntropy(class_weight=w), SCORES.float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(x, soft), loss.double()(SCORES, soft.double()).float())
