"""The activations that torch has: its value, and the derivative in closed form beside it.

One table, as each is one line; the derivatives are what `trace_backprop` and the plots show, and autograd agrees with every one (tested).
At a kink the slope is the one that torch's autograd takes.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fallline.activations._base import Activation

_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772


def _tanh_slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x).square()


def _sigmoid_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _softmax_jacobian(x: Tensor) -> Tensor:
    p = torch.softmax(x, dim=-1)
    return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)


def _softplus(x: Tensor) -> Tensor:
    # torch's own softplus turns into x itself above 20, which costs float64 its last digits: the logarithm of sigmoid has no such seam.
    return -F.logsigmoid(-x)


def _gelu_slope(x: Tensor) -> Tensor:
    inside = 0.5 * torch.erfc(-x / math.sqrt(2))
    return inside + x * torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _silu_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))


def _mish_slope(x: Tensor) -> Tensor:
    t = torch.tanh(_softplus(x))
    return t + x * torch.sigmoid(x) * (1 - t.square())


def _step(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _leak_slope(x: Tensor) -> Tensor:
    return torch.where(x > 0, torch.ones_like(x), 0.01)


SIGMOID = Activation(
    "sigmoid",
    torch.sigmoid,
    _sigmoid_slope,
    doc="""Squeezes any number into 0..1.

    σ(x) = 1 / (1 + exp(−x))          σ′ = σ (1 − σ)

When to use: the last layer of a two-class model, as a probability; gates.
When not: hidden layers of deep networks: its slope is at most 1/4, and nearly 0 beyond |x| = 5, so gradients vanish.
Source: Verhulst, 1845; Rumelhart, Hinton and Williams, Nature 323, 1986. https://doi.org/10.1038/323533a0
""",
)
TANH = Activation(
    "tanh",
    torch.tanh,
    _tanh_slope,
    doc="""Squeezes any number into -1..1, with mean about 0.

    tanh x = (exp(x) − exp(−x)) / (exp(x) + exp(−x))          tanh′ = 1 − tanh²

When to use: recurrent networks; outputs between -1 and 1.
When not: deep feed-forward networks: it saturates as sigmoid does.
Source: LeCun et al., "Efficient BackProp", 1998.
""",
)
SOFTMAX = Activation(
    "softmax",
    lambda x: torch.softmax(x, dim=-1),
    _softmax_jacobian,
    doc="""Turns scores into probabilities that sum to 1.

    p_c = exp(x_c) / Σ_j exp(x_j)          ∂p_c/∂x_k = p_c (1[c = k] − p_k)

When to use: reading a classifier's logits as probabilities; attention.
When not: before cross_entropy: that takes logits.
Source: Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs", 1990.
""",
    shape_note="mixes the last axis",
    elementwise=False,
)
SOFTPLUS = Activation(
    "softplus",
    _softplus,
    torch.sigmoid,
    doc="""A smooth ReLU; always positive.

    log(1 + exp(x))          slope σ(x)

When to use: an output that must be positive (a variance, a rate).
When not: hidden layers where speed matters: ReLU is cheaper and as good.
Source: Dugas et al., "Incorporating Second-Order Functional Knowledge for Better Option Pricing", NeurIPS 2000.
""",
)
RELU = Activation(
    "relu",
    torch.relu,
    _step,
    doc="""Passes what is positive, stops the rest.

    max(0, x)          slope 1 where x > 0, else 0

When to use: hidden layers, first choice.
When not: units die (zero on every example) at large learning rates: then leaky_relu or gelu.
Source: Nair and Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML 2010.
""",
    kinks=(0.0,),
)
LEAKY_RELU = Activation(
    "leaky_relu",
    F.leaky_relu,
    _leak_slope,
    doc="""ReLU that lets a hundredth of the negative side through.

    x where x > 0, else 0.01 x          slope 1, else 0.01

When to use: ReLU units die.
When not: sparse activity is wanted.
Source: Maas, Hannun and Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models", ICML 2013.
""",
    kinks=(0.0,),
)
RELU6 = Activation(
    "relu6",
    F.relu6,
    lambda x: ((x > 0) & (x < 6)).to(x.dtype),
    doc="""ReLU that stops growing at 6.

    min(max(0, x), 6)          slope 1 where 0 < x < 6, else 0

When to use: networks that will run in low precision.
When not: no such need: its upper side has no gradient.
Source: Krizhevsky, "Convolutional Deep Belief Networks on CIFAR-10", 2010.
""",
    kinks=(0.0, 6.0),
)
GELU = Activation(
    "gelu",
    F.gelu,
    _gelu_slope,
    doc="""x times the chance that a standard normal lies below it.

    x Φ(x)          slope Φ(x) + x φ(x)

When to use: transformers, and most networks of today.
When not: the cheapest unit is wanted: relu.
Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016. https://arxiv.org/abs/1606.08415
""",
)
SILU = Activation(
    "silu",
    F.silu,
    _silu_slope,
    doc="""x times its sigmoid (swish).

    x σ(x)          slope σ(x) (1 + x σ(−x))

When to use: convolutional networks of today; a smooth ReLU.
When not: the cheapest unit is wanted: relu.
Source: Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units", 2017. https://arxiv.org/abs/1702.03118
""",
)
ELU = Activation(
    "elu",
    F.elu,
    lambda x: torch.where(x > 0, 1.0, torch.exp(x.clamp(max=0))),
    doc="""ReLU whose negative side bends to -1.

    x where x > 0, else exp(x) − 1          slope 1, else exp(x)

When to use: mean activity near 0 without batch norm.
When not: speed matters: relu.
Source: Clevert, Unterthiner and Hochreiter, "Fast and Accurate Deep Network Learning by ELUs", ICLR 2016. https://arxiv.org/abs/1511.07289
""",
)
SELU = Activation(
    "selu",
    F.selu,
    lambda x: _SELU_SCALE * torch.where(x > 0, 1.0, _SELU_ALPHA * torch.exp(x.clamp(max=0))),
    doc="""ELU scaled so that mean 0 and variance 1 reproduce themselves.

    s x where x > 0, else s α (exp(x) − 1)          slope s, else s α exp(x)          s = 1.0507, α = 1.6733

When to use: deep plain networks without normalisation, with LeCun initialisation.
When not: networks with batch norm, skip connections or ordinary dropout.
Source: Klambauer et al., "Self-Normalizing Neural Networks", NeurIPS 2017. https://arxiv.org/abs/1706.02515
""",
    kinks=(0.0,),
)
MISH = Activation(
    "mish",
    F.mish,
    _mish_slope,
    doc="""x times tanh of its softplus.

    x tanh(softplus x)          slope t + x σ(x) (1 − t²), t = tanh(softplus x)

When to use: as silu; a little smoother.
When not: speed matters: it costs most of all here.
Source: Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", BMVC 2020. https://arxiv.org/abs/1908.08681
""",
)
