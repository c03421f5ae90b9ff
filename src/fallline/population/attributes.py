"""What modules hold besides parameters and buffers, and whether two of them hold the same.

A population runs the members through one copy of the first one's module: whatever else a member holds (a random projection, a
permutation, a counter) has to be alike in all of them, and to stay as it is. What cannot be compared counts as different.
"""

import functools
import math
import random
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fallline.training.dense import HOOKS

_TORCHS = {*vars(nn.Module()), "_flat_weights", "_flat_weight_refs"}
_NOTHING = {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__annotations__", "__abstractmethods__", "_abc_impl"}
_PLAIN = (type(None), bool, int, str, bytes, complex, torch.dtype, torch.device, torch.Size, set, frozenset, range, slice)


def _attributes(model: nn.Module) -> dict[str, object]:
    """What modules hold besides parameters, buffers and modules, by name, without what is private to torch."""
    return {
        f"{path}.{key}".lstrip("."): value
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if key != "training" and key not in _TORCHS
    }


def differing(one: nn.Module, other: nn.Module) -> str | None:
    """The name of something that two models do not hold alike, besides the values of parameters and buffers; None where all is.

    >>> differing(nn.Linear(2, 1), nn.Linear(2, 1)), differing(nn.Linear(2, 1), nn.Linear(3, 1))
    (None, 'in_features')
    """
    if one is other:
        return None
    seen = {*_partners(one, other)}
    name = _changed(_kinds(one), _kinds(other), seen)
    return _changed(_attributes(one), _attributes(other), seen) if name is None else name or type(one).__name__


def _changed(before: Mapping[str, object], after: Mapping[str, object], seen: set[tuple[int, int]]) -> str | None:
    """The first name that stands for something else in `after`; None where all are alike."""
    for name in {**before, **after}:
        if name not in before or name not in after or not _same(before[name], after[name], seen):
            return name
    return None


def _partners(one: nn.Module, other: nn.Module) -> Iterator[tuple[int, int]]:
    """Modules, parameters and buffers of one name, wherever else they are held: what they are is looked at elsewhere."""
    for named in (nn.Module.named_modules, nn.Module.named_parameters, nn.Module.named_buffers):
        theirs = dict(named(other))
        yield from ((id(mine), id(theirs[name])) for name, mine in named(one) if name in theirs)


def _kinds(model: nn.Module) -> dict[str, tuple[object, ...]]:
    return {name: (type(m), *(bool(getattr(m, hooks)) for hooks in HOOKS)) for name, m in model.named_modules()}


def _same(a: Any, b: Any, seen: set[tuple[int, int]]) -> bool:
    """Whether two objects say the same; a pair that is met again inside itself counts as alike."""
    if a is b or (id(a), id(b)) in seen:
        return True
    if type(a) is not type(b) and not _same(type(a), type(b), seen):
        return False
    seen.add((id(a), id(b)))
    if isinstance(a, Tensor | np.ndarray):
        return _same_numbers(a, b)
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, _PLAIN):
        return bool(a == b)
    if isinstance(a, type):  # one that is made anew for each model, inside of the function that makes the model
        return (
            a.__qualname__ == b.__qualname__
            and a.__module__ == b.__module__
            and _same((a.__bases__, _members(a)), (b.__bases__, _members(b)), seen)
        )
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(_same(a[key], b[key], seen) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y, seen) for x, y in zip(a, b, strict=True))
    state = _state(a)
    return state is not None and _same(state, _state(b), seen)


def _same_numbers(a: Any, b: Any) -> bool:
    one, other = (torch.as_tensor(x).detach() if x.dtype != object else x.tolist() for x in (a, b))
    if isinstance(one, list):
        return bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device or one.layout != other.layout:
        return False
    return torch.equal(one, other) or (one.is_floating_point() and bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all()))


def _state(thing: Any) -> dict[str, Any] | tuple[Any, ...] | None:
    """What tells an object from others of its type; None where that is not known."""
    if isinstance(thing, torch.Generator):
        return (thing.get_state(),)
    if isinstance(thing, random.Random):
        return thing.getstate()
    if isinstance(thing, np.random.Generator):
        return (thing.bit_generator.state,)
    if isinstance(thing, np.random.RandomState):
        return thing.get_state()
    if isinstance(thing, functools.partial):
        return (thing.func, thing.args, thing.keywords)
    if isinstance(thing, types.MethodType):
        return (thing.__func__, thing.__self__)
    if isinstance(thing, property):
        return (thing.fget, thing.fset, thing.fdel)
    if isinstance(thing, staticmethod | classmethod):
        return (thing.__func__,)
    if isinstance(thing, types.MemberDescriptorType):
        return (thing.__name__,)
    if isinstance(thing, types.FunctionType):
        cells = tuple(cell.cell_contents for cell in thing.__closure__ or () if _filled(cell))
        return (_code(thing.__code__), thing.__defaults__, thing.__kwdefaults__, cells)
    if isinstance(thing, nn.Module):
        return {key: value for key, value in vars(thing).items() if key != "training"}
    return dict(vars(thing)) if hasattr(thing, "__dict__") else None


def _members(kind: type) -> dict[str, Any]:
    return {key: value for key, value in vars(kind).items() if key not in _NOTHING}


def _code(code: types.CodeType) -> tuple[Any, ...]:
    consts = tuple(_code(c) if isinstance(c, types.CodeType) else c for c in code.co_consts)
    return (code.co_code, code.co_names, code.co_varnames, code.co_freevars, consts)


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
