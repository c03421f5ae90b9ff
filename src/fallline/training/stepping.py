"""The optimizer of a run: made from the settings, stepped without ceremony, its averages put in the place of the weights."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fallline import optim
from fallline.training.settings import Settings
from fallline.training.trained import named_parameters

if TYPE_CHECKING:
    from fallline.losses import Loss


def build_optimizer(model: nn.Module, loss: "Loss", settings: Settings) -> torch.optim.Optimizer:
    """The optimizer that `settings` names, over all parameters of the model and the loss; its own learning rate where that is "auto"."""
    return optim.build(
        settings.optimizer,
        named_parameters(model, loss),
        lr=None if settings.lr == "auto" else settings.lr,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        engine=settings.engine,
        nonfinite="allow",  # the loop judges a run that diverges, and says so in its own words
    )


@contextmanager
def as_used(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """With the weights that are meant to be used: averages, or what a Schedule-Free rule has found while it trains at other weights."""
    with ExitStack() as stack:
        every = [*optim.wrappers.chain(optimizer)]
        for each in every:  # first, as the mode is not changed inside `applied()`
            if hasattr(type(each), "eval"):
                each.eval()  # pyright: ignore[reportAttributeAccessIssue]
                stack.callback(each.train)  # pyright: ignore[reportAttributeAccessIssue]
        for each in every:
            if isinstance(each, optim.wrappers.Averaging):
                stack.enter_context(each.applied())
        yield


def keep_as_used(optimizer: torch.optim.Optimizer) -> None:
    """Leave the weights as they are meant to be used, at the end of training."""
    with as_used(optimizer):
        kept = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    with torch.no_grad():
        for p, value in kept:
            p.copy_(value)


def bare_step(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """`optimizer.step` without torch's profiler and hook wrapper, which costs more than a small step; with it where hooks are set."""
    kind = type(optimizer)
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        _global_optimizer_pre_hooks,
        _global_optimizer_post_hooks,
    )
    bare = getattr(kind.step, "__wrapped__", None)
    if bare is None or not getattr(kind.step, "hooked", False) or any(hooks) or "step" in vars(optimizer):
        return optimizer.step
    return functools.partial(bare, optimizer)
