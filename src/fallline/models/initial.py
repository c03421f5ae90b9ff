"""Weights to start from: He for layers that feed a ReLU, Glorot for the rest, biases zero; all by a generator of their own.

    He:     W ~ U(−a, a),  a = √(6 / fan_in)                 keeps the size of activations through ReLU layers
    Glorot: W ~ U(−a, a),  a = √(6 / (fan_in + fan_out))     the same for layers without a ReLU

Source: He, Zhang, Ren & Sun, "Delving deep into rectifiers", ICCV 2015. https://arxiv.org/abs/1502.01852 ; Glorot & Bengio,
"Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010. https://proceedings.mlr.press/v9/glorot10a.html
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from fallline._core.errors import FalllineError
from fallline._core.seeds import stream


def initialise(model: nn.Sequential, *, seed: int) -> nn.Sequential:
    """Draw the weights of a built-in network anew, in place: the last weighted layer by Glorot, those before it by He."""
    generator = torch.Generator().manual_seed(stream(seed, "weights"))
    layers = [layer for layer in model if isinstance(layer, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for layer in layers:
            if layer is layers[-1]:
                nn.init.xavier_uniform_(layer.weight, generator=generator)
            else:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
    return model


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's own random numbers on the CPU are those of `seed`; outside, they are as if nothing had been drawn."""
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(stream(seed, "model"))
        yield
    finally:
        torch.set_rng_state(state)


def refuse_zeros(model: nn.Module, what: str = "the model") -> None:
    """Refuse a model whose weights are all zero: every unit of a layer would get the same gradient, and they would stay equal.

    Raises:
        FalllineError: it has weight matrices, and all are zero.
    """
    weights = [p for p in model.parameters() if p.dim() >= 2 and p.numel() and not isinstance(p, nn.UninitializedParameter)]
    if weights and not any(bool(p.detach().any()) for p in weights):
        raise FalllineError(
            f"all weights of {what} are zero, so its units could never become different; draw them at random (torch's default does)."
        )
