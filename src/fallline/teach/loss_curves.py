"""The picture of a loss: what one example costs, and the slope of that, against the one number that decides.

That number is the output less the target, a logit, a score over another; between embeddings a distance, a cosine or an angle. The
loss itself is called, on the smallest batch that has the number in it.
"""

from collections.abc import Callable
from math import pi
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fallline._core.errors import FalllineError
from fallline.teach.lines import Curves, pair

F1 = Callable[[Tensor], Tensor]
NEGATIVES = 7  # that a positive is told from, in the pictures of InfoNCE and SupCon
NEARLY = -0.995, 0.995  # cosines; at the very ends a small step of one embedding does not change them


def _zeros(x: Tensor, width: int) -> Tensor:
    return x.new_zeros(len(x), width)


def _columns(x: Tensor, width: int) -> Tensor:
    """Scores (N, width) whose first column is x and the rest 0."""
    return torch.cat([x[:, None], _zeros(x, width - 1)], 1)


def _turned(cosine: Tensor) -> Tensor:
    """Unit vectors (N, 2) at that cosine to (1, 0)."""
    return torch.stack([cosine, (1 - cosine * cosine).clamp_min(1e-12).sqrt()], -1)


def _ahead(x: Tensor, width: int) -> Tensor:
    """The vector (1, 0, ...) for each of x, (N, width)."""
    return _columns(torch.ones_like(x), width)


def _by_one(function: F1) -> F1:
    """A function of a 0-d tensor, at each number of a tensor."""
    return lambda x: torch.stack([function(v) for v in x])


# -- between embeddings --------------------------------------------------------------------------------------------------------------------


def _triplet(each: Any) -> Curves:
    def value(gap: Tensor) -> Tensor:
        places = torch.stack([torch.zeros_like(gap), torch.ones_like(gap), 1 + gap], 1)
        return each(places[..., None])

    label = "distance to the negative − distance to the positive"
    return Curves("triplet: what one triplet costs", label, "", pair("", value, -0.99, 1))


def _contrastive(each: Any) -> Curves:
    def at(kind: int) -> F1:
        return lambda d: each(torch.stack([torch.zeros_like(d), d], 1)[..., None], torch.full_like(d, kind, dtype=torch.int64))

    lines = pair(", similar (Y = 0)", at(0), 0.005, 2.0) + pair(", not similar (Y = 1)", at(1), 0.005, 2.0, second=True)
    return Curves("contrastive: what one pair costs", "distance of the two embeddings", "", lines)


def _cosine_embedding(each: Any) -> Curves:
    def at(kind: int) -> F1:
        return lambda c: each(_ahead(c, 2), _turned(c), torch.full_like(c, kind, dtype=torch.int64))

    lines = pair(", similar (y = 1)", at(1), *NEARLY) + pair(", not similar (y = −1)", at(-1), *NEARLY, second=True)
    return Curves("cosine_embedding: what one pair costs", "cosine of the two embeddings", "", lines)


def _cosine_similarity(each: Any) -> Curves:
    def value(angle: Tensor) -> Tensor:
        return each(torch.stack([angle.cos(), angle.sin()], -1), _ahead(angle, 2))

    title = "cosine_similarity: what one vector costs"
    return Curves(title, "angle between output and target, in radians", "", pair("", value, -pi, pi))


def _positive(make: Callable[[float], Any], name: str, sharp: float, soft: float, *, several: bool = False) -> Curves:
    """One anchor, its positive at cosine c (and another at 0.5), the negatives at a right angle to them."""
    more = [0] if several else []
    labels = torch.tensor([0, 0, *more, *range(1, NEGATIVES + 1)])
    apart = torch.eye(NEGATIVES + 2, dtype=torch.float64)[2:]
    if several:
        apart = torch.cat([F.pad(_turned(apart.new_tensor([0.5])), (0, NEGATIVES)), apart])

    def at(temperature: float) -> F1:
        each = make(temperature)

        def value(cosine: Tensor) -> Tensor:
            near = F.pad(_turned(cosine[None])[0], (0, NEGATIVES))
            return each(torch.cat([_ahead(cosine[None], NEGATIVES + 2), near[None], apart]), labels)[0]

        return _by_one(value)

    lines = pair(f", τ = {sharp:g}", at(sharp), *NEARLY) + pair(f", τ = {soft:g}", at(soft), *NEARLY, second=True)
    label = f"cosine of anchor and {'one positive, the other at 0.5' if several else 'positive'}, {NEGATIVES} negatives at cosine 0"
    return Curves(f"{name}: what one anchor costs", label, "", lines)


def _sig_lip(each: Any) -> Curves:
    alone = torch.ones(1, 2, dtype=torch.float64)

    def match(cosine: Tensor) -> Tensor:
        return each(_ahead(cosine[None], 2), _turned(cosine[None]))[0]

    def other(cosine: Tensor) -> Tensor:
        x = torch.cat([_ahead(cosine[None], 2), alone])
        y = torch.cat([_ahead(cosine[None], 2), _turned(cosine[None])])
        return each(x, y)[0] - match(torch.ones_like(cosine))

    lines = pair(", belonging together", _by_one(match), *NEARLY) + pair(", not belonging together", _by_one(other), *NEARLY, second=True)
    return Curves("sig_lip: what one pair costs at the start (t = 10, b = −10)", "cosine of the two embeddings", "", lines)


