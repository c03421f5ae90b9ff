"""`fl.find_lr`: the useful learning rates of a model, its data, a loss and an optimizer; nothing is changed by looking."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fallline._core.errors import must
from fallline.study.lr import find_lr as _find
from fallline.study.lr import find_lr_plain, kept_generators
from fallline.study.models import ModelLike
from fallline.study.ramp import LRResult
from fallline.training.checks import device_of
from fallline.training.settings import Settings


def find_lr(
    model: ModelLike = "mlp:128",
    data: Any = None,
    loss: Any = "auto",
    optimizer: Any = "adam",
    *,
    batch_size: Any = 32,
    epochs: int = 10,
    seed: int = 0,
    device: str = "cpu",
    plot: str | Path | None = None,
    quiet: bool = True,
    **settings: Any,
) -> LRResult:
    """The useful learning rates for this model, data, loss and optimizer, in a few hundred mini-batches.

    Leaves model, optimizer, data order and every random generator bit for bit as they were. At most 10,000 mini-batches where a step is
    small; where it is not, three times the training that the rate is for, or 600 where that is less.

    Args:
        model: a spec such as "mlp:128", a function that makes a module, or a module (copied, never trained).
        data: whatever `fl.data.load` takes; with a plain torch loss or optimizer also an iterable of (x, y) batches.
        loss: a name, a fallline loss, or any function of (output, y).
        optimizer: a name with options, or a torch optimizer: the one that you made, a class, or a function of parameters.
        batch_size: rows in a mini-batch, or "full"; a loader has its own.
        epochs: of the training that the rate is for: the best rate of a long one is not that of a short one.
        seed: of the orders and of a fresh model.
        device: "cpu", "cuda", "auto".
        plot: draw the ramps, the trials and the three numbers into this file (.html, .png, .svg, .pdf).
        quiet: taken as by the other studies; nothing is printed in any case.
        **settings: any other field of `fallline.training.Settings` (weight_decay, clip_norm, class_weight, ...).

    Returns:
        `.suggested`, `.useful` (low, high), `.edge` (where the loss rises), `.confidence` (0 to 1), `.reason`, `.lrs`, `.losses`,
        `.trials`, `.text()`.

    Raises:
        FalllineError: settings that do not fit the data; a plain loss or optimizer without a module.

    >>> import torch
    >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    >>> batches = [(x[i : i + 20], x[i : i + 20].sum(1, keepdim=True)) for i in range(0, 200, 20)]
    >>> found = find_lr(torch.nn.Linear(3, 1), batches, torch.nn.functional.mse_loss, torch.optim.SGD)
    >>> found.found, 0.01 < found.suggested < 2
    (True, True)
    """
    must(data is not None, "data is given", "nothing", "find_lr(model, data, loss, optimizer)", where="find_lr")
    if plot is not None:
        from fallline.report.lr import checked

        checked(plot)  # before the work, not after it
    with kept_generators(device_of(device)):  # a function that makes a model may seed
        found = _look(model, data, loss, optimizer, batch_size, epochs, seed, device, settings)
    if plot is not None:
        from fallline.report.lr import draw_lr

        name = optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", type(optimizer).__name__)
        draw_lr(found, plot, optimizer=name, title=f"Range test of {name}")
    return found


def _look(
    model: ModelLike, data: Any, loss: Any, optimizer: Any, batch_size: Any, epochs: int, seed: int, device: str, settings: dict[str, Any]
) -> LRResult:
    """The range test in the way that fits what was given."""
    if isinstance(optimizer, str) and (isinstance(loss, str) or hasattr(loss, "target_kind") or not _batches(data)):
        from fallline.api.fit import load_data
        from fallline.api.model import model_maker, with_width
        from fallline.api.names import check_names, check_settings, loss_name
        from fallline.losses import own_loss
        from fallline.training import aim

        check_settings("find_lr", settings, {"lr": "no rate at all: that is what is looked for"})
        chosen = Settings(
            loss=loss_name(loss),
            optimizer=optimizer,
            batch_size=batch_size,
            epochs=epochs,
            seed=seed,
            device=device,
            **settings,
        )
        check_names(loss, [optimizer])
        rows = load_data(data, None, seed)
        given = own_loss(loss, rows.task)
        chosen = with_width(chosen, model, rows, given)
        model_maker(model, rows, aim(rows, chosen, given), chosen).make()  # says what is wrong with a model before any trial
        return _find(model, rows, chosen, loss=given)
    must(isinstance(model, nn.Module), "model is a torch module where loss or optimizer is plain torch", type(model).__name__)
    assert isinstance(model, nn.Module)
    must(not settings, "no other settings where loss or optimizer is plain torch", ", ".join(settings), "set them on the optimizer")
    if isinstance(loss, str):
        from fallline.losses import build as build_loss

        must(loss != "auto", "loss is given where the optimizer is plain torch", "'auto'", "name one, or give a function of (output, y)")
        loss = build_loss(loss)
    if isinstance(optimizer, str):
        from functools import partial

        from fallline.optim import build

        optimizer = partial(_named, build, optimizer)
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = data
        rows = len(x) if batch_size == "full" else int(batch_size)
        data = list(zip(x.split(rows), y.split(rows), strict=True))
    return find_lr_plain(model, data, loss, optimizer, epochs=epochs, device=device, seed=seed)


def _batches(data: Any) -> bool:
    """Whether data for a plain loss is batches of (x, y), or two tensors; else it is what `fl.data.load` takes."""
    from fallline.data import Data

    if isinstance(data, tuple) and len(data) == 2:
        return all(isinstance(part, Tensor) for part in data)
    return not isinstance(data, (str, Path, Data)) and not hasattr(data, "columns")


def _named(build: Any, spec: str, parameters: list[Tensor]) -> Any:
    return build(spec, [(str(i), p) for i, p in enumerate(parameters)])
