"""Wrong use is refused in one sentence that says what must hold, what came, and what to write instead."""

import warnings

import pytest
import torch

from fallline._core.errors import FalllineError, FalllineWarning
from fallline.losses import LOSSES, CrossEntropy, GaussianNLL, KLDivergence, Loss, build, check_task, default_for, functional
from fallline.losses import _checks as checks


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch):
    monkeypatch.setattr(checks, "_warned", set())


X3 = torch.zeros(4, 3)
WRONG = [
    (lambda: functional.cross_entropy(X3, torch.tensor([0, 1, 7, 2])), ["0..2", "from 0 to 7", "7 in row 2", "cross_entropy"]),
    (lambda: functional.cross_entropy(X3, torch.tensor([0, 1, -1, 2])), ["0..2", "-1 in row 2"]),
    (lambda: functional.cross_entropy(X3, torch.tensor([1, 2, 3, 1])), ["write target - 1"]),
    (lambda: functional.cross_entropy(X3, torch.tensor([0.0, 1.0, 2.0, 1.0])), ["target.long()", "distribution"]),
    (lambda: functional.focal(X3, torch.tensor([0.0, 1.0, 2.0, 1.0])), ["whole numbers", "target.long()"]),
    (lambda: functional.cross_entropy(X3, torch.zeros(4, 1).long()), ["squeeze(-1)"]),
    (lambda: functional.cross_entropy(torch.zeros(2, 5, 3), torch.zeros(2, 5).long()), ["movedim(-1, 1)"]),
    (lambda: functional.cross_entropy(X3, torch.full((4, 3), 0.5)), ["sums to 1", "1.5 in row 0"]),
    (lambda: functional.cross_entropy(X3, torch.zeros(4).long(), class_weight=[1, 2]), ["class_weight has the shape (3,)", "(2,)"]),
    (
        lambda: functional.hinge(torch.zeros(3), torch.tensor([1, 0, 1])),
        ["-1 or +1", "0 in row 1", "--signed-labels", "binary_cross_entropy"],
    ),
    (lambda: functional.hinge(torch.zeros(2), torch.tensor([True, False])), ["-1 or +1", "--signed-labels"]),
    (lambda: functional.mse([1.0], torch.zeros(1)), ["input is a tensor", "list", "torch.as_tensor(input)"]),
    (lambda: functional.mse(torch.zeros(2), torch.zeros(2), sample_weight=[1, 2]), ["sample_weight is a tensor"]),
    (lambda: functional.squared_hinge(torch.zeros(2), torch.tensor([1, 5])), ["-1 or +1", "5 in row 1"]),
    (lambda: functional.binary_cross_entropy(torch.zeros(3), torch.tensor([1, -1, 1])), ["0 or 1", "-1 in row 1", "hinge"]),
    (lambda: functional.binary_cross_entropy(torch.zeros(2), torch.tensor([0.5, 1.5])), ["1.5 in row 1"]),
    (
        lambda: functional.binary_cross_entropy(torch.tensor([0.5, 3.0]), torch.tensor([0, 1]), input_from="probabilities"),
        ["0..1", "logits"],
    ),
    (lambda: functional.msle(torch.zeros(2), torch.tensor([0.5, -1.5])), ["target is above -1", "-1.5 in row 1", "use mse"]),
    (lambda: build("msle").quick(torch.tensor([0.0, -2.0]), torch.zeros(2)), ["prediction is above -1", "-2 in row 1", "softplus"]),
    (lambda: functional.poisson_nll(torch.zeros(2), torch.tensor([1.0, -2.0])), ["count is >= 0", "-2 in row 1", "mse"]),
    (lambda: functional.poisson_nll(torch.tensor([-1.0]), torch.tensor([1.0]), input_from="rate"), ["rate is >= 0", "log_rate"]),
    (lambda: functional.kl_divergence(X3, torch.tensor([0, 1, 2, 0])), ["distribution", "cross_entropy"]),
    (
        lambda: functional.kl_divergence(X3.softmax(-1), X3.softmax(-1), input_from="log_probabilities"),
        ["<= 0", "input_from='probabilities'"],
    ),
    (lambda: functional.kl_divergence(X3, X3 + 1), ["target sums to 1"]),
    (lambda: functional.kl_divergence(X3, X3.softmax(-1), axis=2), ["axis"]),
    (lambda: functional.gaussian_nll(torch.zeros(4), torch.zeros(4)), ["last axis of 2"]),
    (lambda: functional.huber(torch.zeros(1), torch.zeros(1), delta=0), ["delta > 0", "huber"]),
    (lambda: functional.mse(torch.zeros(1), torch.zeros(1), reduction="avg"), ["mean, sum, none", "avg"]),
    (lambda: functional.mse(torch.zeros(1), torch.zeros(1), gamma=2), ["gamma"]),
    (lambda: CrossEntropy(class_weight=[1.0, -1.0]), ["class_weight is finite and >= 0"]),
    (lambda: build("binary_cross_entropy", class_weight=(1, 2, 3)), ["two finite numbers"]),
    (lambda: build("binary_cross_entropy:class_weight=1/x"), ["numbers with /"]),
    (lambda: build("mze"), ["mze", "did you mean", "mse"]),
    (lambda: build("huber:detla=2"), ["detla", "delta"]),
    (lambda: build("huber:2"), ["name=value", "delta"]),
    (lambda: build("huber:delta=big"), ["delta > 0", "big"]),
    (lambda: default_for("ranking"), ["ranking", "regression"]),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_use(number):
    call, words = WRONG[number]
    with pytest.raises(FalllineError) as error:
        call()
    text = str(error.value)
    assert all(word.lower() in text.lower() for word in words), text
    assert "\n" not in text
    assert len(text.partition(" Known: ")[0]) < 400  # the list of all losses may be long


def test_shapes_are_checked_even_when_values_are_not():
    loss = build("mse", validate=False)
    with pytest.raises(FalllineError, match="same shape"):
        loss(torch.zeros(4, 1), torch.zeros(4))


def test_probabilities_where_logits_belong_are_told_once():
    rows = torch.rand(8, 3).softmax(-1)
    with pytest.warns(FalllineWarning, match="drop the softmax"):
        functional.cross_entropy(rows, torch.zeros(8).long())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functional.cross_entropy(rows, torch.zeros(8).long())
    with pytest.warns(FalllineWarning, match="drop the sigmoid"):
        functional.binary_cross_entropy(torch.rand(32) * 0.9 + 0.05, torch.zeros(32))


def test_ordinary_logits_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(50):
            g = torch.Generator().manual_seed(seed)
            functional.cross_entropy(torch.randn(4, 3, generator=g), torch.zeros(4).long())
            functional.cross_entropy(torch.zeros(4, 3), torch.zeros(4).long())
            functional.binary_cross_entropy(torch.randn(32, generator=g) * 0.1, torch.zeros(32))


VALID = {
    "real": torch.tensor([1.0, -2.0]),
    "above_minus_one": torch.tensor([1.0, 0.0]),
    "count": torch.tensor([1.0, 0.0]),
    "binary": torch.tensor([0, 1]),
    "signed": torch.tensor([-1, 1]),
    "index": torch.tensor([0, 2]),
    "distribution": torch.tensor([[0.5, 0.5]]),
    "pair": torch.tensor([[0.5, 0.5], [1.0, -1.0]]),
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_column_of_good_targets_passes_and_nan_does_not(name):
    loss = build(name)
    good = VALID[loss.target_kind]
    loss.validate_targets(good, 3 if loss.target_kind == "index" else None)
    if good.is_floating_point():
        bad = good.clone()
        bad.view(-1)[1] = torch.nan
        with pytest.raises(FalllineError, match=r"nan in row [01]"):
            loss.validate_targets(bad)


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("msle", torch.tensor([3.0, -2.0]), ["msle", "above -1", "-2 in row 1", "use mse"]),
        ("poisson_nll", torch.tensor([3.0, -2.0]), [">= 0", "use mse"]),
        ("hinge", torch.tensor([0, 1]), ["--signed-labels", "binary_cross_entropy"]),
        ("binary_cross_entropy", torch.tensor([-1, 1]), ["hinge"]),
        ("binary_cross_entropy", torch.tensor([3.4, 1.0]), ["use mse"]),
        ("cross_entropy", torch.tensor([3.4, 1.0]), ["mse"]),
        ("cross_entropy", torch.tensor([0, 3]), ["0..2", "3 in row 1"]),
        ("kl_divergence", torch.tensor([0, 1]), ["cross_entropy"]),
    ],
)
def test_a_column_of_bad_targets_is_refused_with_advice(name, target, words):
    with pytest.raises(FalllineError) as error:
        build(name).validate_targets(target, 3)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_ignored_labels_pass():
    build("cross_entropy").validate_targets(torch.tensor([0, -100, 2]), 3)
    CrossEntropy().validate_targets(torch.tensor([[0.5, 0.5, 0.0]]), 3)
    KLDivergence(target_from="log_probabilities").validate_targets(torch.tensor([[0.5, 0.5]]).log())


