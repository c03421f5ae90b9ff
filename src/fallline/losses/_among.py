"""Losses between the examples of a batch: embeddings against labels, or embeddings of two kinds row against row.

    mean = Σ_a w_a Σ_t ℓ_at / Σ_a w_a n_a          a an anchor, t its n_a terms (pairs or triplets), w_a its sample weight

An example that is left out (mask, weight 0) is gone altogether: no anchor, no positive, no negative. "sum" adds every term, "none"
gives the sum of each anchor's terms. `reference` holds further examples (a memory, another rank's batch) that stand against the anchors
without being anchors themselves: the sum over ranks of a loss with the others' rows as reference is the loss of the whole batch.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._base import Loss, wide
from fallline.mining.triplets import whole

Reference = tuple[Tensor, Tensor]
_INDEX = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


class Pairs(NamedTuple):
    """Which examples stand against which: rows are anchors; columns the anchors again, then the reference.

    Attributes:
        labels: (N,) of the anchors.
        columns: (M,) of everything that they may be compared with, M >= N.
        keep: (N,) which anchors count, or None for all.
        keep_columns: (M,) which columns count, or None for all.
        alone: (N, k) for each anchor the columns that are no negatives of it, where these are the only ones; a short way to `other`.
    """

    labels: Tensor
    columns: Tensor
    keep: Tensor | None = None
    keep_columns: Tensor | None = None
    alone: Tensor | None = None

    def same(self, start: int = 0, stop: int | None = None) -> Tensor:
        """(rows, M): another example of the anchor's own class, for anchors start to stop."""
        mine = self.labels[start:stop]
        place = torch.arange(self.columns.shape[0], device=mine.device)
        itself = place == (start + torch.arange(mine.shape[0], device=mine.device))[:, None]
        return self._there((mine[:, None] == self.columns) & ~itself, start, stop)

    def other(self, start: int = 0, stop: int | None = None) -> Tensor:
        """(rows, M): an example of another class, for anchors start to stop."""
        return self._there(self.labels[start:stop, None] != self.columns, start, stop)

    def twice(self) -> "Pairs":
        """Both views of every example, one after the other, among both views of every column."""

        def two(part: Tensor | None) -> Tensor | None:
            return None if part is None else torch.cat([part, part])

        alone = None if self.alone is None else torch.cat([self.alone, self.alone + self.columns.shape[0]], 1)
        labels, columns = torch.cat([self.labels, self.labels]), torch.cat([self.columns, self.columns])
        return Pairs(labels, columns, two(self.keep), two(self.keep_columns), two(alone))

    def _there(self, found: Tensor, start: int, stop: int | None) -> Tensor:
        if self.keep is not None:
            found = found & self.keep[start:stop, None]
        return found if self.keep_columns is None else found & self.keep_columns


