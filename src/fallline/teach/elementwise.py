"""The derivative of every element-wise activation of torch.nn, as a formula and as code.

    δ_z = δ_a · f′(z)

At a kink the value is torch's own choice (ReLU′(0) = 0), so that the trace can be compared with autograd everywhere.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Derivative = Callable[[Any, Tensor, Tensor], Tensor]


def _where(inside: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
    like = inside.to(torch.float64)
    return torch.where(inside, like * 0 + yes, like * 0 + no)


def _gelu(m: nn.GELU, z: Tensor, a: Tensor) -> Tensor:
    if m.approximate == "tanh":
        c = math.sqrt(2 / math.pi)
        t = torch.tanh(c * (z + 0.044715 * z**3))
        return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * 0.044715 * z * z)
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density


def _silu(m: nn.SiLU, z: Tensor, a: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _mish(m: nn.Mish, z: Tensor, a: Tensor) -> Tensor:
    t = torch.tanh(functional.softplus(z))
    return t + z * (1 - t * t) * torch.sigmoid(z)


_ALPHA, _SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

# kind -> (symbol of the derivative, its formula, the derivative of (module, z, a))
TABLE: dict[type[nn.Module], tuple[str, str, Derivative]] = {
    nn.Sigmoid: ("σ", "a(1 − a)", lambda m, z, a: a * (1 - a)),
    nn.Tanh: ("tanh", "1 − a²", lambda m, z, a: 1 - a * a),
    nn.ReLU: ("ReLU", "1 where z > 0, else 0", lambda m, z, a: _where(z > 0, 1.0, 0.0)),
    nn.LeakyReLU: ("LeakyReLU", "1 where z > 0, else the slope", lambda m, z, a: _where(z > 0, 1.0, m.negative_slope)),
    nn.RReLU: ("RReLU", "1 where z > 0, else the mean slope", lambda m, z, a: _where(z > 0, 1.0, (m.lower + m.upper) / 2)),
    nn.ReLU6: ("ReLU6", "1 where 0 < z < 6, else 0", lambda m, z, a: _where((z > 0) & (z < 6), 1.0, 0.0)),
    nn.ELU: ("ELU", "1 where z > 0, else α eᶻ", lambda m, z, a: _where(z > 0, 1.0, m.alpha * torch.exp(z.clamp(max=0)))),
    nn.SELU: (
        "SELU",
        "λ where z > 0, else λ α eᶻ",
        lambda m, z, a: _where(z > 0, _SCALE, _SCALE * _ALPHA * torch.exp(z.clamp(max=0))),
    ),
    nn.CELU: ("CELU", "1 where z > 0, else e^(z/α)", lambda m, z, a: _where(z > 0, 1.0, torch.exp(z.clamp(max=0) / m.alpha))),
    nn.GELU: ("GELU", "Φ(z) + z φ(z)", _gelu),
    nn.SiLU: ("SiLU", "σ(z) (1 + z (1 − σ(z)))", _silu),
    nn.Mish: ("Mish", "t + z (1 − t²) σ(z), t = tanh(softplus z)", _mish),
    nn.Softplus: (
        "softplus",
        "σ(β z)",
        lambda m, z, a: _where(z * m.beta > m.threshold, 1.0, torch.sigmoid(m.beta * z)),
    ),
    nn.Softsign: ("softsign", "1 / (1 + |z|)²", lambda m, z, a: 1 / (1 + z.abs()) ** 2),
    nn.Tanhshrink: ("tanhshrink", "tanh² z", lambda m, z, a: torch.tanh(z) ** 2),
    nn.Softshrink: ("softshrink", "1 where |z| > λ, else 0", lambda m, z, a: _where(z.abs() > m.lambd, 1.0, 0.0)),
    nn.Hardshrink: ("hardshrink", "1 where |z| > λ, else 0", lambda m, z, a: _where(z.abs() > m.lambd, 1.0, 0.0)),
    nn.Hardtanh: ("hardtanh", "1 inside the limits, else 0", lambda m, z, a: _where((z > m.min_val) & (z < m.max_val), 1.0, 0.0)),
    nn.Hardsigmoid: ("hardsigmoid", "1/6 where −3 < z < 3, else 0", lambda m, z, a: _where((z > -3) & (z < 3), 1 / 6, 0.0)),
    nn.Hardswish: (
        "hardswish",
        "0 below −3, 1 above 3, (2z + 3)/6 between",
        lambda m, z, a: _where(z <= -3, 0.0, _where(z < 3, (2 * z + 3) / 6, 1.0)),
    ),
    nn.LogSigmoid: ("logsigmoid", "1 − σ(z)", lambda m, z, a: torch.sigmoid(-z)),
    nn.Threshold: ("threshold", "1 where z > the threshold, else 0", lambda m, z, a: _where(z > m.threshold, 1.0, 0.0)),
}
