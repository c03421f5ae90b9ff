"""Losses with one planted defect each, as people write them: the name of the problem that must be found, and on which batch.

Each is a function of (input, target) registered under the problem's name. Those of the gradient are in `planted_gradients`.
"""

import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tests.prove import data
from tests.prove.planting import plant

# -- sign ------------------------------------------------------------------------------------------------------------------------------


@plant("wrong-sign", data.scores)
def log_likelihood_without_its_minus(x, y):
    return x.log_softmax(1).gather(1, y[:, None]).mean()


@plant("wrong-sign", data.numbers)
def score_to_be_raised(x, y):
    return -F.mse_loss(x, y)


@plant("wrong-sign", data.logits)
def labels_the_other_way_round(x, y):
    return F.binary_cross_entropy_with_logits(x, 1 - y)


@plant("wrong-sign", data.signed)
def margin_with_a_plus(x, y):
    return F.softplus(x * y).mean()


@plant("wrong-sign", data.rows)
def similarity_in_place_of_distance(x, y):
    return F.cosine_similarity(x, y, dim=1).mean()


@plant("wrong-sign", data.embeddings)
def pushes_a_class_apart(x, y):
    same = (y[:, None] == y[None]).to(x.dtype) - torch.eye(len(y), dtype=x.dtype)
    return -((x[:, None] - x[None]).square().sum(-1) * same).mean()


@plant("wrong-class", data.scores)
def labels_counted_from_one(x, y):
    return F.cross_entropy(x, (y - 1).clamp(min=0))


@plant("wrong-class", data.scores)
def labels_one_too_high(x, y):
    return F.cross_entropy(x, (y + 1) % x.shape[1])


@plant("wrong-class", data.pictures)
def labels_of_pictures_one_too_high(x, y):
    return F.cross_entropy(x, (y + 1) % x.shape[1])


# -- shapes and axes -------------------------------------------------------------------------------------------------------------------


@plant("shape", data.rows)
def mean_over_the_examples_only(x, y):
    return (x - y).square().mean(0)


@plant("shape", data.pictures)
def mean_over_the_picture_and_examples(x, y):
    return F.cross_entropy(x, y, reduction="none").mean((0, 1))


@plant("wrong-axis", data.scores)
def softmax_over_the_batch(x, y):
    return -x.log_softmax(0).gather(1, y[:, None]).mean()


@plant("wrong-axis", data.rows)
def lengths_over_the_batch(x, y):
    return 1 - F.cosine_similarity(x, y, dim=0).mean()


@plant("wrong-axis", data.pictures)
def softmax_over_the_width(x, y):
    return -x.log_softmax(-1).gather(1, y[:, None]).mean()


@plant("broadcast", data.column)
def squeezes_one_side(x, y):
    return (x.squeeze(-1) - y).square().mean()


@plant("broadcast", lambda: (data.numbers()[0], data.column()[1]))
def takes_whatever_shapes_come(x, y):
    return (x - y).abs().mean()


@plant("pairing-lost", data.rows)
def compares_the_means(x, y):
    return (x.mean(0) - y.mean(0)).square().sum()


# -- in place --------------------------------------------------------------------------------------------------------------------------


@plant("in-place-input", data.numbers)
def subtracts_in_place(x, y):
    x -= y
    return x.square().mean()


@plant("in-place-input", data.scores)
def shifts_the_logits_data(x, y):
    x.data -= x.data.amax(1, keepdim=True)
    return F.cross_entropy(x, y)


@plant("in-place-target", data.labels)
def smooths_the_labels_in_place(x, y):
    y.mul_(0.9).add_(0.05)
    return F.binary_cross_entropy(x, y)


@plant("in-place-target", lambda: (data.scores()[0], torch.where(torch.arange(data.N) == 3, -1, data.scores()[1])))
def replaces_unknown_labels(x, y):
    known = y >= 0
    y[~known] = 0
    return (F.cross_entropy(x, y, reduction="none") * known).sum() / known.sum().clamp(min=1)


@plant("in-place-target", data.numbers)
def makes_the_target_require_a_gradient(x, y):
    y.requires_grad_(True)
    return F.mse_loss(x, y)


# -- edges -----------------------------------------------------------------------------------------------------------------------------


@plant("gradient-nan", data.numbers)
def root_mean_square(x, y):
    return (x - y).square().mean().sqrt()


@plant("gradient-nan", data.rows)
def distance_by_sqrt(x, y):
    return (x - y).square().sum(1).sqrt().mean()


