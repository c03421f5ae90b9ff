"""A loss of one's own, as an object: values, weights, what is refused."""

import copy

import pytest
import torch
from torch import nn

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.losses import Custom, own_loss
from tests.training.toy_losses import Vectors

X, Y = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([1.0, 1.0, 1.0])


def apart(x, y):
    return (x - y).abs()


@pytest.mark.parametrize("function", [nn.L1Loss(), nn.L1Loss(reduction="none"), apart, lambda x, y: (x - y).abs().mean()])
def test_the_mean_of_examples_and_a_mean_given_are_one(function):
    loss = Custom(function, task="regression")
    assert float(loss(X, Y)) == pytest.approx(5 / 3)
    assert float(loss.quick(X, Y)) == pytest.approx(5 / 3)
    total, count = loss.sum_and_count(X, Y)
    assert (float(total), float(count)) == (pytest.approx(5), 3)


def test_weights_and_masks_for_values_of_examples():
    loss = Custom(apart, task="regression")
    assert float(loss(X, Y, sample_weight=torch.tensor([1.0, 1.0, 3.0]))) == pytest.approx(13 / 5)
    bad = torch.tensor([0.0, 1.0, torch.nan], requires_grad=True)
    value = loss(bad, Y, mask=torch.tensor([True, True, False]))
    value.backward()
    assert float(value.detach()) == 0.5
    assert bad.grad.tolist() == [-0.5, 0, 0]
    assert Custom(apart, task="regression", reduction="none")(X, Y).tolist() == [1, 0, 4]


def test_values_of_more_than_one_axis_are_averaged_over_each_example():
    loss = Custom(lambda x, y: (x - nn.functional.one_hot(y, 2)).square(), task="multiclass", reduction="none")
    assert loss(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([0, 1])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("options", [{"sample_weight": Y}, {"mask": Y > 0}])
def test_one_value_for_the_batch_takes_no_weights(options):
    with pytest.raises(FalllineError, match=r"a value for each example.*reduction='none'"):
        Custom(nn.L1Loss(), task="regression")(X, Y, **options)


def test_an_empty_batch_is_zero():
    assert float(Custom(nn.L1Loss(), task="regression")(X[:0], Y[:0])) == 0


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x, y: (x - y).abs().mean().item(), "gives a tensor.*float"),
        (lambda x, y: (x - y).abs().detach(), "has a gradient"),
        (lambda x, y: (x - y).abs()[:2], "one number, or one an example"),
        (lambda x, y: x @ y[:2], "lambda raised RuntimeError: .*it was called with input"),
        (lambda x: x, "lambda raised TypeError"),
    ],
)
def test_what_a_function_may_not_give(function, said):
    with pytest.raises(FalllineError, match=said):
        Custom(function, task="regression")(X.clone().requires_grad_(), Y)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (nn.NLLLoss(), "NLLLoss takes log-probabilities.*cross_entropy"),
        (nn.functional.binary_cross_entropy, "takes probabilities.*binary_cross_entropy"),
        (nn.SoftMarginLoss(), "labels -1"),
        (nn.L1Loss(reduction="sum"), "write reduction='mean' or 'none'"),
        (3, "loss is a name, a loss object or a function"),
        (nn.L1Loss, r"the class L1Loss; write L1Loss\(\)"),
        (fl.losses.Huber, r"the class Huber; write Huber\(\)"),
        (fl.losses.MultiTask({"a": "mse"}), "MultiTask"),
    ],
)
def test_what_is_no_loss_of_a_run(function, said):
    with pytest.raises(FalllineError, match=said):
        own_loss(function, "regression")


def test_own_loss_leaves_losses_of_fallline_and_names_alone():
    huber, vectors = fl.losses.Huber(), Vectors(classes=3, dim=3)
    assert own_loss("huber", "regression") is None
    assert own_loss(huber, "regression") is huber
    assert own_loss(vectors, "multiclass") is vectors
    made = own_loss(apart, "binary")
    assert (made.name, made.output, made.outputs(2), own_loss(apart, "multiclass").outputs(4)) == ("apart", "logit", 1, 4)
    with pytest.raises(FalllineError, match="task='binary'"):
        own_loss(made, "multiclass")
    with pytest.raises(FalllineError, match="there is no task 'ranking'"):
        Custom(apart, task="ranking")


def test_a_subclass_that_does_not_say_what_it_is_for():
    class Bare(fl.losses.Loss):
        def values(self, input, target):
            return input - target

    with pytest.raises(FalllineError, match=r"tasks, target_kind and output` must hold for bare.*plain function"):
        own_loss(Bare(), "regression")


def test_parameters_are_the_losss_and_copies_are_apart():
    loss = Custom(nn.PReLU(), task="regression")
    other = copy.deepcopy(loss)
    assert [name for name, _ in loss.named_parameters()] == ["function.weight"]
    assert next(other.parameters()) is not next(loss.parameters())
    assert "PReLU" in repr(loss)
    assert "apart" in repr(Custom(apart, task="regression"))
