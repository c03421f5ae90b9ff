"""Softmax over class directions with a margin at the true class: what ArcFace and CosFace share.

    ℓ = −log( e^{s φ(c_y)} / (e^{s φ(c_y)} + Σ_{j≠y} e^{s c_j}) )        c_j = cos of the angle between embedding and class vector j

The class vectors are the loss's own parameter `weight` (classes, dim), drawn evenly from the sphere: their length has no effect on the
value and sets only how fast they turn.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._base import wide
from fallline.losses._checks import in_range
from fallline.losses._fields import number, whole
from fallline.losses._kinds import Classwise
from fallline.losses._tracing import readable
from fallline.mining.distances import root, unit

_ONE = 1.02
"""What a cosine may come to by rounding: 1.0078 in bfloat16, and some more from the lengths."""


class Margin(Classwise):
    """Embeddings (N, D) with class vectors, or cosines (N, C) without, against class indices (N,)."""

    output = "embedding"
    given = ("weight",)
    scale: float = number(64.0, low=0, open_low=True, doc="s: what cosines are multiplied by")
    classes: int = whole(0, doc="how many class vectors the loss holds; 0: it holds none, and the input is cosines (N, C)")
    dim: int = whole(0, doc="width of the embeddings, and so of the class vectors")

    # -- what a loss file writes -------------------------------------------------------------------------------------------------------

    def raised(self, c: Tensor, sine: Tensor) -> Tensor:
        """φ: the true class's cosine made worse by the margin; `sine` of the same angle, in [0, 1]."""
        raise NotImplementedError

    # -- the rest holds for both -------------------------------------------------------------------------------------------------------

    lasting = ("classes", "dim")

    @override
    def setup(self) -> None:
        both = (self.classes >= 2 and self.dim >= 1) or (self.classes == 0 and self.dim == 0)
        got = f"classes={self.classes} and dim={self.dim}"
        must(both, "classes >= 2 and dim >= 1, or neither is given", got, "classes=10, dim=64 is an example", where=self.name)
        if self.classes:
            self.weight = nn.Parameter(unit(torch.randn(self.classes, self.dim)))
        else:
            self.register_parameter("weight", None)

    @override
    def width(self, input: Tensor) -> int:
        given = 0 if self.class_weight is None else self.class_weight.shape[0]  # looked at in `logits`, as `classes` may be in the call
        return self.classes or given or super().width(input)

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        must(input.ndim in {1, 2}, "the input is (N, D) or (N, C)", tuple(input.shape), "write input.flatten(1)", where=self.name)
        return super().shape(input, target)

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        """Labels and cosines are looked at in `logits`, which knows the class vectors."""

    @override
    def terms(self, input: Tensor, target: Tensor, keep: Tensor | None, own: Tensor | None, **given: Any) -> tuple[Tensor, Tensor | None]:
        return super().terms(self.logits(input, target, given.get("weight")), target, keep, own)

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(input, target.long(), reduction="none")

    def logits(self, input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """What goes to the softmax: s φ(c_y) at the true class, s c_j elsewhere."""
        weight = self.weight if weight is None else weight
        if weight is not None:
            self._check_weight(input, weight)
        classes = super().width(input) if weight is None else weight.shape[0]
        if self.class_weight is not None:
            law, got = f"class_weight has the shape ({classes},)", tuple(self.class_weight.shape)
            must(got == (classes,), law, got, "one weight a class", where=self.name)
        look = self.validate and readable(input, target)
        if look:
            in_range(target, classes, self.name)
        y = target.long().unsqueeze(-1)
        if weight is None:
            if look and input.numel() and bool((input.detach().abs() > _ONE).any()):
                got = f"values up to {float(input.detach().abs().max()):g}"
                advice = "give classes and dim to hold class vectors, or weight=(classes, dim)"
                refuse("the input is cosines in [−1, 1] where the loss has no class vectors", got, advice, where=self.name)
            cosines = input.clamp(-1, 1)
            c = cosines.gather(-1, y)
            sine = root((1 - c) * (1 + c))
        else:
            with torch.autocast(input.device.type, enabled=False):
                x, w = unit(input), unit(wide(weight).to(input.dtype))
                cosines = x @ w.mT
                c = cosines.gather(-1, y)
                own = w[y.squeeze(-1)]
                apart = (x - c * own).square().sum(-1, keepdim=True)
                sine = root(torch.where(apart > (4 * torch.finfo(x.dtype).eps) ** 2, apart, 0))
        at_true = torch.arange(classes, device=input.device) == y
        return self.scale * torch.where(at_true, self.raised(c, sine), cosines)

    def _check_weight(self, input: Tensor, weight: Tensor) -> None:
        law = f"the class vectors are (classes, {input.shape[-1]}), as wide as the embeddings"
        must(weight.ndim == 2 and weight.shape[1] == input.shape[-1], law, tuple(weight.shape), where=self.name)

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        return self._mean(*self._terms(input, target, None, None))

    @override
    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss, reduced as `reduction` says; see `Loss.forward` for `sample_weight` and `mask`.

        `weight`: class vectors (classes, D) to use in place of the loss's own.
        """
        return self._reduce(*self._terms(input, target, sample_weight, mask, weight=weight))