@plant("gradient-nan", data.numbers)
def where_behind_the_root(x, y):
    error = x - y
    return torch.where(error > 0, error.sqrt(), -error).mean()


@plant("nan-at-edge", data.labels)
def textbook_cross_entropy(p, y):
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


@plant("nan-at-edge", data.rows)
def cosine_without_a_guard(x, y):
    return (1 - (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).mean()


@plant("nan-at-edge", lambda: (data.soft()[0].softmax(1), data.soft()[1]))
def divergence_without_zeros(q, p):
    return (p * (p.log() - q.log())).sum(1).mean()


@plant("nan-at-edge", data.numbers)
def percentage_of_the_target(x, y):
    return ((x - y) / y).abs().mean()


@plant("nan-at-edge", data.numbers, severity="warning")
def divides_by_the_batchs_deviation(x, y):
    return ((x - y) / (y.std() + 1e-8)).square().mean()


@plant("large-input", data.scores)
def softmax_without_its_maximum(x, y):
    p = x.exp() / x.exp().sum(1, keepdim=True)
    return -p.gather(1, y[:, None]).clamp(min=1e-30).log().mean()


@plant("large-input", data.signed, severity="warning")
def log_of_one_plus_exp(x, y):
    return torch.log(1 + torch.exp(-x * y)).mean()


@plant("large-input", data.numbers, severity="warning")
def log_of_cosh(x, y):
    return torch.log(torch.cosh(x - y)).mean()


@plant("saturated", data.logits)
def clamps_the_probability(x, y):
    p = x.sigmoid().clamp(1e-7, 1 - 1e-7)
    return F.binary_cross_entropy(p, y)


@plant("saturated", data.scores)
def clamps_the_softmax(x, y):
    return -x.softmax(1).clamp(min=1e-8).gather(1, y[:, None]).log().mean()


@plant("saturated", data.labels, severity="warning")
def clamps_given_probabilities(p, y):
    p = p.clamp(1e-7, 1 - 1e-7)
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


@plant("nan-hidden", data.numbers)
def replaces_nan(x, y):
    return torch.nan_to_num(x - y).square().mean()


@plant("nan-hidden", data.signed, severity="warning")
def keeps_positive_terms(x, y):
    cost = 1 - x * y
    return torch.where(cost > 0, cost, 0.0).mean()


# -- the batch -------------------------------------------------------------------------------------------------------------------------


@plant("batch-size", data.numbers, severity="warning")
def divides_by_a_fixed_number(x, y):
    return (x - y).square().sum() / 32


@plant("batch-size", data.numbers, reduction="mean")
def sum_where_a_mean_was_meant(x, y):
    return (x - y).square().sum()


@plant("batch-size", data.scores)
def divides_twice(x, y):
    return F.cross_entropy(x, y) / len(x)


@plant("batch-size", data.numbers)
def divides_by_one_less(x, y):
    return (x - y).square().sum() / max(len(x) - 1, 1)


@plant("order", data.numbers)
def weighs_by_position(x, y):
    return ((x - y).square() * torch.linspace(0.5, 1.5, len(x), dtype=x.dtype)).mean()


@plant("order", data.numbers)
def adds_a_smoothness_over_the_batch(x, y):
    return F.mse_loss(x, y) + 0.1 * (x[1:] - x[:-1]).abs().mean()


@plant("empty-batch", data.numbers, severity="note")
def mean_of_nothing(x, y):
    return (x - y).abs().mean()


@plant("empty-batch", data.numbers, severity="warning")
def maximum_of_nothing(x, y):
    return (x - y).abs().max() if len(x) != 1 else (x - y).abs().sum()


@plant("all-ignored", data.scores, severity="warning")
def mean_over_no_label(x, y):
    kept = y != -100
    return F.cross_entropy(x[kept], y[kept])


# -- what it depends on ----------------------------------------------------------------------------------------------------------------


@plant("ignores-target", data.numbers)
def compares_with_itself(x, y):
    return (x - x.mean()).square().mean()


@plant("ignores-input", data.numbers)
def constant(x, y):
    return (y.square().mean() + 0 * x.sum()).clone()


@plant("ignores-part", data.scores)
def first_example_only(x, y):
    return F.cross_entropy(x[:1], y[:1])


@plant("ignores-part", data.numbers)
def leaves_the_last_example_out(x, y):
    return (x[:-1] - y[:-1]).abs().sum() / len(x)


@plant("ignores-part", data.rows, severity="warning")
def first_output_only(x, y):
    return F.mse_loss(x[:, 0], y[:, 0])


# -- what a call leaves behind ---------------------------------------------------------------------------------------------------------


@plant("random", data.numbers)
def drops_out(x, y):
    return F.dropout((x - y).square(), 0.3, training=True).mean()


@plant("random", data.numbers)
def python_noise(x, y):
    return F.mse_loss(x, y) * (1 + 0.1 * random.random())


class RunningScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def forward(self, x, y):
        error = (x - y).abs().mean()
        self.mean.mul_(0.9).add_(0.1 * error.detach())
        return error / self.mean


plant("stateful", data.numbers, severity="warning")(RunningScale())


@plant("global-state", data.numbers)
def switches_gradients_on(x, y):
    torch.set_grad_enabled(False)
    weight = (x - y).abs()
    torch.set_grad_enabled(True)
    return (weight * (x - y).abs()).mean()


@plant("global-state", data.numbers)
def switches_gradients_off_for_good(x, y):
    value = F.mse_loss(x, y)
    torch.set_grad_enabled(False)
    return value


@plant("global-state", data.numbers)
def seeds_everything(x, y):
    torch.manual_seed(0)
    return ((x - y) * (1 + 0.01 * torch.randn_like(x))).square().mean()


@plant("global-state", data.numbers)
def changes_the_default_dtype(x, y):
    torch.set_default_dtype(torch.float64)
    return F.mse_loss(x, y)


# -- types -----------------------------------------------------------------------------------------------------------------------------


@plant("not-a-tensor", data.numbers)
def returns_a_float(x, y):
    return float((x - y).square().mean())


@plant("not-a-tensor", data.numbers)
def returns_nothing(x, y):
    F.mse_loss(x, y)


@plant("raises", data.numbers)
def wants_classes(x, y):
    return F.nll_loss(x, y)


@plant("not-finite", data.numbers)
def log_of_anything(x, y):
    return (x - y).log().mean()


WEIGHT = np.array([1.0, 2.0, 0.5, 1.0, 3.0])


@plant("dtype", data.scores, severity="warning")
def weights_from_numpy(x, y):
    cost = F.cross_entropy(x, y, reduction="none")
    return (cost * torch.as_tensor(WEIGHT)[y]).mean()


@plant("dtype", data.numbers, severity="warning")
def always_single(x, y):
    return F.mse_loss(x.float(), y.float())


@plant("half-precision", data.numbers, severity="warning")
def squares_in_the_inputs_type(x, y):
    return (x - y).square().mean()


@plant("half-precision", data.signed, severity="warning")
def exponentiates_in_the_inputs_type(x, y):
    return torch.log1p(torch.exp(-(x * y).clamp(min=-60))).mean()


@plant("label-cast", data.scores)
def labels_in_the_inputs_type(x, y):
    return F.cross_entropy(x, y.to(x.dtype).long())


@plant("label-cast", data.numbers)
def targets_in_half(x, y):
    return F.mse_loss(x, y.half().to(x.dtype))


@plant("label-cast", data.numbers)
def targets_rounded(x, y):
    return (x - y.round()).abs().mean()


@plant("precision", data.logits, severity="warning")
def logits_in_half(x, y):
    return F.binary_cross_entropy_with_logits(x.half().to(x.dtype), y)


@plant("precision", data.numbers, severity="warning")
def expands_the_square(x, y):
    shift = 3e3
    return ((x + shift).square() - 2 * (x + shift) * (y + shift) + (y + shift).square()).mean()


@plant("silent-broadcast", data.numbers, severity="note")
def plain_square(x, y):
    return (x - y).square().mean()


@plant("no-transforms", data.numbers, severity="note")
def asks_for_a_value(x, y):
    error = (x - y).abs()
    return error.mean() if error.max().item() < 100 else error.clamp(max=100).mean()


@plant("device", data.scores, severity="warning")
def makes_its_weights_on_the_cpu(x, y):
    return (F.cross_entropy(x, y, reduction="none") * torch.linspace(0.5, 2, 5, dtype=x.dtype).index_select(0, y)).mean()


# -- told by the user ------------------------------------------------------------------------------------------------------------------


@plant("value-wrong", data.numbers, reference=lambda x, y: (x - y).square().mean())
def half_of_the_reference(x, y):
    return (x - y).square().mean() / 2


@plant("not-least", data.logits, perfect=(data.logits()[1] * 2 - 1) * 5)
def least_at_zero(x, y):
    return (F.softplus(-x * (2 * y - 1)) + x.square()).mean()
