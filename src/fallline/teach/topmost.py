"""The top of the chain: the loss of the prediction and its derivative, in closed form where the loss is a known one.

δ = ∂L/∂ŷ        MSE: 2(ŷ − y)/n        BCE from logits: (σ(z) − y)/n        cross-entropy: (softmax(z) − onehot(y))/N
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fallline._core.errors import FalllineError
from fallline.teach.steps import LossPart

Closed = Callable[[Tensor, Tensor], Tensor]
_TORCH_NAMES = {
    "mse_loss": "mse",
    "l1_loss": "mae",
    "binary_cross_entropy": "bce",
    "binary_cross_entropy_with_logits": "bce_logits",
    "cross_entropy": "ce",
    "nll_loss": "nll",
    "MSELoss": "mse",
    "L1Loss": "mae",
    "BCELoss": "bce",
    "BCEWithLogitsLoss": "bce_logits",
    "CrossEntropyLoss": "ce",
    "NLLLoss": "nll",
}
_OURS = {"mse": "mse", "mae": "mae", "cross_entropy": "ce", "binary_cross_entropy": "bce_logits"}


def _onehot(z: Tensor, y: Tensor) -> Tensor:
    if y.is_floating_point():
        return y
    return functional.one_hot(y.long(), z.shape[1]).movedim(-1, 1).to(z.dtype)


# kind -> (formula, derivative, closed form of a mean over n entries or N examples)
_KINDS: dict[str, tuple[str, str, Closed]] = {
    "mse": ("mean (ŷ − y)²", "2 (ŷ − y) / n", lambda p, y: 2 * (p - y) / p.numel()),
    "half": ("Σ (ŷ − y)² / 2", "ŷ − y", lambda p, y: p - y),
    "mae": ("mean |ŷ − y|", "sign(ŷ − y) / n", lambda p, y: torch.sign(p - y) / p.numel()),
    "bce": (
        "−mean [y log ŷ + (1 − y) log(1 − ŷ)]",
        "(ŷ − y) / (ŷ (1 − ŷ)) / n",
        lambda p, y: (p - y) / (p * (1 - p)) / p.numel(),
    ),
    "bce_logits": ("−mean [y log σ(z) + (1 − y) log(1 − σ(z))]", "(σ(z) − y) / n", lambda p, y: (torch.sigmoid(p) - y) / p.numel()),
    "ce": (
        "−mean log softmax(z)[y]",
        "(softmax(z) − onehot(y)) / n",
        lambda p, y: (torch.softmax(p, 1) - _onehot(p, y)) / (p.numel() / p.shape[1]),
    ),
    "nll": ("−mean z[y]", "−onehot(y) / n", lambda p, y: -_onehot(p, y) / (p.numel() / p.shape[1])),
}


def build(loss: Any) -> tuple[Callable[[Tensor, Tensor], Any], str]:
    """The loss as a callable in float64 that leaves the user's own object alone, and its name."""
    if isinstance(loss, str):
        from fallline import losses

        built = losses.build(loss)
        return copy.deepcopy(built).double().to("cpu"), loss
    if isinstance(loss, nn.Module):
        return copy.deepcopy(loss).to("cpu").double().eval(), type(loss).__name__
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        raise FalllineError(f"`loss` must be a loss, but got the class {loss.__name__}; write {loss.__name__}().")
    if not callable(loss):
        raise FalllineError(f"`loss` must be a callable or the name of a loss, but got {type(loss).__name__}; 'mse' is one.")
    name = getattr(loss, "__name__", type(loss).__name__)
    return loss, "your loss" if name == "<lambda>" else name


def fit_target(loss: Any, out: Tensor, y: Tensor, single: bool) -> tuple[Tensor, Tensor]:
    """Output and target in the shapes that the loss takes: (N,) against (N, 1), integers to real numbers where they are values."""
    ours = type(loss).__module__.startswith("fallline.losses")
    classes = out.dim() >= 2 and out.shape[1] > 1 and tuple(y.shape) == (out.shape[0], *out.shape[2:])
    if single and not classes and tuple(y.shape) != tuple(out.shape) and y.numel() == out.numel():
        y = y.reshape(out.shape)
    if tuple(out.shape[1:]) == (1,) and y.numel() == out.numel():
        known = ours or type(loss).__module__.startswith("torch.") or getattr(loss, "__module__", "") == "torch.nn.functional"
        if ours and y.dim() <= 2:
            return out.squeeze(1), y.reshape(-1)
        if known and y.shape != out.shape:
            y = y.reshape(out.shape)
    if not y.is_floating_point() and y.shape == out.shape and not ours:
        y = y.double()
    return out, y


