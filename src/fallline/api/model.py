"""From what the user gave as a model to modules that fit the data, each made from the same seed."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fallline.losses import find
from fallline.models import check_output
from fallline.models.initial import seeded
from fallline.study.models import check_kind, fresh
from fallline.training import Goal, Settings

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss


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

    def another() -> nn.Module:
        return fresh(model, shape, goal.outputs, seed=settings.seed, dropout=settings.dropout)

    def checked() -> nn.Module:
        module = model if isinstance(model, nn.Module) else another()
        if data is not None:
            with torch.random.fork_rng(devices=[]):
                advice = ", or give its own width as embedding=" if goal.loss.output == "embedding" else ""
                check_output(module, data.train.x[: min(8, len(data.train))], goal.outputs, advice=advice)
        return module

    check_kind(model)
    return Maker(model, model if isinstance(model, str) else None, checked, another)


def with_width(settings: Settings, model: Any, data: "Data", loss: "Loss | None") -> Settings:
    """The settings with the width of a given module as `embedding`, where the loss is one of embeddings and nothing else is said."""
    kind = loss or (None if settings.loss == "auto" else find(settings.loss.partition(":")[0]))
    if kind is None or kind.output != "embedding" or settings.embedding is not None or not isinstance(model, nn.Module):
        return settings
    module = copy.deepcopy(model).cpu().eval()
    try:
        with torch.no_grad(), seeded(0):
            given = module(data.train.x[:2])
    except Exception:  # what is wrong is said by the check that runs every model
        return settings
    wide = isinstance(given, torch.Tensor) and given.ndim == 2 and given.shape[1] > 1
    return replace(settings, embedding=int(given.shape[1])) if wide else settings
