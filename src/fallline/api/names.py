"""Names that were mistyped are refused before any row is read."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence

from fallline._core.errors import FalllineError, lookup, must


def loss_name(loss: object) -> str:
    """What the settings of a run call its loss: a name as it was written, that of a `Loss`, or what a loss of one's own is called."""
    from fallline.losses.custom import called

    return loss if isinstance(loss, str) else str(getattr(loss, "name", "")) or called(loss)


_ELSEWHERE = {  # what others call it
    **dict.fromkeys(("learning_rate", "eta", "step_size", "max_lr", "init_lr"), "lr"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_schedule"), "schedule"),
    **dict.fromkeys(("num_epochs", "max_epochs", "n_epochs", "max_iter"), "epochs"),
    **dict.fromkeys(("random_state", "random_seed"), "seed"),
    **dict.fromkeys(("gradient_clip_val", "max_norm", "clip", "grad_clip"), "clip_norm"),
    **dict.fromkeys(("criterion", "loss_fn", "loss_function"), "loss"),
    **dict.fromkeys(("early_stopping", "n_iter_no_change"), "patience"),
}


def check_settings(command: str, given: Mapping[str, object], instead: Mapping[str, str]) -> None:
    """Refuse settings that there are not, and those that a command names otherwise.

    >>> check_settings("compare", {"lr": 0.1}, {"lr": "lrs=[0.1]"})
    Traceback (most recent call last):
        ...
    fallline._core.errors.FalllineError: compare has no setting 'lr'; write lrs=[0.1].
    """
    from fallline.training import Settings

    known = sorted({field.name for field in dataclasses.fields(Settings)} - set(instead))
    for name, value in given.items():
        if name in instead:
            raise FalllineError(f"{command} has no setting '{name}'; write {instead[name]}.")
        if name in ("task", "scale", "validation", "test"):
            raise FalllineError(f"{name} belongs to the data: {command} takes fallline.data.load(source, {name}=...).")
        if name in _ELSEWHERE:
            meant = _ELSEWHERE[name]
            raise FalllineError(f"{command} has no setting '{name}'; did you mean {instead.get(meant, meant)}?")
        if name not in known:
            lookup(f"setting of {command}", name, dict.fromkeys([*known, *(words.partition("=")[0] for words in instead.values())]))
        if name == "class_weight":
            text = value is None or isinstance(value, str)
            must(text, "class_weight is a text", f"a {type(value).__name__}", "'balanced' or 'cat:2,dog:1' is an example", where=command)


def check_resumed(function: Callable[..., object], given: Mapping[str, object], free: Sequence[str]) -> None:
    """Refuse arguments beside `resume` that would be read by nobody: what was begun keeps its own settings.

    Args:
        function: that was called.
        given: its arguments by name, `settings` those that it does not name.
        free: arguments that may be given.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        usual: object = {} if parameter.kind is parameter.VAR_KEYWORD else parameter.default
        if name not in free and repr(given[name]) != repr(usual):
            named = ", ".join(dict(given[name])) if isinstance(given[name], Mapping) and name == "settings" else name  # pyright: ignore
            raise FalllineError(f"{function.__name__} with resume keeps the settings that are in the folder, so leave out {named}.")


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
