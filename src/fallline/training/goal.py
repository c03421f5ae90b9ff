"""What a run trains towards: the loss, the width of the model's output, and the target in the form that the loss reads.

A regression target is standardised with the mean and deviation of the training rows, unless the loss needs its raw units (counts,
logarithms); metrics are always in the target's own units. A loss of embeddings asks for as many outputs as the embedding is to have
numbers, and for a `Reading` that tells classes from them.
"""

import dataclasses
import inspect
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fallline._core.errors import FalllineError, FalllineWarning, must
from fallline._core.seeds import stream
from fallline.losses import Custom, canonical, check_task, default_for, find, predict_from
from fallline.losses import build as build_loss
from fallline.losses import parse as parse_loss
from fallline.models.initial import seeded
from fallline.training.reading import Reading, reading_for
from fallline.training.settings import Settings
from fallline.training.trained import load_state

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss

EMBEDDING = 64  # numbers of an embedding, where nothing else is said
_TOGETHER = 1 << 12  # rows, at most, that a loss between embeddings compares with one another while it is measured
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
    reading: Reading | None = None
    together: int = 0
    """How many rows a loss between embeddings is measured over at once; 0 for all."""

    @property
    def learns(self) -> bool:
        """Whether the reading of the outputs is learnt from training rows."""
        return self.reading is not None and self.reading.learns

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
        if self.reading is not None:
            return self.reading(self.squeeze(raw))
        seen = predict_from(self.loss.output, self.squeeze(raw))
        return self.scale.restore(seen) if self.scale is not None else seen

    def reading_state(self) -> dict[str, Tensor]:
        """What the reading has learnt, under "reading/"."""
        return {} if self.reading is None else {f"reading/{name}": tensor for name, tensor in self.reading.state_dict().items()}

    def load(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Put back the model's state, the loss's own and that of the reading, as a run's file of weights holds them."""
        mine = self.reading_state()
        load_state(model, self.loss, {name: tensor for name, tensor in tensors.items() if name not in mine})
        if self.reading is not None:
            self.reading.load_state_dict({name.removeprefix("reading/"): tensors[name] for name in mine if name in tensors})

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
        else:
            given, spec = spec.strip(), canonical(spec)
            choices.append(f"loss: {spec}" + (f" (given as {given})" if given.partition(":")[0].strip() != spec.partition(":")[0] else ""))
        check_task(spec, data.task, () if settings.signed_labels else data.raw_labels)
        options: dict[str, Any] = {}
        if settings.class_weight is not None:
            weights = class_weights(data, settings.class_weight)
            twice = f"{settings.class_weight!r} and that of the loss, {spec!r}"
            must("class_weight" not in parse_loss(spec)[1], "class_weight is given once", twice, "leave one of them out")
            options["class_weight"] = weights
        if spec == "msle":
            spec = "msle:input_from=logarithms"
            choices.append("output: the model predicts log(1 + value), so that no prediction falls below -1")
        _check_weights(spec, options)
        width = settings.embedding or EMBEDDING
        built = built_loss(spec, options, classes=len(data.classes), width=width, seed=settings.seed)
    else:
        built, spec = loss, loss.name
        choices.append(loss.said() if isinstance(loss, Custom) else f"loss: {' '.join(repr(loss).split())}")
        must(settings.class_weight is None, "class_weight is left out", settings.class_weight, "give it to the loss object itself")
    must(built.reduction == "mean", "training is by the mean loss, reduction='mean'", repr(built.reduction), "leave reduction out")
    check_task(type(built), data.task, () if settings.signed_labels else data.raw_labels)
    if data.task == "multiclass":
        _check_class_weight(built, len(data.classes))
    scale = None
    if data.task == "regression" and built.target_kind not in _RAW_UNITS:
        std, mean = torch.std_mean(data.train.y.double(), correction=0)
        must(float(std) > 0, "the target varies over the training rows", f"the constant {float(mean):g}")
        scale = Scale(float(mean), float(std))
        choices.append(f"target scale: standardised (mean {scale.mean:.4g}, deviation {scale.std:.4g}; metrics stay in its own units)")
    if built.output == "ordinal":
        choices.append(f"classes in order: {' < '.join(data.classes)} ({built.name} learns an order)")
    width = width_of(built, settings, len(data.classes))
    reading = reading_for(built, len(data.classes), width)
    if reading is not None:
        choices.append(reading.said)
    together = 0
    if built.output == "embedding" and not built.separate:
        rows = len(data.train)
        together = min(_TOGETHER, rows if settings.batch_size == "full" else settings.batch_size)
    goal = Goal(built, spec, data.task, tuple(data.classes), width, scale, choices, reading, together)
    for split in (data.train, data.validation, data.test):
        if len(split):
            built.validate_targets(goal.targets(split.y), len(goal.classes) or None)
    return goal


def width_of(loss: "Loss", settings: Settings, classes: int) -> int:
    """How many outputs the model needs for this loss."""
    if loss.output != "embedding":
        advice = "leave it out, or use a loss of embeddings such as triplet"
        must(settings.embedding is None, f"embedding is left out for the loss {loss.name}", settings.embedding, advice)
        return loss.outputs(max(classes, 1))
    own = getattr(loss, "weight", None)
    if isinstance(own, Tensor):  # class vectors (classes, width)
        held = int(own.shape[1])
        must(settings.embedding in (None, held), f"embedding is {held}, as the loss object has it", settings.embedding)
        return held
    return settings.embedding or EMBEDDING


def built_loss(spec: str, options: dict[str, Any], *, classes: int, width: int, seed: int) -> "Loss":
    """The loss of that spec; one with class vectors gets as many as there are classes, drawn by `seed`."""
    kind = find(_name(spec))
    sizes = {"classes": classes, "dim": width}
    told = {part.partition("=")[0].strip() for part in spec.partition(":")[2].split(",")}
    takes = {*inspect.signature(kind.__init__).parameters, *kind.options} - told
    with seeded(stream(seed, "loss")):
        return build_loss(spec, **{name: size for name, size in sizes.items() if name in takes}, **options)


def warn_of_rare_pairs(goal: Goal, data: "Data", settings: Settings) -> None:
    """Warn where a row seldom meets another of its class in a mini-batch: a loss between embeddings would learn little."""
    if not goal.together or not len(data.train):
        return
    counts = torch.bincount(data.train.y).double()
    share = float((counts / counts.sum()).square().sum())
    mates = (goal.together - 1) * share
    if mates < 1:
        warnings.warn(
            f"in a batch of {goal.together} rows drawn at random a row meets {mates:.2g} others of its class on average, and "
            f"{goal.loss.name} learns from such pairs; a batch size of {round(2 / share) + 1} or more would bring two.",
            FalllineWarning,
            stacklevel=3,
        )


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


def _check_weights(spec: str, options: dict[str, Any]) -> None:
    if options and "class_weight" not in find(_name(spec)).options:
        raise FalllineError(
            f"the loss {_name(spec)} takes no class weights; leave class_weight out, or use binary_cross_entropy or cross_entropy."
        )


def _check_class_weight(loss: "Loss", classes: int) -> None:
    """Refuse a loss's own class weights where they are not one a class."""
    held = getattr(loss, "class_weight", None)
    if isinstance(held, Tensor):
        law = f"class_weight has one weight a class, {classes}"
        must(held.shape == (classes,), law, tuple(held.shape), f"{'/'.join(['1'] * classes)} weighs all alike", where=loss.name)


def _name(spec: str) -> str:
    return spec.partition(":")[0].strip()
