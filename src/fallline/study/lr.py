"""The learning rate for a model, its data and an optimizer, found in a few hundred mini-batches; nothing is changed by looking.

What it costs is bounded: 10,000 mini-batches at most where a step is small (most are then trained at once, in less than a second); where it
is not, three times the training that the rate is for, or 600 mini-batches where that is less. The shorter that training, the fewer and the
shorter are then the trials.

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
from fallline._core.errors import must
from fallline._core.seeds import stream
from fallline.models.check import check_plain
from fallline.population import Unstackable
from fallline.study.models import ModelLike, fresh
from fallline.study.plain import HELD_ROWS, copied_optimizer, needs_closure, read_batches, starting_lr, step_flops
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
SHORTER: dict[str, Any] = {"ramps": 1, "points": 80}  # and where few may be made
MOST_STEPS = 10_000  # mini-batches in all, where a step is small
FEW_STEPS, TRAININGS = 600, 3  # mini-batches in all where it is not: so many, or as many as so many trainings, if that is more
ENOUGH = 1400  # what the search without a limit takes of these
WIDER = 10.0  # how far the ramp goes beyond the optimizer's usual range on either side


def _effort(small: bool, total: int, *, short: bool = False) -> dict[str, Any]:
    """How thorough to be in front of a training of `total` mini-batches; `short`: at the mercy of the order of its rows."""
    if small:
        orders = {"orders": SHORT_ORDERS, "worst": True} if short else {}
        return {**THOROUGH, **orders, "steps": min(STEPS, total), "longest": LONGEST, "budget": MOST_STEPS}
    budget = max(FEW_STEPS, TRAININGS * total)
    steps = STEPS if budget >= ENOUGH else max(budget // 12, 1)
    steps = min(steps, total)
    orders = {"orders": max(1, min(SHORT_ORDERS, FEW_STEPS // 6 // total)), "worst": True} if short else {}
    return {**THRIFTY, **(SHORTER if budget < ENOUGH else {}), **orders, "steps": steps, "longest": steps, "budget": budget}


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
    short = total < SHORT and batch < rows
    batch = min(batch, MOST_ROWS)
    x, target = data.train.x, goal.targets(data.train.y)
    held = data.validation if len(data.validation) else data.train
    held_x, held_target = held.x[:HELD_ROWS].to(device), goal.targets(held.y[:HELD_ROWS]).to(device)
    seed = stream(settings.seed, "lr")
    with kept_generators(device):
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
            seed_torch(stream(seed, "walk", order))
            spots = _endless(rows, batch, stream(seed, "order", order))

            def step(lr: float) -> float:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                chosen = next(spots)
                optimizer.zero_grad()
                value = own.quick(goal.squeeze(walker(x[chosen].to(device))), target[chosen].to(device))
                if lr:  # a walk at 0 stands still: its losses alone are asked for
                    value.backward()
                    optimizer.step()
                return float(value.detach())

            there = dataclasses.replace(goal, loss=own)
            return Walk(step, lambda: mean_loss(outputs(walker, held_x), held_target, there))

        low, high = preset.lr_range
        small = is_small(model, batch)
        own = (x.to(device), target.to(device))
        together = _together(model, settings, goal, own, (held_x, held_target), batch, seed) if small or device.type == "cuda" else None
        look = functools.partial(
            range_test,
            begin,
            low=low / WIDER,
            high=high * WIDER,
            default=preset.default_lr,
            total=total,
            **_effort(small, total, short=short),
        )
        with fitting_threads(model, batch):
            try:
                return look(together=together)
            except Unstackable:  # the model did not run at once after all; what is wrong with it shows best one by one
                return look()


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
def kept_generators(device: torch.device, *more: torch.Generator | None) -> Iterator[None]:
    """Put back the states of Python's, NumPy's and torch's generators, on every device, and of those given; gradients are on within.

    Where CUDA has not begun yet, torch keeps the latest seed for later: that is put back as well, as what was called here may seed.
    """
    if device.type == "cuda":
        torch.cuda.init()  # takes the seeds that wait for it before its states are read
    plain, numbers, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    begun = torch.cuda.is_initialized()
    cuda = torch.cuda.get_rng_state_all() if begun else []
    waiting = getattr(torch.cuda, "_lazy_seed_tracker", None)
    seeds = dict(vars(waiting)) if waiting is not None else {}
    others = [(generator, generator.get_state()) for generator in more if generator is not None]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(numbers)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if begun:
            torch.cuda.set_rng_state_all(cuda)
        elif waiting is not None:
            vars(waiting).update(seeds)
        for generator, state in others:
            generator.set_state(state)


def seed_torch(seed: int) -> None:
    """Seed torch on the CPU, and on CUDA where it has begun; `torch.manual_seed` would seed it for later where it has not."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def find_lr_plain(
    model: nn.Module, loader: Iterable[Any], loss: Any, optimizer: Any, *, epochs: int = 10, device: str = "cpu", seed: int = 0
) -> LRResult:
    """The same on plain torch: any module, any iterable of (x, y) batches, any `loss(output, y)`, any optimizer.

    Args:
        model: copied, never trained.
        loader: read once from its start; its generators are put back. Not an iterator, which could not be put back.
        loss: called with the model's output and y; a module is copied.
        optimizer: a `torch.optim.Optimizer` of this model, copied with its state; or what makes one from parameters.
        epochs: of the training that the rate is for.
        device: where to work.
        seed: of the random numbers inside the model (dropout).

    Raises:
        FalllineError: no batch came, a batch is not a pair of tensors, or the optimizer holds parameters that are not the model's.
    """
    place = device_of(device)
    must(isinstance(epochs, int) and epochs >= 1, "epochs >= 1, a whole number", repr(epochs), "10 is usual", where="find_lr")
    sampler = getattr(loader, "sampler", None)
    with kept_generators(place, getattr(loader, "generator", None), getattr(sampler, "generator", None)):
        batches = read_batches(loader, LONGEST, place)
        total = (len(loader) if isinstance(loader, Sized) else len(batches.found)) * epochs
        loss_there = copy.deepcopy(loss).to(place) if isinstance(loss, nn.Module) else loss
        check_plain(copy.deepcopy(model).to(place), *batches.found[0], loss_there)
        module = isinstance(loss, nn.Module)
        learns = module and next(loss.parameters(), None) is not None
        default = starting_lr(model, optimizer)

        def begin(order: int) -> Walk:
            walker = copy.deepcopy(model).to(place)
            walker.train()
            own = copy.deepcopy(loss).to(place) if module else loss
            train, held = batches.split(order)
            stepper = copied_optimizer(optimizer, *((_Both(model, loss), _Both(walker, own)) if learns else (model, walker)))
            closes = needs_closure(type(stepper))
            shares = [float(group["lr"]) / default for group in stepper.param_groups]
            seed_torch(stream(seed, "walk", order))
            generator = torch.Generator().manual_seed(stream(seed, "order", order))
            spots = itertools.cycle(torch.randperm(len(train), generator=generator).tolist())

            def step(lr: float) -> float:
                for group, share in zip(stepper.param_groups, shares, strict=True):
                    group["lr"] = lr * share
                x, y = train[next(spots)]
                seen: list[float] = []

                def closure() -> Tensor:
                    stepper.zero_grad()
                    value = own(walker(x), y)
                    if lr:  # a walk at 0 stands still: its losses alone are asked for
                        value.backward()
                    seen.append(float(value.detach()))
                    return value

                if closes and lr:
                    stepper.step(closure)  # pyright: ignore[reportArgumentType, reportCallIssue]
                else:
                    closure()
                    if lr:
                        stepper.step()
                return seen[0]

            def measure() -> float:
                walker.eval()
                with torch.no_grad():
                    ends = [float(own(walker(x), y)) for x, y in held]
                walker.train()
                return sum(ends) / len(ends)

            return Walk(step, measure)

        judge = copy.deepcopy(loss).to(place) if module else loss
        walker = copy.deepcopy(model).to(place).train()
        maker = type(optimizer) if isinstance(optimizer, torch.optim.Optimizer) else optimizer
        many = isinstance(maker, type) and needs_closure(maker)  # evaluations in one step
        small = not many and step_flops(walker, judge, batches.found[0]) < SMALL
        x = batches.found[0][0]
        size = len(x) if hasattr(x, "__len__") else 1
        with fitting_threads(model, size):
            return range_test(
                begin,
                low=default / 1e4,
                high=default * 1e4,
                default=default,
                total=total,
                **{"points": 150, **_effort(small, total)},
            )
