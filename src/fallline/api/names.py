"""Names that were mistyped are refused before any row is read."""

from collections.abc import Sequence

from fallline._core.errors import FalllineError


def loss_name(loss: object) -> str:
    """What the settings of a run call its loss: a name as it was written, that of a `Loss`, or what a loss of one's own is called."""
    from fallline.losses.custom import called

    return loss if isinstance(loss, str) else str(getattr(loss, "name", "")) or called(loss)


def check_names(loss: object, optimizers: Sequence[object]) -> None:
    """Refuse a loss or an optimizer that there is not, or an option that it does not have; the error offers the nearest.

    What is no text (a `Loss`, a torch optimizer) is let through.

    >>> check_names("huber:delta=0", ["adam"])
    Traceback (most recent call last):
        ...
    fallline._core.errors.FalllineError: `delta > 0` must hold for Huber, but got 0; 1 is usual.
    """
    from fallline import losses, optim

    if isinstance(loss, str) and loss.partition(":")[0].strip() == "multi_task":
        raise FalllineError(
            "the loss multi_task adds up the losses of several heads, and this trains one; use fl.losses.MultiTask in a loop of your own."
        )
    if isinstance(loss, str) and loss != "auto":
        losses.parse(loss)
    for name in optimizers:
        if isinstance(name, str):
            optim.parse(name)
