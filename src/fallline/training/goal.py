"""What a run trains towards: the loss, the width of the model's output, and the target in the form that the loss reads.

A regression target is standardised with the mean and deviation of the training rows, unless the loss needs its raw units (counts,
logarithms); metrics are always in the target's own units.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fallline._core.errors import FalllineError, must
from fallline.losses import build as build_loss
from fallline.losses import check_task, default_for, find, predict_from
from fallline.training.settings import Settings

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss

_RAW_UNITS = frozenset({"above_minus_one", "count", "nonnegative"})


@dataclass(frozen=True)
class Scale:
    """Standardisation of a regression target: trained on (y - mean) / std, read as z * std + mean.

    >>> Scale(10.0, 2.0).restore(torch.tensor([1.0]))
    tensor([12.])
    """

    mean: float = 0.0
    std: float = 1.0

    def apply(self, y: Tensor) -> Tensor:
        """Target in its own units, any shape, to standard units."""
        return ((y.double() - self.mean) / self.std).float()

    def restore(self, z: Tensor) -> Tensor:
        """Standard units, any shape, to the target's own units."""
        return (z.double() * self.std + self.mean).float()


@dataclass(frozen=True)
class Goal:
    """Loss and target form of one run."""

    loss: "Loss"
    spec: str
    task: str
    classes: tuple[str, ...]
    outputs: int
    scale: Scale | None = None
    choices: list[str] = field(default_factory=list)

    def targets(self, y: Tensor) -> Tensor:
        """The target as the loss reads it, from y as `Data` holds it, shape (N,)."""
        if self.task == "regression":
            y = y.float() if self.scale is None else self.scale.apply(y)
        return self.loss.prepare(y)

    def squeeze(self, raw: Tensor) -> Tensor:
        """The model's output as the loss reads it: (N,) where one number is meant, else (N, outputs)."""
        return raw.reshape(-1) if self.outputs == 1 else raw

    def predict(self, raw: Tensor) -> Tensor:
        """What a user reads: probabilities (N,) or (N, C), scores (N,), or values (N,) in the target's own units."""
        seen = predict_from(self.loss.output, self.squeeze(raw))
        return self.scale.restore(seen) if self.scale is not None else seen

    def to_json(self) -> dict[str, Any]:
        """What a prediction needs, as plain values."""
        scale = None if self.scale is None else dataclasses.asdict(self.scale)
        return {
            "loss": self.spec,
            "output": self.loss.output,
            "outputs": self.outputs,
            "task": self.task,
            "classes": list(self.classes),
            "scale": scale,
        }


def aim(data: "Data", settings: Settings, loss: "Loss | None" = None) -> Goal:
    """Choose and check the loss for `data`, and the form of its target.

    Args:
        data: rows and task.
        settings: `loss`, `class_weight`, `signed_labels` are read.
        loss: a loss object in place of `settings.loss`.

    Raises:
        FalllineError: the loss is unknown, or does not fit the task or the labels; the sentence says which would.
    """
    choices: list[str] = []
    spec = settings.loss
    if loss is None:
        if spec == "auto":
            spec = default_for(data.task)
            choices.append(f"loss: {spec} (the default for {data.task})")
        check_task(spec, data.task, () if settings.signed_labels else data.raw_labels)
        options: dict[str, Any] = {}
        if settings.class_weight is not None:
            weights = class_weights(data, settings.class_weight)
            options["class_weight"] = weights
        if spec == "msle":
            spec = "msle:input_from=logarithms"
            choices.append("output: the model predicts log(1 + value), so that no prediction falls below -1")
        built = _build(spec, options)
    else:
        built, spec = loss, loss.name
        must(settings.class_weight is None, "class_weight is left out", settings.class_weight, "give it to the loss object itself")
    check_task(built.name, data.task, () if settings.signed_labels else data.raw_labels)
    scale = None
    if data.task == "regression" and built.target_kind not in _RAW_UNITS:
        std, mean = torch.std_mean(data.train.y.double(), correction=0)
        must(float(std) > 0, "the target varies over the training rows", f"the constant {float(mean):g}")
        scale = Scale(float(mean), float(std))
        choices.append(f"target scale: standardised (mean {scale.mean:.4g}, deviation {scale.std:.4g}; metrics stay in its own units)")
    goal = Goal(built, spec, data.task, tuple(data.classes), built.outputs(max(len(data.classes), 1)), scale, choices)
    for split in (data.train, data.validation, data.test):
        if len(split):
            built.validate_targets(goal.targets(split.y), len(goal.classes) or None)
    return goal


def class_weights(data: "Data", spec: str) -> Tensor:
    """Weights (classes,) from "balanced" (rows / (classes * rows of the class)) or "name:weight,name:weight" (the others weigh 1).

    Raises:
        FalllineError: a regression task, an unknown class, or a weight that is not a positive number.
    """
    must(data.task != "regression", "class_weight is for classes", "a regression target", "leave it out")
    if spec == "balanced":
        counts = torch.bincount(data.train.y, minlength=len(data.classes)).clamp_min(1)
        return (len(data.train) / (len(data.classes) * counts.double())).float()
    weights = torch.ones(len(data.classes))
    for part in spec.split(","):
        name, _, number = part.rpartition(":")
        name = name.strip()
        must(name in data.classes, f"class_weight is 'balanced' or 'CLASS:WEIGHT,...' with classes {list(data.classes)}", repr(part))
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        must(0 < weight < float("inf"), "a class weight is a positive number", repr(part))
        weights[data.classes.index(name)] = weight
    return weights


def _build(spec: str, options: dict[str, Any]) -> "Loss":
    name = _name(spec)
    kind = find(name)
    if options and "class_weight" not in kind.options:
        raise FalllineError(
            f"the loss {name} takes no class weights; leave class_weight out, or use binary_cross_entropy or cross_entropy."
        )
    return build_loss(spec, **options)


def _name(spec: str) -> str:
    return spec.partition(":")[0].strip()
