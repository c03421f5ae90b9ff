"""How an output that means nothing by itself is read: by what training rows show of it.

    class means     m_c = mean of z over the rows of class c        p(c | z) = softmax_c(−‖z − m_c‖²)
    class vectors   p(c | z) = softmax_c(s cos(z, w_c))             w_c and s are the loss's own
    border          the class is the second where score > t         t is right on most training rows

A loss of embeddings pulls the rows of a class together and says nothing of where; a loss of differences of scores leaves their origin
open. Both are learnt from up to 4,096 evenly spaced training rows (one at least of each class), after every epoch to measure and in the end
to predict; what was learnt is saved beside the weights. Where the loss measures by cosine, z and m_c are scaled to length 1 first.

Source: Snell, Swersky & Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017, equation 2. https://arxiv.org/abs/1703.05175
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from typing_extensions import override

if TYPE_CHECKING:
    from fallline.losses import Loss

MOST_ROWS = 1 << 12


class Reading(nn.Module):
    """From raw outputs to what a user reads; its buffers are what it learnt."""

    said: str = ""
    """One line for `Run.choices`."""
    learns: bool = True

    def learn(self, raw: Tensor, y: Tensor) -> None:
        """From outputs (N, outputs) or (N,) of training rows and their classes (N,)."""

    @override
    def forward(self, raw: Tensor) -> Tensor:
        """Probabilities (N, classes), or scores (N,) whose border is 0."""
        raise NotImplementedError

    def scores(self, raw: Tensor) -> Tensor:
        """Scores (N, classes) or (N,), the larger the likelier; their softmax is `forward` where that gives probabilities."""
        raise NotImplementedError


class ClassMeans(Reading):
    """The nearest class mean."""

    means: Tensor

    def __init__(self, classes: int, width: int, *, cosine: bool) -> None:
        super().__init__()
        self.cosine = cosine
        self.register_buffer("means", torch.full((classes, width), torch.nan, dtype=torch.float64))
        how = "of vectors scaled to length 1" if cosine else "by Euclidean distance"
        self.said = (
            f"output: an embedding of {width} numbers (embedding={width}), read by the nearest class mean of up to {MOST_ROWS:,} "
            f"training rows, {how}"
        )

    def _placed(self, raw: Tensor) -> Tensor:
        z = raw.double()
        return nn.functional.normalize(z, dim=1) if self.cosine else z

    @override
    def learn(self, raw: Tensor, y: Tensor) -> None:
        z, y = self._placed(raw.detach().cpu()), y.cpu()
        sums = torch.zeros_like(self.means).index_add_(0, y, z)
        count = torch.bincount(y, minlength=len(sums))[:, None]
        means = sums / count  # a class without a row: NaN, and never the nearest
        self.means.copy_(nn.functional.normalize(means, dim=1) if self.cosine else means)

    @override
    def scores(self, raw: Tensor) -> Tensor:
        z = self._placed(raw.cpu())
        away = torch.stack([(z - mean).square().sum(1) for mean in self.means], dim=1)
        known = torch.isfinite(self.means).all(1)
        return torch.where(known, -away, -torch.inf)

    @override
    def forward(self, raw: Tensor) -> Tensor:
        return torch.softmax(self.scores(raw), dim=1)


class ClassVectors(Reading):
    """The class whose vector, a parameter of the loss, points most nearly the same way."""

    learns = False

    def __init__(self, loss: "Loss") -> None:
        super().__init__()
        self._loss = [loss]  # in a list: its parameters are the loss's, not this module's
        classes, width = loss.weight.shape  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
        self.said = (
            f"output: an embedding of {width} numbers (embedding={width}), read by the largest cosine with the {classes} class vectors "
            "that the loss learns"
        )

    @override
    def scores(self, raw: Tensor) -> Tensor:
        (loss,) = self._loss
        vectors: Tensor = loss.weight.detach().cpu().double()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        unit = nn.functional.normalize
        return float(getattr(loss, "scale", 1.0)) * unit(raw.cpu().double(), dim=1) @ unit(vectors, dim=1).T

    @override
    def forward(self, raw: Tensor) -> Tensor:
        return torch.softmax(self.scores(raw), dim=1)


class Border(Reading):
    """The border between two classes that is right on most training rows; scores are given from there, so that above 0 is the second."""

    border: Tensor
    said = f"output: a score; its 0 is the border that is right on most of up to {MOST_ROWS:,} training rows, as the loss leaves it open"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("border", torch.zeros((), dtype=torch.float64))

    @override
    def learn(self, raw: Tensor, y: Tensor) -> None:
        score, order = raw.detach().cpu().double().reshape(-1).sort()
        second = y.cpu()[order] == 1
        none = torch.zeros(1, dtype=torch.int64)
        right = (
            torch.cat([none, (~second).cumsum(0)]) + second.sum() - torch.cat([none, second.cumsum(0)])
        )  # with the border before each row
        apart = torch.cat([torch.ones(1, dtype=torch.bool), score[1:] > score[:-1], torch.ones(1, dtype=torch.bool)])
        best = torch.nonzero(apart & (right == right[apart].max())).flatten()
        at = int(best[len(best) // 2])
        low, high = score[max(at - 1, 0)], score[min(at, len(score) - 1)]
        beyond = {0: -1.0, len(score): 1.0}.get(at, 0.0)
        self.border.copy_((low + high) / 2 + beyond)

    @override
    def scores(self, raw: Tensor) -> Tensor:
        return raw.cpu().double().reshape(-1) - self.border

    @override
    def forward(self, raw: Tensor) -> Tensor:
        return self.scores(raw)


def reading_for(loss: "Loss", classes: int, width: int) -> Reading | None:
    """How the outputs of a model that was trained by this loss are read, where they mean nothing by themselves; else None."""
    if loss.output == "embedding":
        if isinstance(getattr(loss, "weight", None), nn.Parameter):
            return ClassVectors(loss)
        by_cosine = getattr(loss, "distance", "") == "cosine" or getattr(loss, "unit", False) is True or loss.name == "cosine_embedding"
        return ClassMeans(classes, width, cosine=by_cosine)
    return Border() if loss.output == "score" and not loss.separate else None


def rows_to_learn(y: Tensor) -> Tensor:
    """Which rows (at most 4,096, and one for each class that they miss) a reading is learnt from, by their classes (N,)."""
    if len(y) <= MOST_ROWS:
        return torch.arange(len(y))
    chosen = torch.linspace(0, len(y) - 1, MOST_ROWS).long()
    missed = sorted(set(y.unique().tolist()) - set(y[chosen].unique().tolist()))
    more = [int((y == label).nonzero()[0]) for label in missed]
    return torch.cat([chosen, torch.tensor(more, dtype=torch.int64)])
