"""The last linear layer and cross-entropy in one, so that the logits of all tokens and classes never stand in memory together.

    z = W x + b                        the logits of one token, made and used a block of tokens at a time
    ℓ = −Σ t_c log softmax(z)_c + λ lse(z)²        t: one class, or a distribution; λ: z_loss
    t ← (1 − ε) t + ε / C              label smoothing ε
    z ← κ tanh(z / κ)                  with a softcap κ
    mean = Σ w ℓ / Σ w                 w = class weight of the target, times the sample weight

When to use: many classes (a vocabulary, a catalogue): logits of 4096 tokens and 50,000 classes take 0.8 GB, their gradient as much again.
When not: few classes, where the logits are small, or where they are needed anyway: then cross_entropy, whose values are the same.
Source: Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024, section 3.2 (gradients found in the forward pass, in
blocks). https://arxiv.org/abs/2410.10989
z_loss: Chowdhery et al., "PaLM", 2022, section 5. softcap: Gemma Team, "Gemma 2", 2024, section 2.
Departs from the source: the gradients have buffers of their own, so nothing given is overwritten; 16-bit inputs are computed in float32,
the gradient of the weight too; z_loss weighs what the rest of an example weighs; a second backward and second derivatives recompute.
With label smoothing and class weights the weight is the target's own, as in cross_entropy; torch smooths the weights too (pytorch#104776).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._base import Loss, wide
from fallline.losses._checks import distribution, in_range
from fallline.losses._fields import number, vector, whole
from fallline.losses.large._blocks import How, Layer, rows_of
from fallline.losses.large._functions import rows, total

_INDEX = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Headed(Loss):
    """What the module and the function share: tokens (..., D) against class indices (...) or distributions (..., C), given W and b."""

    name = "linear_cross_entropy"
    tasks = frozenset()
    target_kind = "index"
    output = "features"
    needs = "the features before the last layer, which it holds itself"
    class_weight: Tensor | None = vector(doc="(C,): how much examples of each class count in the mean")
    ignore_index: int = whole(-100, doc="a label that marks an example to leave out")
    label_smoothing: float = number(0.0, low=0, high=1, open_high=True, usual="0.1", doc="mass spread evenly over all classes")
    z_loss: float = number(0.0, low=0, usual="1e-4", doc="price of the squared log-sum-exp, which keeps logits from drifting")
    softcap: float = number(0.0, low=0, usual="30", doc="bound of the logits, by tanh; 0 for none")
    block: int = whole(0, doc="tokens a block; 0 lets the sizes decide")
    weight: Tensor
    bias: Tensor | None

    @override
    def setup(self) -> None:
        must(self.block >= 0, "block >= 0", self.block, "0 lets the sizes decide", where=self.name)

    # -- what fits ---------------------------------------------------------------------------------------------------------------------

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        must(self.weight.ndim == 2, "the weight is (C, D)", tuple(self.weight.shape), where=self.name)
        classes, features = self.weight.shape
        if input.ndim < 1 or input.shape[-1] != features:
            advice = "give the features before the last layer, not its logits" if input.shape[-1:] == (classes,) else ""
            refuse(f"the input is (..., {features})", tuple(input.shape), advice, where=self.name)
        if self.bias is not None:
            must(self.bias.shape == (classes,), f"the bias is ({classes},)", tuple(self.bias.shape), where=self.name)
        for what, held in (("weight", self.weight), ("bias", self.bias)):
            if held is not None and held.device != input.device:
                advice = f"write {what}.to(input.device), or loss.to(input.device) of the module"
                refuse(f"the {what} is on the input's device, {input.device}", held.device, advice, where=self.name)
            if held is not None and wide(held).dtype != input.dtype:
                refuse(
                    f"input and {what} have one type", f"{input.dtype} and {held.dtype}", f"write {what}.to(input.dtype)", where=self.name
                )
        if self.class_weight is not None:
            given = tuple(self.class_weight.shape)
            must(given == (classes,), f"class_weight has the shape ({classes},)", given, "one weight a class", where=self.name)
        if target.is_floating_point():
            fits = (*input.shape[:-1], classes)
            law = f"a target of distributions is {fits}; class indices are whole numbers"
            must(target.shape == fits, law, f"{target.dtype} {tuple(target.shape)}", "write target.long()", where=self.name)
            return input.shape[:-1]
        must(target.dtype in _INDEX, "the target is class indices", target.dtype, "write target.long()", where=self.name)
        if target.shape != input.shape[:-1]:
            advice = "write target.squeeze(-1)" if target.shape == (*input.shape[:-1], 1) else ""
            refuse(f"the target has the shape {tuple(input.shape[:-1])}", tuple(target.shape), advice, where=self.name)
        return target.shape

    @override
    def kept(self, input: Tensor, target: Tensor) -> Tensor | None:
        return None if target.is_floating_point() else target != self.ignore_index

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        soft = target.is_floating_point()
        harmless = torch.where(keep[..., None], target, 1.0 / max(target.shape[-1], 1)) if soft else torch.where(keep, target, 0)
        return torch.where(keep[..., None], input, 0.0), harmless

    @override
    def check_values(self, input: Tensor, target: Tensor) -> None:
        if target.is_floating_point():
            distribution(target, "target", self.name)
        else:
            in_range(target, self.weight.shape[0], self.name)

    # -- the loss ----------------------------------------------------------------------------------------------------------------------

    @override
    def weights(self, input: Tensor, target: Tensor) -> Tensor | None:
        if self.class_weight is None:
            return None
        heavy = self.class_weight.to(input.dtype)
        if not target.is_floating_point():
            return heavy[target.long()]
        with torch.autocast(input.device.type, enabled=False):  # which would round the product to 16 bits
            return target @ heavy

    @override
    def values(self, input: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return rows(*self._flat(input, target)).reshape(input.shape[:-1])

    @override
    def terms(self, input: Tensor, target: Tensor, keep: Tensor | None, own: Tensor | None, **given: Any) -> tuple[Tensor, Tensor | None]:
        """Values and weights; with `reduced` "mean" or "sum", the reduced value and the count in their place."""
        reduced = given.get("reduced")
        if reduced is None:
            return super().terms(input, target, keep, own)
        each = input.new_ones(input.shape[:-1])
        weight = self.weights(input, target)
        if own is not None:
            weight = own if weight is None else own * weight
        if keep is not None:
            weight = torch.where(keep, each if weight is None else weight, 0)
        count = self._count(each, weight, keep)
        count = count if isinstance(count, Tensor) else torch.full_like(each[..., :0].sum(), count)
        scale = each if weight is None else weight
        if reduced == "mean":
            scale = scale / torch.where(count == 0, 1, count)
        layer, flat, how = self._flat(input, target)
        with torch.autocast(input.device.type, enabled=False):
            return total(layer, flat, scale.reshape(-1), None if keep is None else keep.reshape(-1), how), count

    def _flat(self, input: Tensor, target: Tensor) -> tuple[Layer, Tensor, How]:
        classes, features = self.weight.shape
        tokens = math.prod(input.shape[:-1])
        soft = target.is_floating_point()
        layer = Layer(input.reshape(tokens, features), wide(self.weight), None if self.bias is None else wide(self.bias))
        size = rows_of(tokens, classes, input.element_size(), self.block)
        how = How(self.label_smoothing, self.z_loss, self.softcap, max(size, 1))
        return layer, target.reshape(tokens, classes) if soft else target.reshape(tokens).long(), how

    # -- what a user calls -------------------------------------------------------------------------------------------------------------

    @override
    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The loss of tokens (..., D), reduced as `reduction` says; see `Loss.forward` for `sample_weight` and `mask`."""
        if self.reduction == "none":
            return self.per_example(input, target, sample_weight=sample_weight, mask=mask)
        return self._terms(input, target, sample_weight, mask, reduced=self.reduction)[0]

    @override
    def sum_and_count(
        self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum and what the mean divides it by; both add up over micro-batches and ranks."""
        found, count, _ = self._terms(input, target, sample_weight, mask, reduced="sum")
        assert count is not None
        return found, count

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        return self._terms(input, target, None, None, reduced="mean")[0]


class LinearCrossEntropy(Headed):
    """The last layer of a model and its cross-entropy: holds `weight` (classes, in_features) and `bias`, as `nn.Linear` does.

    `loss(features, target)` trains, `loss.logits(features)` predicts. For a weight that lives elsewhere (tied to an embedding) write
    `functional.linear_cross_entropy(features, embedding.weight, target)`.

    >>> loss = LinearCrossEntropy(8, 1000, label_smoothing=0.1)
    >>> loss(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.long)).shape
    torch.Size([])
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        must(in_features >= 1, "in_features >= 1", in_features, where=self.name)
        must(classes >= 1, "classes >= 1", classes, where=self.name)
        self.in_features, self.classes = in_features, classes
        like_torch = nn.Linear(in_features, classes, bias, device, dtype)
        self.weight = like_torch.weight
        self.register_parameter("bias", like_torch.bias)

    def logits(self, input: Tensor) -> Tensor:
        """What the layer says of tokens (..., in_features): (..., classes), within the softcap where there is one."""
        z = F.linear(input, self.weight.to(input.dtype), None if self.bias is None else self.bias.to(input.dtype))
        return self.softcap * torch.tanh(z / self.softcap) if self.softcap else z

    @override
    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, classes={self.classes}, bias={self.bias is not None}"
        return ", ".join(filter(None, (sizes, super().extra_repr())))


