"""Losses that take several forms of input: what was given is told by the number of arguments and of axes, and brought into one tensor.

Examples already put together come as (N, 2, D) or (N, 3, D), or as two or three tensors (N, D) in torch's order; embeddings (N, D) with
class labels (N,) mean everything that the batch holds.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._among import Among, Pairs, spot
from fallline.losses._base import Loss, wide


class Formed(Among):
    """`Among`, and as well examples that the caller has put together: input (N, parts, D)."""

    third = "third"
    parts: ClassVar[int]
    fill: ClassVar[float] = 0.0
    """The target that stands in for one left out, in the form (N, parts, D)."""

    # -- what a loss file writes -------------------------------------------------------------------------------------------------------

    def form(self, input: Tensor, target: Tensor | None, third: Tensor | None) -> tuple[Tensor, Tensor]:
        """Input and target in the one tensor each that the rest works with."""
        raise NotImplementedError

    # -- the rest holds for all --------------------------------------------------------------------------------------------------------

    def pairs_of(self, input: Tensor, target: Tensor | None, third: Tensor | None, *, meaning: str) -> tuple[Tensor, Tensor]:
        """The forms of a loss of pairs; `meaning` says what a target is: "0 for similar pairs and 1 for others"."""
        if target is None:
            refuse(f"there is a target: {meaning}, or class labels", "None", where=self.name)
        if third is not None:
            return self.together(input, target), third
        if self.a_side(input, target):
            law = f"there is a third argument, {meaning}, or the second is class labels"
            refuse(law, f"two of {tuple(input.shape)}", "write loss(a, b, y), y (N,)", where=self.name)
        if input.ndim not in (2, 3):
            self.unknown(input, "two of (N, D) with a target (N,), or pairs (N, 2, D), or embeddings (N, D) with class labels")
        return input, target

    def together(self, *parts: Tensor) -> Tensor:
        """Equal tensors (N, D) as (N, parts, D)."""
        for part in parts:
            if not isinstance(part, Tensor) or part.ndim != 2 or part.shape != parts[0].shape:
                shapes = ", ".join(str(tuple(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in parts)
                refuse(f"with three arguments the first {self.parts} are tensors of one shape (N, D)", shapes, where=self.name)
            where = f"{part.device}"
            law = f"all parts are on the input's device, {parts[0].device}"
            must(part.device == parts[0].device, law, where, "write .to(input.device)", where=self.name)
        kind = wide(parts[0]).dtype
        return torch.stack([wide(part).to(kind) for part in parts], 1)

    @staticmethod
    def a_side(input: Tensor, target: Tensor | None) -> bool:
        """Whether the second argument is embeddings again, so that a third is missing."""
        return isinstance(target, Tensor) and target.is_floating_point() and target.ndim == 2 and target.shape == input.shape

    def unknown(self, input: Tensor, forms: str) -> NoReturn:
        """Refuse a shape that is no form of this loss."""
        refuse(f"the input is {forms}", tuple(input.shape), where=self.name)

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        if input.ndim == 2:
            return super().shape(input, target)
        must(input.ndim == 1 or input.shape[1] == self.parts, f"the input is (N, {self.parts}, D)", tuple(input.shape), where=self.name)
        if target.shape != input.shape[:1]:
            advice = "write target.squeeze(-1)" if target.shape == (input.shape[0], 1) else "one for each example"
            refuse(f"the target has the shape ({input.shape[0]},)", tuple(target.shape), advice, where=self.name)
        return target.shape

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        if input.ndim == 2:
            return super().blank(input, target, keep)
        there = keep.reshape(-1, *[1] * (input.ndim - 1))
        return torch.where(there, input, 1.0), torch.where(keep, target, torch.tensor(self.fill, dtype=target.dtype))

    @override
    def terms(self, input: Tensor, target: Tensor, keep: Tensor | None, own: Tensor | None, **given: Any) -> tuple[Tensor, Tensor | None]:
        if input.ndim == 2:
            return super().terms(input, target, keep, own, **given)
        if given.get("reference") is not None:
            refuse("reference stands against embeddings (N, D) with class labels", f"input {tuple(input.shape)}", where=self.name)
        with torch.autocast(input.device.type, enabled=False):
            values, weights = Loss.terms(self, input, target, keep, own)
            return values if input.ndim == 1 else values + spot(input).sum((1, 2)), weights

    @override
    def _terms(
        self,
        input: Tensor,
        target: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        third: Tensor | None = None,
        **given: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if not isinstance(input, Tensor):
            refuse("input is a tensor", type(input).__name__, "write torch.as_tensor(input)", where=self.name)
        for key in given:
            must(key in self.given, f"the further arguments are {', '.join(self.given)}", repr(key), where=self.name)
        input, target = self.form(input, target, third)
        return super()._terms(input, target, sample_weight, mask, **given)

    @override
    def forward(
        self,
        input: Tensor,
        target: Tensor | None = None,
        third: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        **given: Any,
    ) -> Tensor:
        """The loss, reduced as `reduction` says; the class tells which forms `input`, `target` and `third` have.

        `sample_weight` and `mask` (N,): see `Loss.forward`. `reference`, with class labels: embeddings (M, D) and labels (M,) that stand
        against the anchors without being anchors.
        """
        return self._reduce(*self._terms(input, target, sample_weight, mask, third, **given))

    @override
    def sum_and_count(
        self,
        input: Tensor,
        target: Tensor | None = None,
        third: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        **given: Any,
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum over all terms and how many they are; see `Among.sum_and_count`."""
        return self._sum_and_count(*self._terms(input, target, sample_weight, mask, third, **given))

    @override
    def per_example(
        self,
        input: Tensor,
        target: Tensor | None = None,
        third: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        **given: Any,
    ) -> Tensor:
        """One value an example (with class labels: the sum of each anchor's terms), times its weight; 0 where it is left out."""
        values, weights, _ = self._terms(input, target, sample_weight, mask, third, **given)
        return values if weights is None else values * weights


def over_pairs(x: Tensor, others: Tensor, pairs: Pairs, costs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Each anchor's sum over its pairs and their number; `costs` gives what a block's pairs cost if similar and if not, (rows, M) each."""
    totals, counts = [x.sum(-1)[:0]], [pairs.labels.new_zeros(0, dtype=torch.int64)]
    for start, stop in blocks(x.shape[0], others.shape[0]):
        same, other = pairs.same(start, stop), pairs.other(start, stop)
        near, far = costs(x[start:stop], others)
        totals.append((torch.where(same, near, 0) + torch.where(other, far, 0)).sum(-1))
        counts.append((same | other).sum(-1))
    return torch.cat(totals), torch.cat(counts)


def blocks(rows: int, columns: int, most: int = 1 << 20) -> list[tuple[int, int]]:
    """Start and stop of the blocks of anchors, each of at most about `most` pairs.

    >>> blocks(5, 10, most=20)
    [(0, 2), (2, 4), (4, 5)]
    """
    step = max(most // max(columns, 1), 1)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
