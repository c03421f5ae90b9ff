"""Losses between two embeddings of each example, row against row: a picture and its caption, two views of one thing.

    mean = Σ_i w_i Σ_t ℓ_it / Σ_i w_i n_i          i a pair of rows, t its n_i terms, w_i its sample weight

Row i of the input belongs to row i of the target; every other row is a negative, unless `labels` say that the two are of one class
(several captions of a picture). A pair that is left out (mask, weight 0) is gone from both sides. "sum" adds every term, "none" gives the
sum of each pair's terms. `reference` holds further rows of both sides (a memory, another rank's batch) that stand against these without
being anchors: the sum over ranks of a loss with the others' rows as reference is the loss of the whole batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._among import Pairs, shares, spoil
from fallline.losses._base import Loss, wide
from fallline.mining.triplets import whole

Rows = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
_INDEX = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


class Sides(NamedTuple):
    """The two sides of a batch, and what else stands against each.

    Attributes:
        x: (N, D) input rows.
        y: (N, D) target rows, in the same order.
        here: which of the N rows are negatives of which.
        more: where there are further rows, theirs of both sides, (R, D) each, and which are negatives of which of the N.
    """

    x: Tensor
    y: Tensor
    here: Pairs
    more: tuple[Tensor, Tensor, Pairs] | None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Sides":
        """The same with `change` made to all embeddings."""
        more = None if self.more is None else (change(self.more[0]), change(self.more[1]), self.more[2])
        return Sides(change(self.x), change(self.y), self.here, more)


class Across(Loss):
    """Embeddings (N, D) against embeddings (N, D), row against row."""

    tasks = frozenset()
    target_kind = "pair"
    output = "embedding"
    separate = False
    given = ("reference", "labels")
    needs = "two embeddings for each example (a picture and its caption, or two views), row against row"

    # -- what a loss file writes -------------------------------------------------------------------------------------------------------

    def across(self, sides: Sides) -> tuple[Tensor, Tensor | int]:
        """Sum of each pair's terms (N,), and how many they are: (N,), or one number for all."""
        raise NotImplementedError

    # -- the rest holds for all --------------------------------------------------------------------------------------------------------

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        advice = "write input.flatten(1)" if input.ndim > 2 else "write input.unsqueeze(0)"
        must(input.ndim == 2, "the input is embeddings (N, D)", tuple(input.shape), advice, where=self.name)
        must(input.shape[1] > 0, "embeddings hold at least one number", tuple(input.shape), where=self.name)
        must(target.is_floating_point(), "the target is embeddings, floating point", target.dtype, self._target_advice, where=self.name)
        if target.shape != input.shape:
            got = f"{tuple(target.shape)} for input {tuple(input.shape)}"
            refuse("the target has the input's shape, row i of each belonging together", got, where=self.name)
        return target.shape[:1]

    _target_advice = "give the embeddings of the other side"

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(keep[:, None], input, 1.0), torch.where(keep[:, None], target, 1.0)

    @override
    def terms(self, input: Tensor, target: Tensor, keep: Tensor | None, own: Tensor | None, **given: Any) -> tuple[Tensor, Tensor | None]:
        labels: Tensor | None = given.get("labels")
        if labels is not None and (labels.shape != target.shape[:1] or labels.dtype not in _INDEX):
            got = f"{labels.dtype} {tuple(labels.shape)}"
            refuse(f"labels are ({target.shape[0]},) whole numbers", got, "one class a row", where=self.name)
        labels = None if labels is None else whole(labels)
        reference: Rows | None = given.get("reference")
        gathered = None
        mine = torch.arange(target.shape[0], device=target.device) if labels is None else labels
        simple = labels is None and keep is None
        here = Pairs(mine, mine, keep, keep, mine[:, None] if simple else None)
        more = None
        if reference is not None:
            more_x, more_y, theirs = self._further(reference, input, labels)
            more = (more_x, more_y, Pairs(mine, theirs, keep, alone=mine[:, None][:, :0] if simple else None)) if more_x.shape[0] else None
            gathered = more_x[:0].sum() + more_y[:0].sum()
        with torch.autocast(input.device.type, enabled=False):
            total, count = self.across(Sides(input, target, here, more))
            if not isinstance(count, Tensor):
                count = torch.full_like(total.detach(), count)
            if keep is not None:
                count = torch.where(keep, count, 0)
            total, count = spoil(total, count, keep, input, target, *(() if more is None else more[:2]))
        if gathered is not None:  # a rank without anchors still takes part in the backward of what it gathered
            total = total + gathered
        return shares(total, count, own)

    def _further(self, reference: Rows, input: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        parts = 2 if labels is None else 3
        form = "(inputs, targets)" if labels is None else "(inputs, targets, labels)"
        law = f"reference is {form} of (R, {input.shape[1]}) each" + ("" if labels is None else ", labels (R,)")
        if hasattr(reference, "reference"):
            advice = "a memory keeps embeddings with class labels, for losses of labels"
            refuse(law, f"the {type(reference).__name__} itself", advice, where=self.name)
        if not (isinstance(reference, (tuple, list)) and len(reference) == parts):
            got = f"{len(reference)} parts" if isinstance(reference, (tuple, list)) else type(reference).__name__
            refuse(law, got, f"write reference={form}", where=self.name)
        x, y, *named = reference
        if x.ndim != 2 or x.shape[1] != input.shape[1] or x.shape != y.shape or any(n.shape != x.shape[:1] for n in named):
            refuse(law, " and ".join(str(tuple(part.shape)) for part in reference), where=self.name)
        theirs = whole(named[0], "the labels of reference", self.name) if named else torch.full((x.shape[0],), -1, device=input.device)
        return wide(x).to(input.dtype), wide(y).to(input.dtype), theirs

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        return self._mean(*self._terms(input, target, None, None))

    @override
    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        reference: Rows | None = None,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss, reduced as `reduction` says; see `Loss.forward` for `sample_weight` and `mask`.

        `reference`: further rows (inputs (R, D), targets (R, D)) that stand against these without being anchors; with
        `labels`, theirs third.
        `labels`: (N,) whole numbers; rows of one class are not each other's negatives.
        """
        return self._reduce(*self._terms(input, target, sample_weight, mask, reference=reference, labels=labels))

    @override
    def sum_and_count(
        self,
        input: Tensor,
        target: Tensor,
        *,
        reference: Rows | None = None,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum over all terms and how many they are; both add up over ranks that hold the others' rows as `reference`.

        Micro-batches without `reference` miss the pairs across them.
        """
        return self._sum_and_count(*self._terms(input, target, sample_weight, mask, reference=reference, labels=labels))
