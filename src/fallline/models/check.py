"""One batch through a model, before any time is spent: what comes out must have the shape that the loss needs."""

import copy
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fallline._core.errors import FalllineError
from fallline.models.initial import refuse_zeros, seeded
from fallline.models.user_file import told


def check_output(model: nn.Module, x_batch: Tensor, outputs: int, *, advice: str = "") -> None:
    """Refuse a model that fails on a batch, or gives another shape than (rows, outputs); (rows,) is accepted for one output.

    The model is run in evaluation mode and left as it was, torch's random state too.

    Raises:
        FalllineError: an exception inside the model (says where), a wrong shape (says expected and got), values that are no floating
            numbers or not finite, weights that are all zero, or an output from which no gradient comes back.

    >>> check_output(nn.Linear(4, 2), torch.zeros(3, 4), 3)
    Traceback (most recent call last):
        ...
    fallline._core.errors.FalllineError: the model must give shape (3, 3) for 3 rows, but it gave (3, 2); make its last layer 3 wide.
    """
    refuse_zeros(model)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    place = next((p.device for p in model.parameters()), x_batch.device)
    try:
        with torch.enable_grad(), seeded(0):
            found = model(x_batch.to(place))
    except FalllineError:
        raise
    except Exception as error:
        told(error, _file_of(model), f"the model ({type(model).__name__}), run on {len(x_batch)} rows of shape {tuple(x_batch.shape[1:])},")
    finally:
        for module, training in modes:
            module.training = training
    if not isinstance(found, Tensor):
        advice = "; return its first part alone" if isinstance(found, (tuple, list)) and len(found) else ""
        raise FalllineError(f"the model must give one tensor, but it gave a {type(found).__name__}{advice}.")
    rows = len(x_batch)
    shape = tuple(found.shape)
    if shape != (rows, outputs) and not (outputs == 1 and shape == (rows,)):
        wanted = f"({rows}, {outputs})"
        raise FalllineError(
            f"the model must give shape {wanted} for {rows} rows, but it gave {shape}; make its last layer {outputs} wide{advice}."
        )
    if not found.is_floating_point():
        raise FalllineError(f"the model must give floating numbers, but it gave {found.dtype}; leave argmax and rounding to fallline.")
    if not bool(found.isfinite().all()):
        raise FalllineError(
            "the model gives NaN or infinity before any training; look at its initial weights and at divisions and logarithms in forward()."
        )
    if any(p.requires_grad for p in model.parameters()) and not found.requires_grad:
        raise FalllineError(
            "the model cannot learn: no parameter has a gradient, because its output is cut off from them; "
            "leave out detach(), numpy(), .data and no_grad() in forward()."
        )


def check_plain(model: nn.Module, x: Any, y: Any, loss: Callable[[Any, Any], Any]) -> None:
    """Refuse a plain torch model and loss that fail on a batch, or from whose value no gradient comes back; done on copies.

    Raises:
        FalllineError: an exception in the model or in the loss, a value that is no single number, or one without a gradient.

    >>> check_plain(nn.Linear(4, 2), torch.zeros(3, 4), torch.zeros(3, 2), lambda output, y: (output - y).detach().mean())
    Traceback (most recent call last):
        ...
    fallline._core.errors.FalllineError: the model cannot learn: no gradient comes back from loss(model(x), y); look for detach() in either.
    """
    trial = copy.deepcopy(model)
    rows = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    with torch.enable_grad(), seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's warning of shapes that do not fit comes just before its error
        try:
            found = trial(x)
        except Exception as error:
            told(error, _file_of(model), f"the model ({type(model).__name__}), run on a batch of shape {rows},")
        try:
            value = (copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss)(found, y)
        except Exception as error:
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            target = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            told(error, None, f"the loss, given the model's output of {what} and a target of {target},")
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise FalllineError("the loss must give a tensor with a single number; take its mean.")
    if not value.requires_grad:
        raise FalllineError("the model cannot learn: no gradient comes back from loss(model(x), y); look for detach() in either.")


def _file_of(model: nn.Module) -> Path | None:
    if type(model).__module__.partition(".")[0] == "torch":
        return None  # a line of torch's own file tells its user nothing
    try:
        return Path(inspect.getfile(type(model)))
    except (TypeError, OSError):
        return None
