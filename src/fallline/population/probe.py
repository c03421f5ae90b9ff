"""What a model does when it is run, found by running it: its dropout, the weights it needs, and what stands in the way of many at once.

Nothing of the model is changed by it, and no random number is drawn for good.
"""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fallline.population.attributes import differing
from fallline.population.noise import Call, Dropouts, Unstackable, first_line
from fallline.training.dense import HOOKS

_ROUNDED = {
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
    F.batch_norm,
    F.instance_norm,
    F.group_norm,
    F.multi_head_attention_forward,
    F.scaled_dot_product_attention,
}
"""Where rounding decides: many convolutions at once round in another way, and a bias before a norm, or of keys, has a gradient of 0."""


@dataclass
class Found:
    """What running a model on one mini-batch showed.

    Attributes:
        calls: of dropout, in their order.
        used: names of the parameters that the output needs.
        exact: whether only the very same bits are near enough; see `parts`.
        widest: numbers for one row in the largest tensor that its functions gave.
    """

    calls: list[Call]
    used: set[str]
    exact: bool
    widest: int


def probe(model: nn.Module, x: Tensor) -> Found:
    """Run a copy of the model on one member's mini-batch x (N, ...), forward and backward, and once in evaluation mode.

    Raises:
        Unstackable: the model draws random numbers in its own way, keeps something of its own from call to call, or gives no tensor.
    """
    given, model = model, copy.deepcopy(model).train()
    calls: list[Call] = []
    functions: set[Any] = set()
    with undisturbed(x.device), _still(x.device):
        try:
            with torch.enable_grad(), _Watching(calls, functions) as watching:
                raw = model(x)
            if not isinstance(raw, Tensor):
                raise Unstackable(f"the model returns a {type(raw).__name__}, not a tensor")
            learnt = {n: p for n, p in model.named_parameters() if p.requires_grad}
            grads = torch.autograd.grad(raw.sum(), list(learnt.values()), allow_unused=True) if raw.requires_grad else [None] * len(learnt)
            with torch.no_grad():
                model.eval()(x)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError) as error:
            raise Unstackable(f"the model cannot be run on a mini-batch ({first_line(error)})") from error
    name = differing(given, model)
    if name is not None:
        raise Unstackable(f"its forward keeps something of its own from call to call ('{name}')")
    used = {n for n, g in zip(learnt, grads, strict=True) if g is not None}
    return Found(calls, used, bool(functions & _ROUNDED), -(-watching.most // max(1, len(x))))


class _Watching(Dropouts):
    """Drops nothing; notes the calls of dropout, and which functions are called."""

    def __init__(self, calls: list[Call], functions: set[Any]) -> None:
        super().__init__(lambda x, p, maps: calls.append(Call.of(x, p, maps)))
        self.functions, self.most = functions, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.add(func)
        out = super().__torch_function__(func, types, args, kwargs)
        if isinstance(out, Tensor):
            self.most = max(self.most, out.numel())
        return out


def refuse_hooks(model: nn.Module) -> None:
    """Refuse hooks of modules and of parameters, which would see members that they were not made for."""
    if torch.nn.modules.module._has_any_global_hook():
        raise Unstackable("hooks are set for every module, which would see all members")
    for module in model.modules():
        if any(getattr(module, name) for name in HOOKS):
            raise Unstackable(f"{type(module).__name__} has hooks, which would see all members")
    for name, p in model.named_parameters():
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            raise Unstackable(f"the parameter '{name}' has hooks, which would see all members")


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """With the random numbers of torch, NumPy and Python put back at the end."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        held = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(held[0])
            np.random.set_state(held[1])  # noqa: NPY002


@contextmanager
def _still(device: torch.device) -> Iterator[None]:
    """Refuse whatever draws random numbers inside."""
    before = _states(device)
    yield
    if _states(device) != before:
        raise Unstackable("its forward draws random numbers in a way of its own")


def _states(device: torch.device) -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    own = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    return torch.get_rng_state().numpy().tobytes(), own, random.getstate(), kind, np.asarray(keys).tobytes(), *rest
