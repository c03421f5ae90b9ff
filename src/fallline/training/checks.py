"""What is refused before a run begins: batch size, device, optimizer, schedule, tracker, patience."""

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fallline._core.errors import FalllineError, must
from fallline.models.initial import seeded
from fallline.optim import schedules
from fallline.training.settings import Settings
from fallline.training.stepping import build_optimizer
from fallline.training.track import require

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss


def check(model: nn.Module, data: "Data", settings: Settings, loss: "Loss") -> None:
    """Refuse settings that do not fit, before anything is written: batch size, device, optimizer, schedule, tracker, patience.

    Raises:
        FalllineError: the first that does not.
    """
    rows = len(data.train)
    batch = batch_rows(settings, rows)
    steps = math.ceil(rows / batch)
    device_of(settings.device)
    check_patience(settings, len(data.validation))
    if rows - (steps - 1) * batch == 1:
        _check_one_row(model, data.train.x[:1], batch)
    build_optimizer(model, loss, settings)
    schedules.build(settings.schedule, total_steps=steps * settings.epochs, steps_per_epoch=steps)
    require(settings.track)


def check_patience(settings: Settings, held: int) -> None:
    """Refuse patience without validation rows."""
    advice = "give the data a validation share, or leave patience out"
    must(settings.patience is None or held > 0, "patience needs validation rows", "none", advice)


def _check_one_row(model: nn.Module, x: Tensor, batch: int) -> None:
    """Refuse a last batch of one row where a norm over the batch cannot take it; the model is tried as a copy."""
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        return
    trial = copy.deepcopy(model).train()
    try:
        with torch.no_grad(), seeded(0):
            trial(x.to(next((p.device for p in trial.parameters()), x.device)))
    except ValueError as error:
        raise FalllineError(
            f"the last batch of each epoch has one row, on which this model cannot be trained ({error}); "
            f"choose another batch size than {batch} with --batch-size."
        ) from error


def batch_rows(settings: Settings, rows: int) -> int:
    """Rows in a batch; refused above the training rows."""
    must(rows >= 1, "there are training rows", "none")
    if settings.batch_size == "full":
        return rows
    must(settings.batch_size <= rows, f"batch_size <= {rows} (the training rows)", settings.batch_size, "'full' takes them all")
    return settings.batch_size


def device_of(name: str) -> torch.device:
    """The device of that name; "auto" is cuda where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise FalllineError(f"there is no device '{name}'; use 'cpu', 'cuda' or 'auto'.") from None
    must(device.type != "cuda" or torch.cuda.is_available(), "a CUDA device is there", "none", "use --device cpu")
    return device
