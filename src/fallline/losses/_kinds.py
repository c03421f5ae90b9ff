"""The shapes in which losses come: one number against one number, class scores against a label, distribution against distribution.

Each kind fixes the shapes that fit, the harmless example that stands in for one left out, and the checks on labels.
"""

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._base import Loss
from fallline.losses._checks import in_range, looks_like_probabilities, signed, warn_once, zero_or_one
from fallline.losses._fields import vector, whole
from fallline.losses._tracing import readable

_INDEX = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_SPANS = {dtype: (torch.iinfo(dtype).min, torch.iinfo(dtype).max) for dtype in _INDEX}


class Elementwise(Loss):
    """One number of input against one number of target: equal shapes, one value an element."""

    target_kind: ClassVar[str] = "real"
    fill: ClassVar[tuple[float, float]] = (0.0, 0.0)

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        if input.shape != target.shape:
            got = f"input {tuple(input.shape)} and target {tuple(target.shape)}"
            same = input.numel() == target.numel()
            advice = (
                "write input.squeeze(-1) or target.reshape(input.shape)"
                if same
                else "torch would broadcast them; give one input for each target"
            )
            refuse("input and target have the same shape", got, advice, where=self.name)
        return target.shape

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(keep, input, self.fill[0]), torch.where(keep, target, torch.tensor(self.fill[1], dtype=target.dtype))


class Regression(Elementwise):
    """A number predicted for a number."""

    tasks = frozenset({"regression"})
    target_kind = "real"
    output = "identity"


class Signed(Elementwise):
    """A score against a label -1 or +1."""

    tasks = frozenset({"binary"})
    target_kind = "signed"
    output = "score"
    fill = (0.0, 1.0)

    @override
    def prepare(self, labels: Tensor) -> Tensor:
        return 2 * labels.to(torch.int64) - 1

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        signed(target, self.name)

    @override
    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        signed(target, self.name)


class Binary(Elementwise):
    """A logit or a probability against a label 0 or 1 (or a probability of 1)."""

    tasks = frozenset({"binary"})
    target_kind = "binary"
    output = "logit"
    fill = (0.0, 0.0)

    @override
    def prepare(self, labels: Tensor) -> Tensor:
        return labels.to(torch.float32) if not labels.is_floating_point() else labels

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        zero_or_one(target, self.name)
        if self.output == "logit" and self.curious() and seem_probabilities(self.name, input):
            warn_once(
                f"{self.name} probabilities",
                f"{self.name} takes logits, but every one of {input.numel()} inputs lies between 0 and 1, as probabilities do: "
                f"drop the sigmoid before it{self._from_probabilities()}.",
            )

    def _from_probabilities(self) -> str:
        """What to set where probabilities are meant, if the loss can."""
        return ", or write input_from='probabilities' if probabilities are meant" if "input_from" in self.options else ""

    @override
    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        zero_or_one(target, self.name)


_within: dict[str, int | None] = {}
"""Loss to how many numbers its small batches have held so far, all between 0 and 1; None once one lay outside."""


def seem_probabilities(name: str, x: Tensor) -> bool:
    """Whether every number lies strictly between 0 and 1, and there are enough to tell: 16, in one batch or in several small ones.

    Four do where they are more than a half apart, as logits that are small are not. Once a small batch held a number outside, small
    batches are trusted: logits of any process get there soon, and probabilities never.
    """
    few = x.reshape(-1)[:16]
    inside = all(bool(((part > 0) & (part < 1)).all()) for part in (few, x))
    if x.numel() >= 16:
        return inside
    seen = _within.get(name, 0)
    if not x.numel() or seen is None:
        return False
    seen = _within[name] = seen + x.numel() if inside else None
    return seen is not None and (seen >= 16 or (x.numel() >= 4 and bool(x.amax() - x.amin() > 0.5)))


