"""The learning rate for a model, its data and an optimizer, found in a few hundred mini-batches; nothing is changed by looking.

Works on copies of the model, on orders of the data of its own, and under random generators that are put back.
"""

import contextlib
import copy
import dataclasses
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fallline import data as data_
from fallline import optim
from fallline._core.seeds import stream
from fallline.models.check import check_plain
from fallline.study.models import ModelLike, fresh
from fallline.study.plain import HELD_ROWS, copied_optimizer, read_batches, starting_lr, step_flops
from fallline.study.ramp import LRResult, range_test
from fallline.study.walks import Walk, Walks
from fallline.training import Settings, aim, outputs
from fallline.training.checks import batch_rows, device_of
from fallline.training.evaluate import mean_loss
from fallline.training.goal import Goal
from fallline.training.threads import SMALL, fitting_threads, is_small
from fallline.training.trained import named_parameters

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss

MOST_ROWS = 4096  # of a mini-batch here: a full batch is stood for by that many rows drawn from it
LONGEST = 400  # mini-batches of the longest trials, where a step is small
STEPS = 100  # of a trial; as many as the run has, where it has fewer: at a large rate a few steps more or less decide
SHORT, SHORT_ORDERS = 30, 5  # a run of fewer steps is at the mercy of the order of its rows: so many are tried, and the worst end counts
THOROUGH: dict[str, Any] = {"looks": 3}  # where a step is small
THRIFTY: dict[str, Any] = {"ramps": 2, "orders": 1, "looks": 1}  # where a step is not small
WIDER = 10.0  # how far the ramp goes beyond the optimizer's usual range on either side


def find_lr(make_model: ModelLike, data: "Data", settings: Settings, *, loss: "Loss | None" = None) -> LRResult:
    """The learning rate for `settings.optimizer` on this model and these rows.

    Args:
        make_model: spec, module or function; a module is copied, never trained.
        data: training rows are trained on; the trials are judged on validation rows (training rows where there are none).
        settings: optimizer, batch size, loss, seed, device and what else shapes a step; `lr` is not read.
        loss: a loss object in place of `settings.loss`.

    Returns:
        The result; where no rate makes the loss fall it says so, and suggests the optimizer's default.

    Raises:
        FalllineError: settings that do not fit the data.
    """
    device = device_of(settings.device)
    goal = aim(data, settings, copy.deepcopy(loss))
    goal.loss.to(device)
    preset, _ = optim.parse(settings.optimizer)
    rows, batch = len(data.train), batch_rows(settings, len(data.train))
    total = math.ceil(rows / batch) * settings.epochs
    orders: dict[str, Any] = {"orders": SHORT_ORDERS, "worst": True} if total < SHORT and batch < rows else {}
    batch = min(batch, MOST_ROWS)
    x, target = data.train.x, goal.targets(data.train.y)
    held = data.validation if len(data.validation) else data.train
    held_x, held_target = held.x[:HELD_ROWS].to(device), goal.targets(held.y[:HELD_ROWS]).to(device)
    seed = stream(settings.seed, "lr")
    with kept_generators():
        model = fresh(make_model, data.input_shape, goal.outputs, seed=settings.seed, dropout=settings.dropout).to(device)

        def begin(order: int) -> Walk:
            walker, own = copy.deepcopy(model), copy.deepcopy(goal.loss)
            walker.train()
            optimizer = optim.build(
                settings.optimizer,
                named_parameters(walker, own),
                lr=preset.default_lr,
                weight_decay=settings.weight_decay,
                clip_norm=settings.clip_norm,
                engine=settings.engine,
                nonfinite="allow",
            )
            torch.manual_seed(stream(seed, "walk", order))
            spots = _endless(rows, batch, stream(seed, "order", order))

            def step(lr: float) -> float:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                chosen = next(spots)
                optimizer.zero_grad()
                value = own.quick(goal.squeeze(walker(x[chosen].to(device))), target[chosen].to(device))
                value.backward()
                optimizer.step()
                return float(value.detach())

            there = dataclasses.replace(goal, loss=own)
            return Walk(step, lambda: mean_loss(outputs(walker, held_x), held_target, there))

        low, high = preset.lr_range
        small = is_small(model, batch)
        own = (x.to(device), target.to(device))
        together = _together(model, settings, goal, own, (held_x, held_target), batch, seed) if small or device.type == "cuda" else None
        effort = THOROUGH if small else THRIFTY
        with fitting_threads(model, batch):
            return range_test(
                begin,
                low=low / WIDER,
                high=high * WIDER,
                default=preset.default_lr,
                steps=min(STEPS, total),
                total=total,
                longest=LONGEST if small else STEPS,
                together=together,
                **(effort | orders),
            )


