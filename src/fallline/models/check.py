"""One batch through a model, before any time is spent: what comes out must have the shape that the loss needs."""

import inspect
from pathlib import Path

import torch
from torch import Tensor, nn

from fallline._core.errors import FalllineError
from fallline.models.initial import refuse_zeros, seeded
from fallline.models.user_file import told


def check_output(model: nn.Module, x_batch: Tensor, outputs: int, *, advice: str = "") -> None:
    """Refuse a model that fails on a batch, or gives another shape than (rows, outputs); (rows,) is accepted for one output.

    The model is run in evaluation mode without gradients and left as it was, torch's random state too.

    Raises:
        FalllineError: an exception inside the model (says where), a wrong shape (says expected and got), values that are no floating
            numbers or not finite, or weights that are all zero.

    >>> check_output(nn.Linear(4, 2), torch.zeros(3, 4), 3)
    Traceback (most recent call last):
        ...
    fallline._core.errors.FalllineError: the model must give shape (3, 3) for 3 rows, but it gave (3, 2); make its last layer 3 wide.
    """
    refuse_zeros(model)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), seeded(0):
            found = model(x_batch)
    except FalllineError:
        raise
    except Exception as error:
        told(error, _file_of(model), f"the model ({type(model).__name__}), run on {len(x_batch)} rows of shape {tuple(x_batch.shape[1:])},")
    finally:
        for module, training in modes:
            module.training = training
    if not isinstance(found, Tensor):
        raise FalllineError(f"the model must give one tensor, but it gave {type(found).__name__}.")
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


def _file_of(model: nn.Module) -> Path | None:
    if type(model).__module__.partition(".")[0] == "torch":
        return None  # a line of torch's own file tells its user nothing
    try:
        return Path(inspect.getfile(type(model)))
    except (TypeError, OSError):
        return None
