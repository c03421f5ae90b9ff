"""The shapes in which losses come: one number against one number, class scores against a label, distribution against distribution.

Each kind fixes the shapes that fit, the harmless example that stands in for one left out, and the checks on labels.
"""

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from fallline._core.errors import FalllineWarning, must, refuse
from fallline.losses._base import Loss, _at

_INDEX = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_warned: set[str] = set()


def warn_once(key: str, text: str) -> None:
    """A FalllineWarning, the first time that `key` comes up in this process."""
    if key not in _warned:
        _warned.add(key)
        warnings.warn(text, FalllineWarning, stacklevel=4)


class Elementwise(Loss):
    """One number of input against one number of target: equal shapes, one value an element."""

    target_kind: ClassVar[str] = "real"
    fill: ClassVar[tuple[float, float]] = (0.0, 0.0)

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

    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(keep, input, self.fill[0]), torch.where(keep, target, torch.tensor(self.fill[1], dtype=target.dtype))


class Regression(Elementwise):
    """A number predicted for a number."""

    tasks = frozenset({"regression"})
    target_kind = "real"
    output = "identity"

    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        must(not target.is_complex() and target.dtype != torch.bool, "the target is real numbers", target.dtype, where=self.name)
        return super().shape(input, target)


class Signed(Elementwise):
    """A score against a label -1 or +1."""

    tasks = frozenset({"binary"})
    target_kind = "signed"
    output = "score"
    fill = (0.0, 1.0)

    def prepare(self, labels: Tensor) -> Tensor:
        return 2 * labels.to(torch.int64) - 1

    def check_values(self, input: Tensor, target: Tensor) -> None:
        signed(target, self.name)

    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        signed(target, self.name)


class Binary(Elementwise):
    """A logit or a probability against a label 0 or 1 (or a probability of 1)."""

    tasks = frozenset({"binary"})
    target_kind = "binary"
    output = "logit"
    fill = (0.0, 0.0)

    def prepare(self, labels: Tensor) -> Tensor:
        return labels.to(torch.float32) if not labels.is_floating_point() else labels

    def check_values(self, input: Tensor, target: Tensor) -> None:
        zero_or_one(target, self.name)
        if self.output == "logit" and input.numel() >= 16 and bool(((input > 0) & (input < 1)).all()):
            warn_once(
                f"{self.name} probabilities",
                f"{self.name} takes logits, but every one of {input.numel()} inputs lies between 0 and 1, as probabilities do: "
                "drop the sigmoid before it, or use input_from='probabilities' where the loss has it.",
            )

    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        zero_or_one(target, self.name)


class Classwise(Loss):
    """Scores (N, C, ...) or (C,) against class indices (N, ...) or (): one value a label."""

    tasks = frozenset({"multiclass"})
    target_kind = "index"
    output = "logits"

    @classmethod
    def outputs(cls, n_classes: int | None = None) -> int:
        """Width of the model's last layer: one output a class."""
        must(n_classes is not None and n_classes >= 2, "n_classes >= 2", n_classes, where=cls.name)
        return int(n_classes or 0)

    def prepare(self, labels: Tensor) -> Tensor:
        return labels.to(torch.int64)

    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        must(input.ndim >= 1, "the input is (N, C, ...) or (C,)", tuple(input.shape), where=self.name)
        if target.is_floating_point():
            refuse(
                "a sparse target is whole numbers (class indices)",
                target.dtype,
                f"write target.long(){self._soft_advice()}",
                where=self.name,
            )
        must(target.dtype in _INDEX, "the target is class indices", target.dtype, "write target.long()", where=self.name)
        expected = input.shape[:1] + input.shape[2:] if input.ndim > 1 else input.shape[1:]
        if target.shape != expected:
            last = input.ndim > 2 and target.shape == input.shape[:-1]
            advice = "the classes stand on axis 1: write input.movedim(-1, 1)" if last else ""
            if target.shape == expected + (1,):
                advice = "write target.squeeze(-1)"
            got = f"{tuple(target.shape)} for input {tuple(input.shape)}"
            refuse(f"the target has the shape {tuple(expected)}", got, advice, where=self.name)
        return target.shape

    def _soft_advice(self) -> str:
        return ""

    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        axis = 1 if input.ndim > 1 else 0
        return torch.where(keep.unsqueeze(axis), input, 0.0), torch.where(keep, target, 0)

    def check_values(self, input: Tensor, target: Tensor) -> None:
        in_range(target, input.shape[1 if input.ndim > 1 else 0], self.name)

    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        if target.is_floating_point():
            refuse("a target of classes is whole numbers", target.dtype, "for numbers use mse, mae or huber", where=self.name)
        in_range(target, n_classes, self.name)


def class_last(input: Tensor) -> Tensor:
    """Scores with the classes on the last axis."""
    return input.movedim(1, -1) if input.ndim > 2 else input


def in_range(target: Tensor, n_classes: int | None, where: str) -> None:
    """Refuse class indices outside 0..n_classes-1."""
    if not target.numel():
        return
    low, high = (int(v) for v in torch.aminmax(target))
    if low < 0 or (n_classes is not None and high >= n_classes):
        wrong = (target < 0) if n_classes is None else (target < 0) | (target >= n_classes)
        bad = torch.nonzero(wrong.flatten())
        top = "C - 1" if n_classes is None else str(n_classes - 1)
        span = f"labels from {low} to {high}: {_at(target, bad)}"
        if low == 1 and high == n_classes:
            advice = "labels count from 0: write target - 1"
        elif low == -1 and high <= 1:
            advice = "-1/+1 labels suit hinge; for this loss write (target + 1) // 2"
        else:
            advice = "give the model one output a class, or correct the labels"
        refuse(f"every label is one of 0..{top}", span, advice, where=where)


def signed(target: Tensor, where: str) -> None:
    """Refuse labels other than -1 and +1."""
    bad = torch.nonzero((target.abs() != 1).flatten())
    if len(bad):
        zero_one = bool(((target == 0) | (target == 1)).all())
        advice = (
            "these are 0/1 labels: write 2 * target - 1 (`--signed-labels` maps 0 to -1 and 1 to +1), or use the loss binary_cross_entropy"
            if zero_one
            else "correct the labels"
        )
        refuse("every label is -1 or +1", _at(target, bad), advice, where=where)


def zero_or_one(target: Tensor, where: str) -> None:
    """Refuse labels outside [0, 1], and whole numbers other than 0 and 1 with them."""
    if target.dtype == torch.bool:
        return
    bad = torch.nonzero((~((target >= 0) & (target <= 1))).flatten())
    if len(bad):
        minus = bool((target.abs() == 1).all())
        advice = (
            "these are -1/+1 labels: write (target + 1) / 2, or use the loss hinge"
            if minus
            else "for numbers use mse; for classes use cross_entropy"
        )
        refuse("every label is 0 or 1 (or a probability between)", _at(target, bad), advice, where=where)


def above_minus_one(x: Tensor, what: str, where: str, advice: str) -> None:
    """Refuse values at or below -1, where log(1 + x) ends."""
    bad = torch.nonzero((x <= -1).flatten())
    if len(bad):
        refuse(f"every {what} is above -1", _at(x, bad), advice, where=where)


def nonnegative(x: Tensor, what: str, where: str, advice: str) -> None:
    """Refuse negative values."""
    bad = torch.nonzero((x < 0).flatten())
    if len(bad):
        refuse(f"every {what} is >= 0", _at(x, bad), advice, where=where)