@pytest.mark.parametrize(
    ("loss", "task", "labels", "words"),
    [
        ("cross_entropy", "regression", (), ["cross_entropy", "multiclass", "a number", "use mse", "huber"]),
        ("binary_cross_entropy", "regression", (), ["use mse"]),
        ("mse", "binary", (0, 1), ["mse", "regression", "use binary_cross_entropy", "hinge"]),
        ("huber:delta=2", "multiclass", ("a", "b", "c"), ["huber", "use cross_entropy", "multiclass_hinge"]),
        ("binary_cross_entropy", "multiclass", ("a", "b", "c"), ["use cross_entropy"]),
        ("cross_entropy", "binary", (0, 1), ["use binary_cross_entropy"]),
        ("kl_divergence", "multiclass", (0, 1, 2), ["distribution", "cross_entropy"]),
        ("hinge", "binary", (0, 1), ["-1 and +1", "0 and 1", "--signed-labels", "binary_cross_entropy"]),
        ("squared_hinge", "binary", (1, 2), ["1 and 2", "--signed-labels"]),
        ("hing", "binary", (0, 1), ["hinge"]),
    ],
)
def test_a_loss_that_does_not_fit_the_task(loss, task, labels, words):
    with pytest.raises(FalllineError) as error:
        check_task(loss, task, labels)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("loss", "task", "labels"),
    [
        ("mse", "regression", ()),
        ("hinge", "binary", (-1, 1)),
        ("hinge", "binary", (-1.0, 1.0)),
        ("hinge", "binary", ("no", "yes")),
        ("binary_cross_entropy", "binary", (0, 1)),
        ("cross_entropy", "multiclass", (0, 1, 2)),
    ],
)
def test_a_loss_that_fits(loss, task, labels):
    check_task(loss, task, labels)


