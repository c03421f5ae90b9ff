"""Leave the world as it was: random generators, settings of torch, and every module and tensor that the loss holds."""

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def held(fn: Callable[..., Any]) -> tuple[list[nn.Module], list[Tensor]]:
    """The modules and tensors that `fn` can reach: itself, what it is bound to, what it closes over, the globals that it names."""
    modules: list[nn.Module] = []
    tensors: list[Tensor] = []
    seen: set[int] = set()
    waiting: list[Any] = [fn]
    while waiting and len(seen) < 500:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            modules.append(thing)
        elif isinstance(thing, Tensor):
            tensors.append(thing)
        elif isinstance(thing, (list, tuple)):
            waiting += thing[:50]
        elif isinstance(thing, dict):
            waiting += list(thing.values())[:50]
        elif isinstance(thing, functools.partial):
            waiting += [thing.func, thing.args, thing.keywords]
        elif callable(thing):
            waiting += _of_a_function(thing)
    return modules, tensors


def _of_a_function(fn: Any) -> list[Any]:
    parts = [getattr(fn, "__self__", None), getattr(fn, "__func__", None), getattr(fn, "__wrapped__", None)]
    for cell in getattr(fn, "__closure__", None) or ():
        try:
            parts.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    code, names = getattr(fn, "__code__", None), getattr(fn, "__globals__", None)
    if code is not None and names is not None:
        told = (names[name] for name in code.co_names if name in names)
        parts += [thing for thing in told if isinstance(thing, (nn.Module, Tensor))]
    parts += list(getattr(fn, "__defaults__", None) or ())
    if not isinstance(fn, type) and hasattr(fn, "__dict__"):
        parts += [value for value in vars(fn).values() if isinstance(value, (nn.Module, Tensor))]
    return [part for part in parts if part is not None]


class Holdings:
    """A copy of what a loss holds, to see what a call changes and to put it back."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        modules, tensors = held(fn)
        self._modes = [(part, part.training) for module in modules for part in module.modules()]
        named = [(name, t) for module in modules for name, t in [*module.named_parameters(), *module.named_buffers()]]
        named += [(f"a tensor of shape {tuple(t.shape)}", t) for t in tensors]
        self._tensors = [(name, t, t.detach().clone(), t.grad) for name, t in named]

    def changed(self) -> list[str]:
        """Names of the tensors that are not what they were."""
        return [name for name, now, before, _ in self._tensors if not same(now.detach(), before)]

    def restore(self) -> None:
        """Put every tensor, gradient and mode back."""
        for _, now, before, grad in self._tensors:
            if not same(now.detach(), before):
                now.data = before.clone()
            now.grad = grad
        for module, training in self._modes:
            module.training = training


def same(a: Tensor, b: Tensor) -> bool:
    """Equal in shape, dtype and every value, NaN equal to NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    equal = a == b
    return bool((equal | ((a != a) & (b != b))).all())  # noqa: PLR0124


def settings() -> dict[str, object]:
    """The global settings of torch that a loss has no business with."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "number of threads": torch.get_num_threads(),
        "default device": str(torch.get_default_device()),
    }


def restore_settings(before: dict[str, object]) -> None:
    """Set those of `settings` back that differ."""
    now = settings()
    for name, put in _PUT.items():
        if now[name] != before[name]:
            put(before[name])


_PUT: dict[str, Callable[[Any], Any]] = {
    "grad mode": torch._C._set_grad_enabled,
    "default dtype": torch.set_default_dtype,
    "anomaly detection": torch.set_anomaly_enabled,
    "deterministic algorithms": torch.use_deterministic_algorithms,
    "number of threads": torch.set_num_threads,
    "default device": torch.set_default_device,
}


def generators() -> tuple[Any, ...]:
    """The state of every global random generator."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()  # noqa: NPY002


def restore_generators(state: tuple[Any, ...]) -> None:
    """Set every global random generator back."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
    np.random.set_state(state[2])  # noqa: NPY002
    random.setstate(state[3])


def seed_all(seed: int) -> None:
    """Begin every global random generator at `seed`."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


@contextmanager
def untouched(fn: Callable[..., Any]) -> Iterator[Holdings]:
    """Whatever happens inside, generators, settings and what `fn` holds are afterwards as they were."""
    state, before = generators(), settings()
    holdings = Holdings(fn)
    try:
        yield holdings
    finally:
        restore_settings(before)
        restore_generators(state)
        holdings.restore()