def _together(
    model: nn.Module,
    settings: Settings,
    goal: Goal,
    train: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    batch: int,
    seed: int,
) -> Callable[[Sequence[int]], Walks] | None:
    """Makes walks that are advanced in one program; None where the loss or the model does not allow it."""
    from fallline.population import Unstackable
    from fallline.study.stacked import Stacked, alone

    if alone(goal):
        return None

    def make(orders: Sequence[int]) -> Walks:
        def places(order: int) -> Iterator[Tensor]:
            return _endless(len(train[0]), batch, stream(seed, "order", order))

        seeds = [stream(seed, "walk", order) for order in orders]
        return Stacked(model, settings, goal, train, held, [functools.partial(places, order) for order in orders], seeds)

    try:
        make([0, 1]).run([[0.0], [0.0]])
    except Unstackable:
        return None
    return make


class _Both(nn.Module):
    """A model and a loss that has parameters of its own."""

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, loss


def _endless(rows: int, batch: int, seed: int) -> Iterator[Tensor]:
    for epoch in itertools.count():
        yield from data_.batches(rows, batch, seed=seed, epoch=epoch)


@contextlib.contextmanager
def kept_generators(*more: torch.Generator | None) -> Iterator[None]:
    """Put back the states of Python's, NumPy's and torch's generators, on every device, and of those given."""
    plain, numbers, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    others = [(generator, generator.get_state()) for generator in more if generator is not None]
    try:
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(numbers)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        for generator, state in others:
            generator.set_state(state)


def find_lr_plain(
    model: nn.Module, loader: Iterable[Any], loss: Any, optimizer: Any, *, epochs: int = 10, device: str = "cpu", seed: int = 0
) -> LRResult:
    """The same on plain torch: any module, any iterable of (x, y) batches, any `loss(output, y)`, any optimizer.

    Args:
        model: copied, never trained.
        loader: read once from its start; its generators are put back.
        loss: called with the model's output and y.
        optimizer: a `torch.optim.Optimizer` of this model, copied with its state; or what makes one from parameters.
        epochs: of the training that the rate is for.
        device: where to work.
        seed: of the random numbers inside the model (dropout).

    Raises:
        FalllineError: no batch came, or the optimizer holds parameters that are not the model's.
    """
    place = device_of(device)
    sampler = getattr(loader, "sampler", None)
    with kept_generators(getattr(loader, "generator", None), getattr(sampler, "generator", None)):
        batches = read_batches(loader, LONGEST, place)
        total = (len(loader) if isinstance(loader, Sized) else len(batches.found)) * epochs
        loss_there = copy.deepcopy(loss).to(place) if isinstance(loss, nn.Module) else loss
        check_plain(copy.deepcopy(model).to(place), *batches.found[0], loss_there)
        learns = isinstance(loss, nn.Module) and next(loss.parameters(), None) is not None
        default = starting_lr(model, optimizer)

        def begin(order: int) -> Walk:
            walker = copy.deepcopy(model).to(place)
            walker.train()
            own = copy.deepcopy(loss).to(place) if learns else loss
            train, held = batches.split(order)
            stepper = copied_optimizer(optimizer, *((_Both(model, loss), _Both(walker, own)) if learns else (model, walker)))
            shares = [float(group["lr"]) / default for group in stepper.param_groups]
            torch.manual_seed(stream(seed, "walk", order))
            generator = torch.Generator().manual_seed(stream(seed, "order", order))
            spots = itertools.cycle(torch.randperm(len(train), generator=generator).tolist())

            def step(lr: float) -> float:
                for group, share in zip(stepper.param_groups, shares, strict=True):
                    group["lr"] = lr * share
                x, y = train[next(spots)]
                stepper.zero_grad()
                value = own(walker(x), y)
                value.backward()
                stepper.step()
                return float(value.detach())

            def measure() -> float:
                walker.eval()
                with torch.no_grad():
                    ends = [float(own(walker(x), y)) for x, y in held]
                walker.train()
                return sum(ends) / len(ends)

            return Walk(step, measure)

        small = (
            step_flops(copy.deepcopy(model).to(place).train(), copy.deepcopy(loss).to(place) if learns else loss, batches.found[0]) < SMALL
        )
        x = batches.found[0][0]
        size = len(x) if hasattr(x, "__len__") else 1
        with fitting_threads(model, size):
            return range_test(
                begin,
                low=default / 1e4,
                high=default * 1e4,
                default=default,
                points=150,
                steps=min(STEPS, total),
                total=total,
                longest=LONGEST if small else STEPS,
                **(THOROUGH if small else THRIFTY),
            )