class _Tied(Headed):
    """The same for a weight that lives elsewhere."""

    def __init__(self, weight: Tensor, bias: Tensor | None, **options: Any) -> None:
        super().__init__(**options)
        self.__dict__["weight"] = weight  # no parameter of this module: it is the caller's
        self.__dict__["bias"] = bias


def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    softcap: float | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalize: str = "weight",
    block: int | None = None,
    validate: bool = True,
) -> Tensor:
    """Cross-entropy of `input @ weight.T + bias`, whose logits never stand in memory together; see `LinearCrossEntropy`.

    `input` (..., D), `weight` (C, D), `target` (...) class indices or (..., C) distributions, `bias` (C,).

    >>> from fallline.losses import functional
    >>> functional.linear_cross_entropy(torch.zeros(3, 8), torch.zeros(4, 8), torch.tensor([0, 1, 3]))
    tensor(1.3863)
    """
    for what, given in (("weight", weight), *(() if bias is None else (("bias", bias),))):
        must(isinstance(given, Tensor), f"{what} is a tensor", type(given).__name__, where="linear_cross_entropy")
    loss = _Tied(
        weight,
        bias,
        label_smoothing=label_smoothing,
        class_weight=class_weight,
        ignore_index=ignore_index,
        z_loss=z_loss,
        softcap=softcap or 0.0,
        block=block or 0,
        reduction=reduction,
        normalize=normalize,
        validate=validate,
    )
    return loss(input, target, sample_weight=sample_weight, mask=mask)