def _cross_modal_ranking(each: Any) -> Curves:
    def value(gap: Tensor) -> Tensor:
        x = torch.stack([_ahead(gap[None], 3)[0], gap.new_tensor([0.0, 0.0, 1.0])])
        y = torch.stack([gap.new_tensor([0.5, 0.75**0.5, 0.0]), F.pad(_turned(gap[None] + 0.5)[0], (0, 1))])
        return each(x, y)[0]

    title = "cross_modal_ranking: what one negative costs"
    return Curves(title, "cosine of the negative − cosine of the pair that belongs together", "", pair("", _by_one(value), -1, 0.49))


def _margin(make: Callable[[float], Any], name: str) -> Curves:
    def at(margin: float) -> F1:
        each = make(margin)
        return lambda angle: each(torch.stack([angle.cos(), torch.zeros_like(angle)], -1), torch.zeros(len(angle), dtype=torch.int64))

    usual = make(-1.0).margin
    lines = pair(f", margin {usual:g}", at(usual), 0.02, pi - 0.02) + pair(", no margin", at(0.0), 0.02, pi - 0.02, second=True)
    label = "angle to the true class's vector, in radians; the other at π/2"
    return Curves(f"{name}: what one embedding costs, scale 64", label, "", lines)


# -- between examples, and in order --------------------------------------------------------------------------------------------------------


def _pairwise_auc(make: Callable[[bool], Any]) -> Curves:
    def at(squared: bool) -> F1:
        each = make(squared)
        return _by_one(lambda gap: each(torch.stack([gap, torch.zeros_like(gap)]), torch.tensor([1, 0])).sum())

    lines = pair(", squared", at(True), -2, 2) + pair(", plain", at(False), -2, 2, second=True)
    return Curves("pairwise_auc: what one pair costs", "score of the positive − score of the negative", "", lines)


def _coral(each: Any) -> Curves:
    def at(label: int) -> F1:
        return lambda x: each(x[:, None], torch.full((len(x),), label))

    lines = pair(", label above", at(1), -6, 6) + pair(", label not above", at(0), -6, 6, second=True)
    return Curves("coral: what one question, is the label above class k, costs", "logit of the question", "", lines)


# -- one number, beside what it is usually compared with -----------------------------------------------------------------------------------


def _quantile(make: Callable[[float], Any], q: float) -> Curves:
    def at(q: float) -> F1:
        each = make(q)
        return lambda e: each(torch.zeros_like(e), e)

    beside = 0.9 if q == 0.5 else 0.5
    lines = pair(f", q = {q:g}", at(q), -3, 3) + pair(f", q = {beside:g}", at(beside), -3, 3, second=True)
    return Curves("quantile: what one example costs", "e = target − output", "", lines)


def _focal(make: Callable[[float], Any], gamma: float) -> Curves:
    def at(gamma: float) -> F1:
        each = make(gamma)
        return lambda x: each(_columns(x, 2), torch.zeros(len(x), dtype=torch.int64))

    beside, what = (0.0, " (cross_entropy)") if gamma else (2.0, "")
    lines = pair(f", γ = {gamma:g}", at(gamma), -6, 6) + pair(f", γ = {beside:g}{what}", at(beside), -6, 6, second=True)
    return Curves("focal: what one example costs", "score of the true class over the other", "", lines)


# -- pictures, layers, tasks ---------------------------------------------------------------------------------------------------------------


def _overlap(each: Any, name: str) -> Curves:
    def at(label: int) -> F1:
        def value(p: Tensor) -> Tensor:
            rest = p.new_tensor([0.9, 0.1, 0.1]).expand(len(p), 3)
            labels = torch.tensor([label, 1, 0, 0]).expand(len(p), 4)
            return each(torch.cat([p[:, None], rest], 1), labels)

        return value

    lines = pair(", pixel inside the mask", at(1), 0, 1) + pair(", pixel outside", at(0), 0, 1, second=True)
    label = "probability of one pixel of four; the others 0.9 (inside), 0.1 and 0.1"
    return Curves(f"{name}: what one picture costs", label, "", lines)


def _linear_cross_entropy() -> Curves:
    from fallline.losses.functional import linear_cross_entropy

    def value(x: Tensor) -> Tensor:
        layer = torch.eye(2, dtype=x.dtype)
        return linear_cross_entropy(_columns(x, 2), layer, torch.zeros(len(x), dtype=torch.int64), reduction="none")

    label = "feature of the true class over the other, layer W = I"
    return Curves("linear_cross_entropy: what one token costs", label, "", pair("", value, -6, 6))


