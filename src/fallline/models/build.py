"""A model from a short text: "linear", "mlp:256,128", "cnn", or "file.py:make_model"."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from torch import nn

from fallline._core.errors import FalllineError, nearest
from fallline._core.number import Number
from fallline.models.cnn import cnn
from fallline.models.initial import initialise, refuse_zeros, seeded
from fallline.models.linear import linear
from fallline.models.mlp import mlp
from fallline.models.user_file import from_file

MODELS = {
    "linear": "one linear layer",
    "mlp:256,128": "layers of ReLU units, of the widths given",
    "cnn": "a small convolutional network, for pictures",
    "file.py:make_model": "a function of yours that returns a torch.nn.Module",
}
DROPOUT = Number("dropout", 0, 1, open_high=True, usual="0.2", doc="share of hidden units that are left out at random in each step")
_WIDTHS = (128,)


def build(spec: str, input_shape: Sequence[int], outputs: int, *, dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """A network from rows of `input_shape` to (rows, outputs), its weights drawn by `seed`.

    torch's own random state is left as it was.

    Args:
        spec: "linear", "mlp:256,128" (widths of the hidden layers; "mlp" is "mlp:128"), "cnn", or "file.py:make_model". The function is
            called with input_shape, outputs, dropout and seed, as far as its signature takes them.
        input_shape: shape of one row: (features,) or (channels, height, width).
        outputs: width of the last layer.
        dropout: share of hidden units left out in training, 0 to 1; "linear" has no hidden units.
        seed: of the weights.

    Raises:
        FalllineError: an unknown model, an input that does not fit it, or a file that cannot be used (says why).

    >>> import torch
    >>> build("mlp:16", (1, 8, 8), 10)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    shape = tuple(int(n) for n in input_shape)
    dropout = DROPOUT.check(dropout, where="the model")
    if outputs < 1:
        raise FalllineError(f"`outputs >= 1` must hold for the model, but got {outputs}.")
    name, _, rest = spec.strip().partition(":")
    if spec.rpartition(":")[0].endswith(".py"):
        with seeded(seed):
            model = from_file(spec, input_shape=shape, outputs=outputs, dropout=dropout, seed=seed)
        refuse_zeros(model, f"the model of '{spec}'")
        return model
    with seeded(seed):
        if name == "mlp":
            return initialise(mlp(shape, outputs, _widths(spec, rest), dropout=dropout), seed=seed)
        if name == "linear" and not rest:
            return initialise(linear(shape, outputs), seed=seed)
        if name == "cnn" and not rest:
            return initialise(cnn(shape, outputs, dropout=dropout), seed=seed)
    if name in ("linear", "cnn"):
        raise FalllineError(f"model '{name}' takes no options, but got '{spec}'.")
    _unknown(spec, name)


def _widths(spec: str, rest: str) -> tuple[int, ...]:
    if not rest and not spec.strip().endswith(":"):
        return _WIDTHS
    parts = [part.strip() for part in rest.split(",")]
    if not all(re.fullmatch(r"\d+", part) and int(part) > 0 for part in parts):
        raise FalllineError(f"the widths of an mlp must be whole numbers from 1 on, as in 'mlp:256,128', but got '{spec}'.")
    return tuple(int(part) for part in parts)


def _unknown(spec: str, name: str) -> NoReturn:
    if spec.endswith(".py"):
        raise FalllineError(f"which function of '{spec}' makes the model? Give '{spec}:make_model'.")
    close = nearest(Path(name).name, ["linear", "mlp", "cnn"])
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    raise FalllineError(f"there is no model {spec!r}; {hint}Known: {', '.join(MODELS)}.")
