"""Losses for both kinds of labels: yes or no for each logit, or one class of several for a row of scores. The shapes tell which.

    target of the input's shape                    each label is 0 or 1 (or a probability between) for its own logit
    target (N, ...) for input (N, C, ...)          each label is one of 0..C-1

The second has one axis less than the first, so no shape fits both.
"""

import torch
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._checks import looks_like_probabilities, warn_once, zero_or_one
from fallline.losses._kinds import Classwise, class_last, seem_probabilities


class Either(Classwise):
    """Logits against 0/1 labels of the same shape, or scores (N, C, ...) or (C,) against class indices (N, ...) or ()."""

    tasks = frozenset({"binary", "multiclass"})
    output = "logit_or_logits"

    @classmethod
    @override
    def outputs(cls, n_classes: int | None = None) -> int:
        """Width of the model's last layer: 1 for two classes, else one output a class."""
        return 1 if n_classes is None or n_classes <= 2 else int(n_classes)

    @staticmethod
    def apart(input: Tensor, target: Tensor) -> bool:
        """Whether each logit has a label 0 or 1 of its own."""
        return input.shape == target.shape

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        if self.apart(input, target):
            if self.class_weight is not None:
                self.check_weights(input)
            return target.shape
        single = input.ndim == target.ndim + 1 and input.ndim > 1 and input.shape[1] == 1
        if single or input.ndim <= target.ndim:
            law = "input and target have the same shape, or the input has one axis of classes more"
            got = f"input {tuple(input.shape)} and target {tuple(target.shape)}"
            more = input.numel() == target.numel()
            flat = input.ndim == target.ndim > 1 and target.shape == (input.shape[0], 1, *input.shape[2:])
            advice = "write input.squeeze(1)" if single else "write target.reshape(input.shape)" if more else ""
            advice = "write target.squeeze(1)" if flat else advice
            refuse(law, got, advice, where=self.name)
        return super().shape(input, target)

    def check_weights(self, input: Tensor) -> None:
        """Refuse class weights that do not fit labels 0 and 1."""
        given = tuple(self.class_weight.shape) if self.class_weight is not None else (2,)
        must(given == (2,), "class_weight has the shape (2,) for labels 0 and 1", given, "(0.2, 0.8) is an example", where=self.name)

    @override
    def kept(self, input: Tensor, target: Tensor) -> Tensor | None:
        whole = not target.is_floating_point() and target.dtype != torch.bool
        return super().kept(input, target) if whole else None

    all_count = Classwise.all_count

    @override
    def weights(self, input: Tensor, target: Tensor) -> Tensor | None:
        if self.class_weight is None or not self.apart(input, target):
            return super().weights(input, target)
        zero, one = self.class_weight.to(input)
        return zero + (one - zero) * target

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        if not self.apart(input, target):
            return super().blank(input, target, keep)
        return torch.where(keep, input, 0.0), torch.where(keep, target, torch.zeros((), dtype=target.dtype))

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        if not self.apart(input, target):
            super().check_values(input, target)
            if self.curious() and input.numel() >= 16 and looks_like_probabilities(class_last(input)):
                self._tell("every row of the input sums to 1, as probabilities do: drop the softmax before it")
            return
        zero_or_one(target, self.name)
        if self.curious():
            if seem_probabilities(self.name, input):
                self._tell(f"every one of {input.numel()} inputs lies between 0 and 1, as probabilities do: drop the sigmoid before it")
            if one_hot(target):
                warn_once(
                    f"{self.name} one-hot",
                    f"each row of the target of {self.name} has a single 1 on axis 1, as one-hot classes have, but a target of the input's "
                    "shape is read as labels that hold each by itself: for classes that exclude one another give target.argmax(1).",
                )

    def _tell(self, what: str) -> None:
        otherwise = ", or write input_from='probabilities'" if "input_from" in self.options else ""
        warn_once(f"{self.name} probabilities", f"{self.name} takes logits, but {what}{otherwise}.")

    @override
    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        if target.is_floating_point():
            return zero_or_one(target, self.name)
        return super().check_targets(target, n_classes)


def one_hot(target: Tensor) -> bool:
    """Whether 16 or more labels over 3 or more classes on axis 1 look like one-hot rows."""
    if target.ndim < 2 or target.shape[1] < 3 or target.numel() < 16:
        return False
    ones = (target == 1).sum(1)
    return bool((ones == 1).all()) and bool(((target == 0) | (target == 1)).all())