def _multi_task() -> Curves:
    from fallline.losses.combined.uncertainty import FORMS

    def at(form: str) -> F1:
        scale, share = FORMS[form]
        return lambda log_noise: scale * (-log_noise).exp() + share * log_noise

    lines = pair(", a regression", at("regression"), -2, 3) + pair(", a classification", at("classification"), -2, 3, second=True)
    title = 'multi_task, weighting="uncertainty": what a task with the loss 1 adds to the total'
    return Curves(title, "log of the task's noise s²", "", lines)


# -- one example ---------------------------------------------------------------------------------------------------------------------------


def _alone(name: str, loss: Any) -> Curves:
    """A loss of one number or one row of scores."""
    kind, title = loss.target_kind, f"{name}: what one example costs"

    def at(make_input: F1, target: F1) -> F1:
        return lambda x: loss.per_example(make_input(x), target(x)).reshape(len(x), -1).sum(1)

    def flat(x: Tensor) -> Tensor:
        return x

    def full(value: float) -> F1:
        return lambda x: torch.full_like(x, value)

    if loss.output == "mean_and_variance":
        ahead = at(lambda x: torch.stack([x, torch.zeros_like(x) + 1.0], -1), torch.zeros_like)
        return Curves(title, "mean predicted, target 0, second output 1", "", pair("", ahead, -3, 3))
    if kind in {"above_minus_one", "count", "nonnegative"}:
        low = -0.9 if kind == "above_minus_one" else -2.0
        return Curves(title, "output, target 2", "", pair("", at(flat, full(2.0)), low, 5))
    if kind == "real":
        return Curves(title, "output − target", "", pair("", at(flat, torch.zeros_like), -3, 3))
    if kind == "binary":
        low, high = (0.01, 0.99) if loss.output == "probability" else (-6.0, 6.0)
        lines = pair(", label 1", at(flat, torch.ones_like), low, high)
        return Curves(title, loss.output, "", lines + pair(", label 0", at(flat, torch.zeros_like), low, high, second=True))
    if kind == "signed":
        return Curves(title, "score × label", "", pair("", at(flat, torch.ones_like), -3, 3))
    if kind == "index":
        right = at(lambda x: _columns(x, 2), lambda x: torch.zeros(len(x), dtype=torch.int64))
        return Curves(title, "score of the true class over the other", "", pair("", right, -6, 6))
    if kind == "distribution":
        target = torch.tensor([0.7, 0.3], dtype=torch.float64)
        right = at(lambda x: _columns(x, 2), lambda x: target.expand(len(x), 2))
        return Curves(title, "score of the first class over the other, target 0.7 and 0.3", "", pair("", right, -6, 6))
    raise FalllineError(f"the loss {name} is no function of one number, so it has no curve; `fallline explain {name}` tells its formula.")


def loss_curves(name: str, **options: Any) -> Curves:
    """The picture of a loss by its name, with the options that are given.

    Raises:
        FalllineError: the loss is no function of one number, or is drawn with no such options.
    """
    from fallline.losses import build

    options.pop("reduction", None)
    if options and name in {"linear_cross_entropy", "multi_task"}:
        raise FalllineError(f"{name} is drawn as it is usual, without options; leave {', '.join(options)} out.")

    def made(**further: Any) -> Any:
        return build(name, **{**further, **options, "reduction": "none"})

    def at(**further: Any) -> Any:
        return build(name, **{**options, **further, "reduction": "none"})

    def usual(option: str) -> float:
        return getattr(made(), option)

    drawn: dict[str, Callable[[], Curves]] = {
        "triplet": lambda: _triplet(made()),
        "contrastive": lambda: _contrastive(made()),
        "cosine_embedding": lambda: _cosine_embedding(made()),
        "cosine_similarity": lambda: _cosine_similarity(made()),
        "info_nce": lambda: _positive(lambda t: at(temperature=t), name, usual("temperature"), 0.5),
        "sup_con": lambda: _positive(lambda t: at(temperature=t), name, usual("temperature"), 0.5, several=True),
        "sig_lip": lambda: _sig_lip(made()),
        "cross_modal_ranking": lambda: _cross_modal_ranking(made(symmetric=False)),
        "arc_face": lambda: _margin(lambda m: made() if m < 0 else at(margin=m), name),
        "cos_face": lambda: _margin(lambda m: made() if m < 0 else at(margin=m), name),
        "pairwise_auc": lambda: _pairwise_auc(lambda squared: at(squared=squared)),
        "quantile": lambda: _quantile(lambda q: at(q=q), usual("q")),
        "focal": lambda: _focal(lambda gamma: at(gamma=gamma), usual("gamma")),
        "coral": lambda: _coral(made()),
        "dice": lambda: _overlap(made(input_from="probabilities", over="example"), name),
        "tversky": lambda: _overlap(made(input_from="probabilities", over="example"), name),
        "linear_cross_entropy": _linear_cross_entropy,
        "multi_task": _multi_task,
    }
    picture = drawn[name]() if name in drawn else _alone(name, build(name, **options))
    shown = ", ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in options.items())
    return picture._replace(title=f"{picture.title} ({shown})") if shown else picture
