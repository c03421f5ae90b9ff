"""A fresh model for each seed, from whatever the user calls a model, without touching the user's random numbers."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fallline import models
from fallline._core.errors import FalllineError
from fallline._core.seeds import stream

ModelLike = str | nn.Module | Callable[..., nn.Module]


def fresh(model: ModelLike, input_shape: tuple[int, ...], outputs: int, *, seed: int, dropout: float = 0.0) -> nn.Module:
    """The model of that seed: the same weights for the same seed, whoever asks, and however often.

    Args:
        model: a spec such as "mlp:128"; a function, called with `input_shape` and `outputs` as far as its signature accepts them;
            or a module, which is copied as it is (every seed then begins with its weights).
        input_shape: of one example.
        outputs: width of the last layer.
        seed: start of the random initial weights.
        dropout: for models that fallline builds.

    Raises:
        FalllineError: the spec is unknown, or the function raised or gave no module.
    """
    check_kind(model)
    begin = stream(seed, "init")  # as `fit` does: member and single run of one seed begin alike
    if isinstance(model, str):
        return models.build(model, input_shape, outputs, dropout=dropout, seed=begin)
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(begin)
        return _call(model, input_shape, outputs)


def check_kind(model: Any) -> None:
    """Refuse what is no spec, no module and no function."""
    if not isinstance(model, (str, nn.Module)) and not callable(model):
        raise FalllineError(f"a model is a name, a module or a function that makes one, but got {type(model).__name__}.")


def spoken(model: ModelLike) -> str:
    """How the model is called in a record.

    >>> spoken("mlp:128"), spoken(torch.nn.Linear(2, 1))
    ('mlp:128', 'Linear')
    """
    if isinstance(model, str):
        return model
    if isinstance(model, nn.Module):
        return type(model).__name__
    return getattr(model, "__qualname__", type(model).__name__)


def _call(make: Callable[..., Any], shape: tuple[int, ...], outputs: int) -> nn.Module:
    """`make(input_shape, outputs)`, with as many of the two as it takes, by name where it names them."""
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        parameters = {}
    known = {"input_shape": shape, "outputs": outputs}
    named = {key: value for key, value in known.items() if key in parameters}
    needed = [p for p in parameters.values() if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    try:
        module = make(**named) if len(named) >= len(needed) else make(*[shape, outputs][: len(needed)])
    except FalllineError:
        raise
    except Exception as error:
        raise FalllineError(
            f"the function {getattr(make, '__name__', make)} that makes the model raised {type(error).__name__}: {error}."
        ) from error
    if not isinstance(module, nn.Module):
        raise FalllineError(
            f"the function {getattr(make, '__name__', make)} must return a torch.nn.Module, but got {type(module).__name__}."
        )
    return module
