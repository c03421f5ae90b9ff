"""A network with several heads: a trunk that all tasks share, and a small layer for each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline._core.seeds import stream
from fallline.models.build import build

_WHERE = "MultiHead"


class MultiHead(nn.Module):
    """A trunk and named heads: from (rows, ...) to a mapping from head to output.

    A head of width 1 gives (rows,), as `mse` and `binary_cross_entropy` take it; one of width C > 1 gives (rows, C), as `cross_entropy`
    does.

    Args:
        trunk: what `build` takes ("cnn", "mlp:256,128", "linear", "file.py:make_model"), without its last layer; or a module that gives
            (rows, features).
        heads: name to width, or to a module of your own that takes the features; what it gives is passed on as it is.
        input_shape: shape of one row; needed for a trunk by name.
        features: how many numbers the trunk gives for a row; found where the trunk is built or `input_shape` is given. A file's function
            is asked for that many outputs.
        dropout: of a trunk by name.
        seed: of the weights; a head's weights depend on it and on the head's name alone.

    Attributes:
        trunk: the module that all heads share.

    Raises:
        FalllineError: no head, a width below 1, or a trunk whose features are not known.

    >>> model = MultiHead("cnn", {"class": 10, "brightness": 1}, input_shape=(1, 28, 28))
    >>> {name: tuple(y.shape) for name, y in model(torch.zeros(5, 1, 28, 28)).items()}
    {'class': (5, 10), 'brightness': (5,)}
    """

    def __init__(
        self,
        trunk: str | nn.Module,
        heads: Mapping[str, int | nn.Module],
        *,
        input_shape: Sequence[int] | None = None,
        features: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(heads)
        if isinstance(trunk, str):
            self.trunk, features = _built(trunk, input_shape, features, dropout, seed)
        else:
            self.trunk, features = trunk, _width(trunk, input_shape) if features is None else features
        self.features = features
        self.names = tuple(heads)
        for name, head in heads.items():
            self.add_module(f"head_{name}", head if isinstance(head, nn.Module) else _linear(features, head, stream(seed, "head", name)))
        self._flat = tuple(name for name, head in heads.items() if head == 1)

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Head to output, (rows,) for heads of width 1, else (rows, width)."""
        z = self.trunk(x)
        if z.ndim != 2 or z.shape[1] != self.features:
            refuse(f"the trunk gives (rows, {self.features})", tuple(z.shape), "end it with nn.Flatten()", where=_WHERE)
        found = {name: self.head(name)(z) for name in self.names}
        return {name: y.squeeze(-1) if name in self._flat else y for name, y in found.items()}

    def head(self, name: str) -> nn.Module:
        """The module of one head."""
        return self.get_submodule(f"head_{name}")

    @property
    def shared(self) -> list[nn.Parameter]:
        """The parameters of the last layer of the trunk that has any: what `gradnorm` compares the tasks by."""
        layers = [m for m in self.trunk.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
        must(bool(layers), "the trunk has parameters that learn", "none", "use 'mlp:128' or 'cnn'", where=_WHERE)
        return [p for p in layers[-1].parameters(recurse=False) if p.requires_grad]


def _check(heads: Any) -> None:
    if not isinstance(heads, Mapping) or not heads:
        got = "none" if isinstance(heads, Mapping) else type(heads).__name__
        refuse(
            "heads is a mapping from name to width, with one head at least,", got, '{"class": 10, "size": 1} is an example', where=_WHERE
        )
    for name, head in heads.items():
        if not isinstance(name, str) or not name or "." in name:
            refuse("the name of a head is text without a dot", repr(name), where=_WHERE)
        if isinstance(head, nn.Module):
            continue
        if isinstance(head, bool) or not isinstance(head, int) or head < 1:
            refuse(f"the width of head {name!r} is a whole number >= 1, or a module", repr(head), where=_WHERE)


def _built(spec: str, input_shape: Sequence[int] | None, features: int | None, dropout: float, seed: int) -> tuple[nn.Module, int]:
    if input_shape is None:
        refuse(f"input_shape is given for the trunk {spec!r}", None, "write input_shape=data.input_shape", where=_WHERE)
    if spec.rpartition(":")[0].endswith(".py"):
        must(features is not None, f"features is given for the trunk {spec!r}", None, "features=128 is an example", where=_WHERE)
        return build(spec, input_shape, int(features or 0), dropout=dropout, seed=seed), int(features or 0)
    whole = build(spec, input_shape, 1, dropout=dropout, seed=seed)
    assert isinstance(whole, nn.Sequential)
    last = whole[-1]
    assert isinstance(last, nn.Linear)
    if features not in (None, last.in_features):
        refuse(f"features = {last.in_features} for the trunk {spec!r}", features, "leave features out", where=_WHERE)
    return whole[:-1], last.in_features


def _width(trunk: nn.Module, input_shape: Sequence[int] | None) -> int:
    """The features of a module, by one row of zeros through it; its mode and torch's random state are left as they were."""
    if input_shape is None:
        refuse("features or input_shape is given for a trunk of your own", "neither", "features=128 is an example", where=_WHERE)
    modes = [(module, module.training) for module in trunk.modules()]
    parameter = next(trunk.parameters(), torch.zeros(()))
    trunk.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            z = trunk(torch.zeros(1, *input_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        for module, training in modes:
            module.training = training
    must(z.ndim == 2, "the trunk gives (rows, features)", tuple(z.shape), "end it with nn.Flatten()", where=_WHERE)
    return int(z.shape[1])


def _linear(features: int, width: int, seed: int) -> nn.Linear:
    """A linear layer, its weights by Glorot and of a generator of its own, its bias zero."""
    layer = nn.Linear(features, width, device="meta").to_empty(device="cpu")  # so that torch's random state is left alone
    bound = math.sqrt(6 / (features + width))
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
        layer.bias.zero_()
    return layer
