"""No false alarm: every loss of fallline and every right one of torch passes, whatever the seed of the data and of the points."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fallline as fl
from fallline.losses import LOSSES, build
from tests.every.examples import example
from tests.prove import data

BY_DEFINITION = {  # what a loss is meant to do, its page says so
    "arc_face": {"jump"},  # the authors' code goes on with another line beyond pi - m
    "asymmetric": {"saturates"},  # the margin forgives negatives that are surely wrong: mislabelled, says its paper
    "dice": {"saturates"},  # of probabilities
    "generalized_cross_entropy": {"saturates"},  # forgives wrong labels
    "tversky": {"saturates"},  # of probabilities
}


def _findings(report, name):
    found = {finding.name for finding in report.findings} - {"no-transforms"}
    assert found <= BY_DEFINITION.get(name, set()), report.text
    assert report.ok, report.text


@pytest.mark.parametrize("name", LOSSES)
def test_ours_have_no_finding_but_what_they_are_meant_to_do(name):
    _findings(fl.check_loss(build(name), *example(name, dtype=torch.float32)), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_ours_pass_with_other_reductions(name, reduction):
    _findings(fl.check_loss(build(name, reduction=reduction), *example(name, dtype=torch.float64, seed=5), seed=3), name)


WITH_OPTIONS = [
    ("binary_cross_entropy", {"input_from": "probabilities"}, data.labels),
    ("cross_entropy", {"ignore_index": -100}, lambda: ignored),
    ("cross_entropy", {"class_weight": (1.0, 2.0, 3.0, 1.0, 5.0), "label_smoothing": 0.1}, data.scores),
    ("kl_divergence", {"input_from": "probabilities"}, lambda: (data.soft()[0].softmax(1), data.soft()[1])),
    ("kl_divergence", {"input_from": "log_probabilities"}, data.log_soft),
]


@pytest.mark.parametrize(("name", "options", "batch"), WITH_OPTIONS)
def test_ours_with_options(name, options, batch):
    report = fl.check_loss(build(name, **options), *batch())
    assert not report.findings, report.text


ignored = data.scores()[0], torch.where(torch.arange(data.N) % 4 == 0, -100, data.scores()[1])
weights = torch.tensor([1.0, 2.0, 3.0, 1.0, 5.0])
EMPTY = "empty-batch"  # the mean over nothing is NaN
SHAPES = "silent-broadcast"
TORCH = {  # loss, batch, and what torch is known to do
    "mse": (F.mse_loss, data.numbers(), {EMPTY, SHAPES, "half-precision"}),
    "mse_rows": (nn.MSELoss(), data.rows(), {EMPTY, "half-precision"}),
    "mse_sum": (nn.MSELoss(reduction="sum"), data.numbers(), {SHAPES, "half-precision"}),
    "mse_none": (partial(F.mse_loss, reduction="none"), data.numbers(), {SHAPES, "half-precision"}),
    "l1": (F.l1_loss, data.numbers(), {EMPTY, SHAPES}),
    "smooth_l1": (F.smooth_l1_loss, data.numbers(), {EMPTY, SHAPES}),
    "huber": (nn.HuberLoss(delta=0.7), data.numbers(), {EMPTY, SHAPES}),
    "cross_entropy": (F.cross_entropy, data.scores(), {EMPTY, "all-ignored"}),
    "cross_entropy_soft": (F.cross_entropy, data.soft(), {EMPTY}),
    "cross_entropy_smooth": (nn.CrossEntropyLoss(label_smoothing=0.1), data.scores(), {EMPTY, "all-ignored"}),
    "cross_entropy_weights": (nn.CrossEntropyLoss(weight=weights), data.scores(), {EMPTY, "all-ignored"}),
    "cross_entropy_partial": (partial(F.cross_entropy, weight=weights), data.scores(), {EMPTY, "all-ignored"}),
    "cross_entropy_ignored": (F.cross_entropy, ignored, {EMPTY, "all-ignored"}),
    "cross_entropy_pictures": (F.cross_entropy, data.pictures(), {EMPTY, "all-ignored"}),
    "nll": (F.nll_loss, data.class_log_probabilities(), {EMPTY, "all-ignored"}),
    "kl_div": (partial(F.kl_div, reduction="batchmean"), data.log_soft(), {EMPTY}),
    "bce": (F.binary_cross_entropy, data.labels(), {EMPTY}),
    "bce_logits": (F.binary_cross_entropy_with_logits, data.logits(), {EMPTY}),
    "bce_pos_weight": (partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor(3.0)), data.logits(), {EMPTY}),
    "poisson": (F.poisson_nll_loss, data.counts(), {EMPTY, SHAPES, "half-precision"}),
    "gaussian": (
        lambda x, y: F.gaussian_nll_loss(x[:, 0], y, F.softplus(x[:, 1]) + 1e-3),
        data.means_and_spreads(),
        {EMPTY, "no-transforms", "half-precision"},
    ),
    "hinge_embedding": (F.hinge_embedding_loss, data.distances(), {EMPTY, SHAPES}),
    "hinge_embedding_scores": (F.hinge_embedding_loss, data.signed(), {EMPTY, SHAPES}),
    "soft_margin": (F.soft_margin_loss, data.signed(), {EMPTY, "large-input", "half-precision"}),
    "multilabel_soft_margin": (F.multilabel_soft_margin_loss, data.many_labels(), {EMPTY}),
    "multi_margin": (F.multi_margin_loss, data.scores(), {"nan-hidden", "second-derivative-missing"}),
    "margin_ranking": (lambda x, y: F.margin_ranking_loss(x[:, 0], x[:, 1], y, margin=0.3), data.two_scores(), {EMPTY}),
    "cosine_embedding": (lambda x, y: F.cosine_embedding_loss(x[:, 0], x[:, 1], y), data.couples(), {EMPTY, "half-precision"}),
    "triplet": (lambda x, _: F.triplet_margin_loss(x[:, 0], x[:, 1], x[:, 2]), data.triplets(), {EMPTY, "half-precision"}),
}


@pytest.mark.parametrize("name", TORCH)
def test_torchs_right_losses_have_no_error_and_only_their_known_findings(name):
    fn, (x, y), known = TORCH[name]
    report = fl.check_loss(fn, x, y)
    assert report.ok, report.text
    assert {finding.name for finding in report.findings} <= known, report.text


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCH)
def test_no_error_at_another_seed_and_in_double(name):
    fn, (x, y), _ = TORCH[name]
    if name.startswith("cross_entropy_") and name.endswith(("weights", "partial")):
        x = x * 1.0  # the weights are float32
    else:
        x, y = x.double(), y.double() if y is not None and y.is_floating_point() else y
    assert fl.check_loss(fn, x, y, seed=17).ok


WARNED = {
    "mse": "half-precision",
    "soft_margin": "large-input",
    "cross_entropy": "all-ignored",
    "l1": "empty-batch",
    "multi_margin": "nan-hidden",
}


@pytest.mark.parametrize("name", WARNED)
def test_what_torch_gets_wrong_is_said(name):
    fn, (x, y), _ = TORCH[name]
    assert WARNED[name] in fl.check_loss(fn, x, y)


def rmse(x, y):
    return (x - y).square().mean().clamp(min=1e-12).sqrt()


def pearson(x, y):
    a, b = x - x.mean(), y - y.mean()
    return 1 - (a * b).sum() / (a.square().sum() * b.square().sum()).clamp(min=1e-12).sqrt()


def contrastive_pairs(x, y):
    logits = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / 0.1
    return F.cross_entropy(logits, torch.arange(len(x), device=x.device)) if len(x) else logits.sum()


def brier(x, y):
    return (x.softmax(1) - F.one_hot(y, x.shape[1])).square().sum(1).mean()


def hardest_half(x, y):
    cost = F.cross_entropy(x, y, reduction="none")
    return cost.topk(max(len(cost) // 2, min(len(cost), 1))).values.mean()


def tukey(x, y, c=4.685):
    error = ((x - y) / c).clamp(-1, 1)
    return (1 - (1 - error.square()) ** 3).mean()


def dice(x, y):
    p = x.sigmoid()
    return 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)


def batch_hard(x, y):
    distance = torch.linalg.vector_norm(x[:, None] - x[None], dim=-1)
    same = y[:, None] == y[None]
    furthest = torch.where(same, distance, -torch.inf).amax(1)
    nearest = torch.where(same, torch.inf, distance).amin(1)
    return torch.where(nearest.isinf(), 0.0, (furthest - nearest + 0.2).clamp(min=0)).mean()


def triplets_with_all(x, y):
    apart = (x[:, None] - x[None]).square().sum(-1)
    same, self_ = y[:, None] == y[None], torch.eye(len(y), dtype=torch.bool)
    counted = (same & ~self_)[:, :, None] & ~same[:, None, :]
    cost = (0.3 + apart[:, :, None] - apart[:, None, :]).clamp(min=0) * counted
    return cost.sum() / counted.sum().clamp(min=1)


def pinball(x, y):
    return torch.maximum(0.9 * (y - x), 0.1 * (x - y)).mean()


def wing(x, y):
    error = (x - y).abs()
    return torch.where(error < 1, 2 * torch.log1p(error / 2), error - 1 + 2 * math.log(1.5)).mean()


def epsilon_insensitive(x, y):
    return ((x - y).abs() - 0.3).clamp(min=0).mean()


def hinge(x, y):
    return (1 - x * y).clamp(min=0).mean()


def all_margins(x, y):
    margin = (1 + x - x.gather(1, y[:, None])).clamp(min=0)
    return margin.scatter(1, y[:, None], 0.0).sum(1).mean()


def against_class_vectors(x, y):
    return F.cross_entropy(x @ torch.linspace(-1, 1, 5 * 5, dtype=x.dtype).view(5, 5).sin().T * 3, y)


def masked_by_zeros(x, y):
    return ((x - y).abs() * (y != 0)).sum() / (y != 0).sum().clamp(min=1)


def earth_mover(x, y):
    return (x.softmax(1).cumsum(1) - F.one_hot(y, x.shape[1]).cumsum(1)).square().mean()


def gradient_penalty(x, y):
    cost = F.mse_loss(x, y, reduction="sum")
    (slope,) = torch.autograd.grad(cost, x, create_graph=True)
    return (cost + slope.square().sum()) / max(len(x), 1)


def between_sets(x, y):
    def kernel(a, b):
        return torch.exp(-(a[:, None] - b).square().sum(-1) / 2).mean()

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


def survival(x, y):
    risk = x[y.argsort(descending=True)]
    return (torch.logcumsumexp(risk, 0) - risk).mean() if len(x) else x.sum()


def pairs_in_order(x, y):
    above = (y[:, None] > y).to(x.dtype)
    return (above * F.softplus(x - x[:, None])).sum() / above.sum().clamp(min=1)


def absolute_error_of_probabilities(x, y):
    return (x.softmax(1) - F.one_hot(y, x.shape[1])).abs().sum(1).mean()


def deviance(x, y):
    return (y / x - torch.log(y / x) - 1).mean()


class LogsInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x, y):
        cost = F.l1_loss(x, y)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * cost.detach())
        return cost


class LearnedTemperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x, y):
        return F.cross_entropy(x * self.log_scale.exp(), y)


def positive():
    x, y = data.numbers()
    return x.exp(), y.exp()


OTHERS = [
    (rmse, data.numbers),
    (pearson, data.numbers),
    (contrastive_pairs, data.rows),
    (brier, data.scores),
    (hardest_half, data.scores),
    (tukey, data.numbers),
    (dice, data.logits),
    (batch_hard, data.embeddings),
    (triplets_with_all, data.embeddings),
    (pinball, data.numbers),
    (wing, data.numbers),
    (epsilon_insensitive, data.numbers),
    (hinge, data.signed),
    (all_margins, data.scores),
    (against_class_vectors, data.scores),
    (masked_by_zeros, data.rows),
    (earth_mover, data.scores),
    (gradient_penalty, data.numbers),
    (absolute_error_of_probabilities, data.scores),
    (deviance, positive),
    (LogsInTraining(), data.numbers),
    (LearnedTemperature(), data.scores),
]
QUIET = {"empty-batch", "silent-broadcast", "between-examples", "no-transforms", "half-precision", "all-ignored", "device"}
KNOWN = {
    "brier": {"saturates"},
    "dice": {"saturates"},
    "earth_mover": {"saturates"},
    "absolute_error_of_probabilities": {"saturates"},
    "tukey": {"saturates"},
    "deviance": {"nan-at-edge"},
    "rmse": {"second-derivative-missing"},
}


@pytest.mark.parametrize(("fn", "batch"), OTHERS, ids=lambda thing: getattr(thing, "__name__", ""))
@pytest.mark.parametrize("seed", [0, 1])
def test_right_losses_of_other_people_have_no_error(fn, batch, seed):
    report = fl.check_loss(fn, *batch(), seed=seed)
    assert report.ok, report.text
    name = getattr(fn, "__name__", "")
    assert {finding.name for finding in report.findings if finding.severity != "note"} <= QUIET | KNOWN.get(name, set()), report.text


@pytest.mark.parametrize(("fn", "batch"), [(between_sets, data.rows), (survival, data.numbers), (pairs_in_order, data.numbers)])
def test_losses_between_examples_that_say_so_have_notes_only(fn, batch):
    report = fl.check_loss(fn, *batch(), separate=False)
    assert {finding.name for finding in report.findings if finding.severity != "note"} <= QUIET, report.text