def measure(function: Callable[[Tensor, Tensor], Any], out: Tensor, y: Tensor) -> Tensor:
    """The loss as one number in the graph, or the sentence that says why it is not."""
    if y.dim() and out.dim() and y.shape[0] != out.shape[0]:
        raise FalllineError(
            f"`len(y) == len(x)` must hold, but y has {y.shape[0]} rows and the model gave {out.shape[0]}; give one target an example."
        )
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")
            value = _wide_or_narrow(function, out, y)
    except FalllineError:
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise FalllineError(
            f"the loss does not fit the model's output of shape {tuple(out.shape)} and y of shape {tuple(y.shape)} "
            f"({str(y.dtype).removeprefix('torch.')}): {text}."
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise FalllineError(f"the loss must return one number, but it returned {got}; take its mean or sum, e.g. reduction='mean'.")
    if not value.requires_grad:
        raise FalllineError("the loss does not depend on the model's output through differentiable code; do not detach or round it.")
    return value.reshape(())


def _wide_or_narrow(function: Callable[[Tensor, Tensor], Any], out: Tensor, y: Tensor) -> Any:
    """The loss in float64, or in float32 where it holds float32 tensors of its own (class weights in a lambda)."""
    try:
        return function(out, y)
    except RuntimeError as error:
        if ("Double" not in str(error) and "dtype" not in str(error)) or out.dtype != torch.float64:
            raise
        return function(out.float(), y.float() if y.is_floating_point() else y)


def describe(loss: Any, name: str, value: Tensor, out: Tensor, y: Tensor, delta: Tensor) -> LossPart:
    """The loss part of the trace; the closed form is shown only where it gives autograd's number."""
    own = getattr(loss, "name", None) if type(loss).__module__.startswith("fallline.") else None
    key = _OURS.get(str(own)) if own else _TORCH_NAMES.get(type(loss).__name__, _TORCH_NAMES.get(name))
    shown, target = out.detach(), y.detach()
    candidates = [key] if key else ["half", "mse"] if shown.shape == target.shape else []
    for kind in candidates:
        formula, derivative, closed = _KINDS[str(kind)]
        try:
            own_delta = closed(shown, target)
        except (RuntimeError, IndexError):
            continue
        error = relative(own_delta, delta)
        if error < 1e-9 and (key or _is_square(str(kind), shown, target, value)):
            if shown.numel() == 1:
                formula, derivative = formula.replace("mean ", "").replace("Σ ", ""), derivative.replace(" / n", "")
            return LossPart(name, formula, derivative, float(value.detach()), shown, target, own_delta, error, True)
    return LossPart(name, "L(ŷ, y)", "by autograd", float(value.detach()), shown, target, delta, 0.0, False)


def _is_square(kind: str, shown: Tensor, target: Tensor, value: Tensor) -> bool:
    """Whether a loss written by hand is half the sum of squares, or their mean."""
    share = 0.5 if kind == "half" else 1 / shown.numel()
    return bool(torch.isclose(((shown - target) ** 2).sum() * share, value.detach()))


def relative(own: Tensor, auto: Tensor) -> float:
    """Largest difference over the largest entry; 0 where both are equal, infinite entries included."""
    if own.shape != auto.shape:
        return float("inf")
    if torch.equal(own, auto):
        return 0.0
    gap = torch.where((own == auto) | (own.isnan() & auto.isnan()), torch.zeros_like(own), (own - auto).abs())
    if gap.numel() == 0 or not bool((gap > 0).any() or gap.isnan().any()):
        return 0.0
    size = float(torch.maximum(own.abs(), auto.abs()).nan_to_num().max())
    return float(gap.max()) / size if size > 0 else float("inf")
