"""Planted defects of the gradient, as people write them: cut, wrong, blind to a jump, or too weak where the prediction is wrong."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tests.prove import data
from tests.prove.planting import plant

# -- the graph -------------------------------------------------------------------------------------------------------------------------


@plant("detached", data.numbers)
def detaches_the_error(x, y):
    return (x - y).detach().square().mean()


@plant("detached", data.numbers)
def uses_data(x, y):
    return F.mse_loss(x.data, y)


@plant("detached", data.scores)
def forgot_no_grad(x, y):
    with torch.no_grad():
        return F.cross_entropy(x, y)


@plant("detached", data.numbers)
def rebuilds_from_item(x, y):
    return torch.tensor(F.l1_loss(x, y).item(), requires_grad=True)


@plant("numpy-in-graph", data.numbers)
def numpy_of_the_tensor(x, y):
    return torch.as_tensor(np.mean((x.numpy() - y.numpy()) ** 2))


@plant("numpy-in-graph", data.numbers)
def numpy_after_detach(x, y):
    error = x.detach().cpu().numpy() - y.cpu().numpy()
    return torch.from_numpy(np.asarray(np.log(np.cosh(error)).mean()))


@plant("gradient-wrong", data.numbers)
def weight_by_the_error_detached(x, y):
    error = x - y
    return (error.detach().abs() * error.abs()).mean()


class _HalfSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return (x - y).square().mean()

    @staticmethod
    def backward(ctx, upstream):
        x, y = ctx.saved_tensors
        return upstream * (x - y) / x.numel(), None  # the 2 is missing


@plant("gradient-wrong", data.numbers)
def function_with_a_wrong_backward(x, y):
    return _HalfSlope.apply(x, y)


class _SquareByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.slope = 2 * (x.detach() - y) / x.numel()
        return (x - y).square().mean()

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.slope, None  # a constant: its derivative is silently 0


@plant("second-derivative-wrong", data.numbers)
def function_with_a_constant_backward(x, y):
    return _SquareByHand.apply(x, y)


class _QuarticByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return (x - y).pow(4).mean()

    @staticmethod
    def backward(ctx, upstream):
        x, y = ctx.saved_tensors
        return upstream * 4 * (x - y) * (x - y).detach().square() / x.numel(), None  # right, but half detached


@plant("second-derivative-wrong", data.numbers)
def function_with_a_half_detached_backward(x, y):
    return _QuarticByHand.apply(x, y)


@plant("second-derivative-missing", data.scores, severity="note")
def torchs_margin(x, y):
    return F.multi_margin_loss(x, y)


@plant("second-derivative-wrong", data.numbers)  # torch's mark raises only where the upstream gradient itself has a graph
def function_once_differentiable(x, y):
    return _Once.apply(x, y)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return (x - y).square().mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        x, y = ctx.saved_tensors
        return upstream * 2 * (x - y) / x.numel(), None


@plant("step", data.scores)
def one_minus_accuracy(x, y):
    return (x.argmax(1) != y).float().mean()


@plant("step", data.logits)
def rounds_the_probability(x, y):
    return (x.sigmoid().round() - y).abs().mean()


class _ForgetsUpstream(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return (x - y).square().mean()

    @staticmethod
    def backward(ctx, upstream):
        x, y = ctx.saved_tensors
        return 2 * (x - y) / x.numel(), None  # without `upstream`


@plant("gradient-wrong", data.numbers)
def function_that_forgets_the_upstream_gradient(x, y):
    return _ForgetsUpstream.apply(x, y)


class _SpoilsWhatItSaved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.error = (x - y).detach()
        return ctx.error.square().mean()

    @staticmethod
    def backward(ctx, upstream):
        ctx.error.mul_(2 / max(ctx.error.numel(), 1))  # in place
        return ctx.error * upstream, None


@plant("gradient-wrong", data.numbers)
def function_whose_second_backward_differs(x, y):
    return _SpoilsWhatItSaved.apply(x, y)


class _WrongByTheTarget(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return (x - y).square().mean()

    @staticmethod
    def backward(ctx, upstream):
        x, y = ctx.saved_tensors
        slope = upstream * 2 * (x - y) / x.numel()
        return slope, slope  # the second has the other sign


@plant("gradient-wrong", data.numbers, severity="warning")
def function_with_a_wrong_gradient_by_the_target(x, y):
    return _WrongByTheTarget.apply(x, y)


class HalfLearned(nn.Module):
    def __init__(self):
        super().__init__()
        self.width = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, y):
        return F.mse_loss(x, y) * torch.exp(-self.width.detach()) + self.width


plant("gradient-wrong", data.numbers)(HalfLearned())


class NeverLearned(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, y):
        return F.l1_loss(x * self.factor.detach(), y)


plant("gradient-wrong", data.numbers, severity="warning")(NeverLearned())


# -- jumps -----------------------------------------------------------------------------------------------------------------------------


@plant("jump", data.numbers)
def huber_whose_pieces_do_not_meet(x, y):
    error = (x - y).abs()
    return torch.where(error < 0.7, 0.5 * error * error, 0.7 * error).mean()


@plant("jump", data.numbers)
def huber_of_one_whose_pieces_do_not_meet(x, y):
    error = (x - y).abs()
    return torch.where(error < 1, 0.5 * error * error, error).mean()


@plant("jump", data.numbers)
def line_high_above_its_parabola(x, y):
    error = (x - y).abs()
    return torch.where(error < 0.7, 0.5 * error * error, error + 5).mean()


@plant("jump", data.scores)
def leaves_right_answers_out(x, y):
    return (F.cross_entropy(x, y, reduction="none") * (x.argmax(1) != y)).mean()


@plant("jump", data.labels)
def counts_sure_ones_twice(p, y):
    return (F.binary_cross_entropy(p, y, reduction="none") * torch.where((p - y).abs() > 0.5, 2.0, 1.0)).mean()


@plant("jump", data.embeddings, severity="note")  # between examples: so by its nature
def semi_hard_negatives(x, y):
    apart = (x[:, None] - x[None]).square().sum(-1)
    same = y[:, None] == y[None]
    pairs = same[:, :, None] & ~same[:, None, :]
    violation = 0.5 + apart[:, :, None] - apart[:, None, :]
    kept = pairs & (violation > 0) & (violation < 0.5)
    return torch.where(kept, violation, 0.0).sum() / max(len(x), 1)


# -- how hard it pulls -----------------------------------------------------------------------------------------------------------------


@plant("saturates", data.scores, severity="warning")
def nll_of_a_softmax(x, y):
    return F.nll_loss(x.softmax(1), y)


@plant("saturates", data.logits, severity="warning")
def square_of_a_sigmoid(x, y):
    return (x.sigmoid() - y).square().mean()


@plant("saturates", data.scores, severity="warning")
def softmax_twice(x, y):
    return F.cross_entropy(x.softmax(1), y)


@plant("saturates", data.logits, severity="warning")
def sigmoid_twice(x, y):
    return F.binary_cross_entropy_with_logits(x.sigmoid(), y)


@plant("saturates", data.scores, severity="warning")
def logits_clamped(x, y):
    return F.cross_entropy(x.clamp(-10, 10), y)


@plant("saturates", data.scores, severity="warning")
def constant_in_the_log(x, y):
    return -(x.softmax(1).gather(1, y[:, None]) + 1e-3).log().mean()


@plant("saturates", data.soft, severity="warning")
def divergence_of_probabilities(x, y):
    return F.kl_div(x.softmax(1), y, reduction="batchmean")


@plant("saturates", data.numbers, severity="note")
def error_clipped(x, y):
    return (x - y).abs().clamp(max=1).mean()


@plant("log-missing", data.scores)
def nll_of_a_softmax_again(x, y):
    return F.nll_loss(x.softmax(1), y)


@plant("log-missing", data.class_probabilities)
def nll_of_probabilities(p, y):
    return F.nll_loss(p, y)


@plant("unbounded", data.scores)
def nll_of_scores(x, y):
    return F.nll_loss(x, y)


@plant("unbounded", data.scores)
def smoothing_with_the_wrong_sign(x, y):
    log_p = x.log_softmax(1)
    return (-0.1 * log_p.gather(1, y[:, None]).squeeze(1) + 0.9 * log_p.mean(1)).mean()


@plant("unbounded", data.numbers, severity="warning")
def error_without_abs(x, y):
    return (x - y).mean()


@plant("one-sided", data.numbers, severity="warning")
def square_of_a_relu(x, y):
    return F.relu(x - y).square().mean()