class Classwise(Loss):
    """Scores (N, C, ...) or (C,) against class indices (N, ...) or (): one value a label."""

    tasks = frozenset({"multiclass"})
    target_kind = "index"
    output = "logits"
    class_weight: Tensor | None = vector(doc="(C,): how much examples of each class count in the mean")
    ignore_index: int = whole(-100, doc="a label that marks an example to leave out")
    _weighed: tuple[int, int, bool] = (0, 0, True)
    """Which class weights were looked at, in which version, and whether some of them are 0."""

    @classmethod
    def outputs(cls, n_classes: int | None = None) -> int:
        """Width of the model's last layer: one output a class."""
        must(n_classes is not None and n_classes >= 2, "n_classes >= 2", n_classes, where=cls.name)
        return int(n_classes or 0)

    def width(self, input: Tensor) -> int:
        """How many classes there are."""
        return input.shape[1 if input.ndim > 1 else 0]

    @override
    def prepare(self, labels: Tensor) -> Tensor:
        return labels.to(torch.int64)

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        must(input.ndim >= 1, "the input is (N, C, ...) or (C,)", tuple(input.shape), where=self.name)
        if self.class_weight is not None:
            classes = self.width(input)
            given = tuple(self.class_weight.shape)
            must(given == (classes,), f"class_weight has the shape ({classes},)", given, "one weight a class", where=self.name)
        if target.shape == input.shape and input.ndim > 1:
            refuse("the target is class indices", f"one value a class, {tuple(target.shape)}", self._soft_advice, where=self.name)
        if target.is_floating_point():
            refuse(
                "a sparse target is whole numbers (class indices)",
                target.dtype,
                f"write target.long(); {self._soft_advice}",
                where=self.name,
            )
        must(target.dtype in _INDEX, "the target is class indices", target.dtype, "write target.long()", where=self.name)
        expected = input.shape[:1] + input.shape[2:] if input.ndim > 1 else input.shape[1:]
        if target.shape != expected:
            last = input.ndim > 2 and target.shape == input.shape[:-1]
            advice = "the classes stand on axis 1: write input.movedim(-1, 1)" if last else ""
            if target.shape == (*expected, 1):
                advice = "write target.squeeze(-1)"
            elif target.ndim > 1 and target.shape == (expected[0], 1, *expected[1:]):
                advice = "write target.squeeze(1)"
            got = f"{tuple(target.shape)} for input {tuple(input.shape)}"
            refuse(f"the target has the shape {tuple(expected)}", got, advice, where=self.name)
        return target.shape

    @override
    def kept(self, input: Tensor, target: Tensor) -> Tensor | None:
        least, most = _SPANS.get(target.dtype, (0, 1))
        if not least <= self.ignore_index <= most:
            return None  # torch says that the label 156 of 8 bits equals -100
        if self.validate and target.numel() and readable(input, target):
            low, high = (bound.item() for bound in torch.aminmax(target))
            if not low <= self.ignore_index <= high:
                return None
        return target != self.ignore_index

    @override
    def weights(self, input: Tensor, target: Tensor) -> Tensor | None:
        return None if self.class_weight is None else self.class_weight.to(input)[target.long()]

    @override
    def weightless(self) -> bool:
        weight = self.class_weight
        if weight is None or not readable(weight) or weight.is_inference():
            return True
        seen = id(weight), weight._version
        if seen != self._weighed[:2]:
            self._weighed = *seen, not bool(weight.detach().all())
        return self._weighed[2]

    @override
    def all_count(self, target: Tensor) -> bool:
        if self.class_weight is not None and self.weightless():
            return False
        keep = self.kept(target, target)
        return keep is None or bool(keep.all())

    _soft_advice: ClassVar[str] = "for one-hot targets write target.argmax(1); cross_entropy takes distributions"

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        axis = 1 if input.ndim > 1 else 0
        return torch.where(keep.unsqueeze(axis), input, 0.0), torch.where(keep, target, 0)

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        in_range(target, self.width(input), self.name)
        self.glance(input)

    def glance(self, input: Tensor) -> None:
        """Tell of a softmax before a loss that takes logits."""
        if self.output != "logits" or input.ndim < 2 or not self.curious():
            return
        scores = class_last(input)
        if scores.shape[:-1].numel() >= 2 and looks_like_probabilities(scores):
            warn_once(
                f"{self.name} probabilities",
                f"{self.name} takes logits, but every row of the input sums to 1, as probabilities do: drop the softmax before it.",
            )

    @override
    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        if target.is_floating_point():
            refuse("a target of classes is whole numbers", target.dtype, "for numbers use mse, mae or huber", where=self.name)
        keep = self.kept(target, target)
        in_range(target if keep is None else torch.where(keep, target, 0), n_classes, self.name)


def class_last(input: Tensor) -> Tensor:
    """Scores with the classes on the last axis."""
    return input.movedim(1, -1) if input.ndim > 2 else input
