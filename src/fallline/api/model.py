"""From what the user gave as a model to modules that fit the data, each made from the same seed."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fallline._core.errors import FalllineError
from fallline._core.seeds import stream
from fallline.models import build, check_output
from fallline.training import Goal, Settings

if TYPE_CHECKING:
    from fallline.data import Data


@dataclass
class Maker:
    """Makes the model of a run.

    Args:
        given: the user's spec, module or function.
        spec: the spec, or None where the model came as an object.
        make: the module to train; the user's own where a module was given.
        copy: a fresh module with the same initial weights, for trials that must leave the first alone.
    """

    given: Any
    spec: str | None
    make: Callable[[], nn.Module]
    copy: Callable[[], nn.Module]


def model_maker(model: Any, data: "Data | None", goal: Goal, settings: Settings, *, input_shape: tuple[int, ...] | None = None) -> Maker:
    """How to make the model, checked on one batch of `data` where there is one.

    Raises:
        FalllineError: not a model, a file or function that raises, or an output of the wrong width.
    """
    shape = tuple(data.input_shape) if data is not None else tuple(input_shape or ())
    seed = stream(settings.seed, "init")

    def fresh() -> nn.Module:
        if isinstance(model, str):
            return build(model, shape, goal.outputs, dropout=settings.dropout, seed=seed)
        if isinstance(model, nn.Module):
            return model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _call(model, shape, goal.outputs)

    def checked() -> nn.Module:
        module = fresh()
        if data is not None:
            with torch.random.fork_rng(devices=[]):
                check_output(module, data.train.x[: min(8, len(data.train))], goal.outputs)
        return module

    if not isinstance(model, (str, nn.Module)) and not callable(model):
        raise FalllineError(f"a model is a name, a module or a function that makes one, but got {type(model).__name__}.")
    again = (lambda: copy.deepcopy(model)) if isinstance(model, nn.Module) else fresh
    return Maker(model, model if isinstance(model, str) else None, checked, again)


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
    except Exception as error:
        raise FalllineError(
            f"the function {getattr(make, '__name__', make)} that makes the model raised {type(error).__name__}: {error}."
        ) from error
    if not isinstance(module, nn.Module):
        raise FalllineError(
            f"the function {getattr(make, '__name__', make)} must return a torch.nn.Module, but got {type(module).__name__}."
        )
    return module