def test_defaults_fit_their_tasks():
    for task in ("regression", "binary", "multiclass"):
        check_task(default_for(task), task)
        assert LOSSES[default_for(task)].outputs(4) == (4 if task == "multiclass" else 1)
    assert GaussianNLL.outputs() == 2
    with pytest.raises(FalllineError, match="n_classes"):
        CrossEntropy.outputs(1)


def test_specs():
    assert build("huber:delta=2").delta == 2
    assert build(" cross_entropy : label_smoothing=0.1, ignore_index=-1 ").ignore_index == -1
    assert build("multiclass_hinge:squared=true").squared is True
    assert build("huber:delta=2", delta=3).delta == 3
    assert build("binary_cross_entropy:class_weight=0.2/0.8")(torch.zeros(1), torch.ones(1)).item() == pytest.approx(
        0.8 * 0.693147, abs=1e-5
    )
    assert "delta=2.0" in repr(build("huber:delta=2"))
    assert "class_weight=[1.0, 2.0]" in repr(CrossEntropy(class_weight=[1, 2]))


def test_outputs_follow_the_form_of_the_input():
    assert build("binary_cross_entropy").output == "logit"
    assert build("binary_cross_entropy:input_from=probabilities").output == "probability"
    assert build("poisson_nll:input_from=rate").output == "rate"


def test_class_weights_move_with_the_module():
    loss = CrossEntropy(class_weight=[1, 2])
    assert "class_weight" in dict(loss.named_buffers())
    assert loss.to(torch.float64).class_weight.dtype == torch.float64


def test_a_new_loss_needs_only_its_formula():
    from fallline.losses._kinds import Regression

    class Cube(Regression):
        name = "cube"

        def values(self, input, target):
            return (input - target).abs() ** 3

    loss = Cube(reduction="sum")
    mask = torch.tensor([True, False])
    assert loss(torch.tensor([2.0, torch.nan]), torch.tensor([0.0, 0.0]), mask=mask).item() == 8
    assert isinstance(loss, Loss)
