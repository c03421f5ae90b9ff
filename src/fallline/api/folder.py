"""What a run folder says in words: `run.json` and `pipeline.json`, written and read."""

import platform
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fallline._core.errors import FalllineError
from fallline._core.files import read_json
from fallline._core.version import VERSION
from fallline.api.model import Maker
from fallline.losses import Custom, Loss
from fallline.training import Goal, Scale, Settings
from fallline.training.goal import built_loss
from fallline.training.reading import reading_for

if TYPE_CHECKING:
    from fallline.data import Data, Pipeline

_FORMAT = "fallline-pipeline"
_VERSION = 1


def describe(
    maker: Maker, module: nn.Module, data: "Data", settings: Settings, goal: Goal, choices: list[str], *, loss_given: bool
) -> dict[str, Any]:
    """The parts of `run.json` that are known before training."""
    return {
        "status": "running",
        "command": shlex.join(sys.argv),
        "config": settings.to_json(),
        "choices": choices,
        "data": {
            "name": data.name,
            "target": data.target,
            "task": data.task,
            "classes": list(data.classes),
            "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
            "input_shape": list(data.input_shape),
            "features": list(data.feature_names)[:1000],
            "source": data.source,
            "fingerprint": data.fingerprint,
            "notes": list(data.notes),
            "summary": data.summary,
        },
        "model": {
            "spec": maker.spec,
            "class": type(module).__name__,
            "parameters": sum(p.numel() for p in module.parameters()),
            "layers": str(module).splitlines()[:200],
        },
        "loss": {"name": goal.spec, "options": repr(goal.loss), "in_memory": loss_given, "own": isinstance(goal.loss, Custom)},
        "optimizer": {"name": settings.optimizer, "lr": settings.lr, "schedule": settings.schedule},
        "environment": {
            "fallline": VERSION,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
        },
    }


def pipeline_file(data: "Data", goal: Goal, residuals: tuple[float, float] | None) -> dict[str, Any]:
    """What a prediction needs besides the weights."""
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "goal": goal.to_json(),
        "input_shape": list(data.input_shape),
        "target": data.target,
        "residuals": None if residuals is None else list(residuals),
        "pipeline": None if data.pipeline is None else data.pipeline.to_json(),
    }


def read_pipeline(path: Path, loss: Loss | None = None) -> "tuple[Goal, Pipeline | None, tuple[float, float] | None, tuple[int, ...]]":
    """Goal, preprocessing, residual quantiles and input shape from `pipeline.json`.

    Raises:
        FalllineError: the file is damaged or foreign.
    """
    from fallline.data import Pipeline

    held = read_json(path, "preprocessing description")
    if not isinstance(held, dict) or held.get("format") != _FORMAT:
        raise FalllineError(f"'{path}' was not written by fallline: its format is not '{_FORMAT}'.")
    try:
        goal = held["goal"]
        scale = None if goal["scale"] is None else Scale(**goal["scale"])
        classes, width = tuple(goal["classes"]), int(goal["outputs"])
        own = loss or built_loss(goal["loss"], {}, classes=len(classes), width=width, seed=0)
        reading = reading_for(own, len(classes), width)
        found = Goal(own, goal["loss"], goal["task"], classes, width, scale, reading=reading)
        pipeline = None if held["pipeline"] is None else Pipeline.from_json(held["pipeline"])
        residuals = None if held["residuals"] is None else (float(held["residuals"][0]), float(held["residuals"][1]))
        return found, pipeline, residuals, tuple(held["input_shape"])
    except (KeyError, TypeError, IndexError) as error:
        raise FalllineError(f"'{path}' is damaged: {type(error).__name__} {error}.") from error