class Among(Loss):
    """Embeddings (N, D) against class labels (N,)."""

    tasks = frozenset({"binary", "multiclass"})
    target_kind = "index"
    output = "embedding"
    separate = False
    given = ("reference",)
    viewed: ClassVar[bool] = False
    """Whether embeddings (N, V, D), V views of each example, may stand for (N V, D), each view with the example's label."""

    # -- what a loss file writes -------------------------------------------------------------------------------------------------------

    def among(self, x: Tensor, others: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Sum of each anchor's terms and how many they are, both (N,).

        `x` (N, D) anchors, `others` (M, D) the columns of `pairs`: `x` itself where there is no reference.
        """
        raise NotImplementedError

    # -- the rest holds for all --------------------------------------------------------------------------------------------------------

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        if input.ndim != 2:
            law = "the input is embeddings (N, D)" + (" or views of each (N, V, D), with labels (N,)" if self.viewed else "")
            views = input.ndim == 3 and target.shape in {input.shape[:2], (input.shape[0] * input.shape[1],)}
            advice = (
                "write input.flatten(0, 1) and target.flatten()"
                if views
                else "write input.flatten(1)"
                if input.ndim > 2
                else "write input.unsqueeze(0)"
            )
            refuse(law, f"input {tuple(input.shape)} and target {tuple(target.shape)}", advice, where=self.name)
        must(input.shape[1] > 0, "embeddings hold at least one number", tuple(input.shape), where=self.name)
        if target.dtype not in _INDEX:
            refuse("the target is class labels, whole numbers", target.dtype, "write target.long()", where=self.name)
        if target.shape != input.shape[:1]:
            advice = "write target.squeeze(-1)" if target.shape == (input.shape[0], 1) else "one label for each embedding"
            refuse(f"the target has the shape ({input.shape[0]},)", tuple(target.shape), advice, where=self.name)
        return target.shape

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(keep[:, None], input, 1.0), torch.where(keep, target, 0)

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        return

    @override
    def terms(self, input: Tensor, target: Tensor, keep: Tensor | None, own: Tensor | None, **given: Any) -> tuple[Tensor, Tensor | None]:
        reference: Reference | None = given.get("reference")
        target = whole(target)
        others, columns, keep_columns = input, target, keep
        if reference is not None:
            more, labels = self._reference(reference, input)
            others, columns = torch.cat([input, more]), torch.cat([target, labels])
            if keep is not None:
                keep_columns = torch.cat([keep, keep.new_ones(labels.shape)])
        with torch.autocast(input.device.type, enabled=False):
            total, count = self.among(input, others, Pairs(target, columns, keep, keep_columns))
            total, count = spoil(total, count, keep, others)
        if reference is not None:  # a rank without anchors still takes part in the backward of what it gathered
            total = total + others[:0].sum()
        return shares(total, count, own)

    def _reference(self, reference: Reference, input: Tensor) -> Reference:
        law = f"reference is embeddings (M, {input.shape[1]}) and labels (M,)"
        if hasattr(reference, "reference"):
            refuse(law, f"the {type(reference).__name__} itself", "write reference=memory.reference", where=self.name)
        if not (isinstance(reference, (tuple, list)) and len(reference) == 2):
            refuse(law, type(reference).__name__, "write reference=(embeddings, labels)", where=self.name)
        more, labels = reference
        if more.ndim != 2 or more.shape[1] != input.shape[1] or labels.shape != more.shape[:1]:
            refuse(law, f"{tuple(more.shape)} and {tuple(labels.shape)}", where=self.name)
        return wide(more).to(input.dtype), whole(labels, "the labels of reference", self.name)

    @override
    def _terms(
        self, input: Tensor, target: Tensor, sample_weight: Tensor | None, mask: Tensor | None, **given: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if self.viewed and _are_views(input, target):
            views = input.shape[1]
            input, target = input.flatten(0, 1), target.repeat_interleave(views)
            sample_weight, mask = (_to_views(part, views) for part in (sample_weight, mask))
        return super()._terms(input, target, sample_weight, mask, **given)

    @override
    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        reference: Reference | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss, reduced as `reduction` says; see `Loss.forward` for `sample_weight` and `mask`.

        `reference`: embeddings (M, D) and labels (M,) that stand against the anchors without being anchors.
        """
        return self._reduce(*self._terms(input, target, sample_weight, mask, reference=reference))

    @override
    def sum_and_count(
        self,
        input: Tensor,
        target: Tensor,
        *,
        reference: Reference | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum over all terms and how many they are; both add up over ranks that hold the others' rows as `reference`.

        Micro-batches without `reference` miss the pairs across them.
        """
        return self._sum_and_count(*self._terms(input, target, sample_weight, mask, reference=reference))


def _are_views(input: Tensor, target: Tensor) -> bool:
    both = isinstance(input, Tensor) and isinstance(target, Tensor)
    return both and input.ndim == 3 and target.dtype in _INDEX and target.shape == input.shape[:1]


def _to_views(part: Tensor | None, views: int) -> Tensor | None:
    """Weights or a mask of examples (N,), or of their views (N, V), for all views one after the other."""
    if not isinstance(part, Tensor):
        return part
    return part.repeat_interleave(views) if part.ndim == 1 else part.flatten(0, 1)


def spoil(total: Tensor, count: Tensor, keep: Tensor | None, *embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and numbers of terms as they are, or NaN where any embedding is not finite: a sort, a hinge or a count of 0 would hide it."""
    for x in embeddings:
        total = total + spot(x).sum()
    if keep is not None:
        total = torch.where(keep, total, 0)
    return total, torch.where(torch.isnan(total), count.clamp(min=1), count)


def spot(x: Tensor) -> Tensor:
    """Zeros, and NaN where a number is not finite, in the gradient as well."""
    return x * torch.zeros_like(x).masked_fill(~torch.isfinite(x), torch.nan)


def shares(total: Tensor, count: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Value and weight of each anchor from the sum and the number of its terms: their product is the sum, times the anchor's own weight."""
    values = torch.where(count == 0, 0.0, total / torch.where(count == 0, 1, count))
    weights = count.to(total.dtype)
    return values, weights if own is None else weights * own
