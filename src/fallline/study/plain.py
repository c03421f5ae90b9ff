"""What the learning-rate finder needs of plain torch objects: copies of optimizers, batches read once."""

import copy
import inspect
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fallline._core.errors import must, refuse
from fallline.optim import RuleOptimizer

Batch = tuple[Any, Any]
BYTES = 512 << 20  # of batches that are kept
HELD_ROWS = 2048  # on which a trial is judged
FOLDS = 5  # of the batches of a short loader


class Batches(NamedTuple):
    """The first batches of a loader, and whether it has more."""

    found: list[Batch]
    more: bool

    def split(self, order: int) -> tuple[list[Batch], list[Batch]]:
        """Batches to train on and batches to judge on, for that order of the data.

        Of a loader that has more, the last tenth is judged on. Where these are all, each order holds another fifth aside, so that together
        they judge on most rows; fewer than five batches are trained on and judged on alike.
        """
        if len(self.found) < FOLDS:
            return self.found, self.found
        if self.more:
            held = math.ceil(len(self.found) / 10)
            return self.found[:-held], self.found[-held:]
        fold = order % FOLDS
        return [batch for i, batch in enumerate(self.found) if i % FOLDS != fold], self.found[fold::FOLDS]


def read_batches(loader: Iterable[Any], most: int, device: torch.device) -> Batches:
    """The first batches of a loader, `most` of them and about 512 MB at most.

    Raises:
        FalllineError: nothing came, a batch is not a pair (x, y) of tensors, or the loader is an iterator, which reading would use up.
    """
    law, do = "the loader can be read again", "give the DataLoader itself, or a list of batches"
    must(not isinstance(loader, Iterator), law, f"an iterator ({type(loader).__name__})", do, where="find_lr")
    found: list[Batch] = []
    taken = 0
    for batch in iter(loader):
        must(isinstance(batch, tuple | list) and len(batch) == 2, "a batch is a pair (x, y)", type(batch).__name__)
        if len(found) == most or taken > BYTES:
            return Batches(found, True)
        x, y = batch
        kinds = f"({type(x).__name__}, {type(y).__name__})"
        must(
            isinstance(x, Tensor) and isinstance(y, Tensor), "a batch is a pair of tensors", kinds, "torch.as_tensor makes one of an array"
        )
        found.append((x.to(device), y.to(device)))
        taken += sum(part.numel() * part.element_size() for part in found[-1])
    must(bool(found), "the loader gives at least one batch", "none")
    return Batches(found, False)


def step_flops(model: nn.Module, loss: Any, batch: Batch) -> int:
    """Multiplications and additions of one forward and backward pass, as torch counts them (matrix products, convolutions, attention).

    Done on the model as it is: give a copy.
    """
    from torch.utils.flop_counter import FlopCounterMode

    x, y = batch
    with FlopCounterMode(display=False) as counter:
        value = loss(model(x), y)
        if value.requires_grad:
            value.backward()
    return counter.get_total_flops()


def starting_lr(model: nn.Module, optimizer: Any) -> float:
    """The learning rate that the optimizer has, or would have by default.

    Raises:
        FalllineError: it has none that is above 0.
    """
    stepper = optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer(list(copy.deepcopy(model).parameters()))
    lr = float(stepper.param_groups[0]["lr"])
    must(lr > 0, "the optimizer's learning rate is above 0", lr, "any positive rate will do: the search starts around it")
    return lr


def copied_optimizer(optimizer: Any, model: nn.Module, copied: nn.Module) -> torch.optim.Optimizer:
    """An optimizer of `copied` that is to it what `optimizer` is to `model`, with a copy of its state.

    Args:
        optimizer: an optimizer over parameters of `model`, or a class or function that makes one from parameters.
        model: the user's module.
        copied: its deep copy.

    Raises:
        FalllineError: the optimizer holds parameters that are not the model's.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        return optimizer(list(copied.parameters()))
    twins = {id(old): new for old, new in zip(model.parameters(), copied.parameters(), strict=True)}
    for group in optimizer.param_groups:
        if any(id(p) not in twins for p in group["params"]):
            refuse("the optimizer holds parameters of this model only", "others", "give the model that it was made for", where="find_lr")
    if isinstance(optimizer, RuleOptimizer):
        groups = [{**group, "params": [twins[id(p)] for p in group["params"]]} for group in optimizer.param_groups]
        named = [{**g, "params": list(zip(g.pop("param_names"), g["params"], strict=True))} if "param_names" in g else g for g in groups]
        made = type(optimizer)(named, **{**optimizer.shared(), "nonfinite": "allow"})  # pyright: ignore[reportArgumentType, reportCallIssue]
        made.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return made
    known: dict[int, Any] = {id(old): new for old, new in zip(model.parameters(), copied.parameters(), strict=True)} | {id(model): copied}
    twin = copy.deepcopy(optimizer, known)
    for name, value in vars(optimizer).items():  # torch copies groups and state only; `step` is there where a scheduler has wrapped it
        if name not in vars(twin) and name != "step":
            vars(twin)[name] = copy.deepcopy(value, known)
    return twin


def needs_closure(optimizer: type[torch.optim.Optimizer]) -> bool:
    """Whether `step` of a class of optimizers cannot be called without a function that evaluates the loss anew, as that of LBFGS.

    >>> needs_closure(torch.optim.LBFGS), needs_closure(torch.optim.SGD)
    (True, False)
    """
    asked = list(inspect.signature(optimizer.step).parameters.values())[1:]
    return bool(asked) and asked[0].default is inspect.Parameter.empty and asked[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
