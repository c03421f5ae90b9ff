"""A fresh model for each seed, from whatever the user calls a model, without touching the user's random numbers."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fallline import models
from fallline._core.errors import FalllineError, must
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
    begin = stream(seed, "init")  # as `fit` does: member and single run of one seed begin alike
    if isinstance(model, str):
        return models.build(model, input_shape, outputs, dropout=dropout, seed=begin)
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    must(callable(model), "model is a spec, a module or a function", type(model).__name__, "'mlp:128' is usual")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(begin)
        try:
            made = _call(model, input_shape, outputs)
        except FalllineError:
            raise
        except Exception as error:
            raise FalllineError(f"the function that makes the model raised {type(error).__name__}: {error}.") from error
    must(isinstance(made, nn.Module), "the function that makes the model returns a torch.nn.Module", type(made).__name__)
    return made


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


def _call(make: Callable[..., Any], input_shape: tuple[int, ...], outputs: int) -> Any:
    """`make(input_shape, outputs)` with as many of the two as it takes, by name where it names them."""
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return make()
    known = {"input_shape": input_shape, "outputs": outputs}
    named = {name: value for name, value in known.items() if name in parameters}
    needed = [p for p in parameters.values() if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return make(**named) if len(named) >= len(needed) else make(*[input_shape, outputs][: len(needed)])
