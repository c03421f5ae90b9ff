"""Walks of one model that are advanced in one program: a population whose members differ in rate and in the order of their rows.

A walk that ended, or that a run leaves out, leaves its block and the rest move up; one that is to go on later is trained again from its
start, which gives the same weights.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from fallline import optim
from fallline.population import Noise, Stack, Steppers, make_pass
from fallline.study.walks import Leg, Stop
from fallline.training.evaluate import mean_loss
from fallline.training.goal import Goal
from fallline.training.settings import Settings

NUMBERS = 1_200_000  # weights of a block, at most about: a larger one leaves the cache
MOST = 64  # walks in a block
ROWS = 512  # on which a block is judged at once


def alone(goal: Goal) -> bool:
    """Whether the loss asks for one walk at a time: it has parameters of its own, or compares the examples of a batch."""
    return bool(next(goal.loss.parameters(), None) is not None or goal.learns or goal.together or not goal.loss.separate)


class Stacked:
    """Walks that are trained together; see `fallline.study.walks.Walks`.

    Args:
        model: at the common start; it is copied.
        settings: optimizer, decay, clipping and engine.
        goal: loss and target form.
        train: rows x (N, ...) and their targets as the loss reads them.
        held: rows and targets that walks are judged on.
        places: of each walk: begins the indices of its mini-batches anew.
        seeds: of each walk's random numbers (dropout).

    Raises:
        Unstackable: from `run`, where the model cannot be run for several members at once.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        goal: Goal,
        train: tuple[Tensor, Tensor],
        held: tuple[Tensor, Tensor],
        places: Sequence[Callable[[], Iterator[Tensor]]],
        seeds: Sequence[int],
    ) -> None:
        rate = optim.parse(settings.optimizer)[0].default_lr
        self._model, self._goal, self._train, self._held = model, goal, train, held
        self._settings = dataclasses.replace(settings, lr=rate)
        self._places, self._seeds = list(places), list(seeds)
        self._past: list[list[float]] = [[] for _ in places]  # the rates that each walk has been trained at
        self._over = [False for _ in places]
        self._blocks: list[_Block] = []

    def run(self, rates: Sequence[Sequence[float]], marks: Sequence[int] = (), stop: Stop | None = None) -> list[Leg]:
        """See `Walks.run`."""
        legs = [Leg([], []) for _ in rates]
        if 0 in marks:
            value = self._value(self._model)
            for leg, past in zip(legs, self._past, strict=True):
                leg.ends.append(value if not past else math.nan)
        wanted = [i for i, own in enumerate(rates) if own and not self._over[i]]
        size = max(1, min(MOST, NUMBERS // max(1, sum(p.numel() for p in self._model.parameters()))))
        ready = {walk for block in self._blocks for walk in block.walks}
        for block in self._blocks:
            block.keep([walk for walk in block.walks if walk in wanted])
        lost = [walk for walk in wanted if walk not in ready]
        for past in sorted({len(self._past[walk]) for walk in lost}):
            mine = [walk for walk in lost if len(self._past[walk]) == past]
            for at in range(0, len(mine), size):
                block = _Block(self, mine[at : at + size])
                for step in range(past):
                    block.step([self._past[walk][step] for walk in block.walks])
                self._blocks.append(block)
        self._blocks = [block for block in self._blocks if block.walks]
        for block in self._blocks:
            self._advance(block, rates, [mark for mark in marks if mark > 0], stop, legs)
        for walk, leg in enumerate(legs):
            self._past[walk] += list(rates[walk][: len(leg.losses)])
            leg.ends.extend([math.inf] * (len(marks) - len(leg.ends)))
        return [Leg(leg.losses, [end if math.isfinite(end) else math.inf for end in leg.ends]) for leg in legs]

    def _advance(self, block: "_Block", rates: Sequence[Sequence[float]], marks: Sequence[int], stop: Stop | None, legs: list[Leg]) -> None:
        for taken in range(1, 1 + max((len(rates[walk]) for walk in block.walks), default=0)):
            block.keep([walk for walk in block.walks if len(rates[walk]) >= taken])
            losses = block.step([rates[walk][taken - 1] for walk in block.walks])
            ended = []
            for walk, loss in zip(block.walks, losses, strict=True):
                legs[walk].losses.append(loss)
                if not math.isfinite(loss) or (stop is not None and stop(legs[walk].losses)):
                    ended.append(walk)
                    self._over[walk] = True
            if ended:
                block.keep([walk for walk in block.walks if walk not in ended])
            if not block.walks:
                return
            if taken in marks:
                for walk, end in zip(block.walks, block.measure(), strict=True):
                    legs[walk].ends.append(end)

    def _value(self, model: nn.Module) -> float:
        from fallline.training import outputs

        return mean_loss(outputs(model, self._held[0]), self._held[1], self._goal)


class _Block:
    """Walks that stand at the same step."""

    def __init__(self, crowd: Stacked, walks: list[int]) -> None:
        self.walks, self.crowd = list(walks), crowd
        x, target = crowd._train
        self.stack = Stack([crowd._model] * len(walks), x.device)
        self.noise = Noise([crowd._seeds[walk] for walk in walks], x.device)
        self.spots = {walk: crowd._places[walk]() for walk in walks}
        first = next(crowd._places[walks[0]]())
        self.passes = make_pass(self.stack, x[first], self.noise, target[first], crowd._goal.loss)
        self.lr = dict.fromkeys(walks, 0.0)
        rates = [lambda step, walk=walk: self.lr[walk] for walk in walks]
        self.steppers = Steppers(self.stack, [crowd._settings] * len(walks), rates, list(walks))
        self.done = 0

    def step(self, rates: Sequence[float]) -> list[float]:
        """Train every walk on its next mini-batch at its rate: the losses before the step."""
        self.lr.update(zip(self.walks, rates, strict=True))
        x, target = self.crowd._train
        chosen = torch.stack([next(self.spots[walk]) for walk in self.walks])
        losses, _ = self.passes.step(x[chosen], target[chosen], self.crowd._goal.loss)
        self.steppers.step(self.done)
        self.done += 1
        return losses.tolist()

    def measure(self) -> list[float]:
        """The loss of every walk on the rows held aside."""
        held_x, held_target = self.crowd._held
        raw = torch.cat([self.passes.outputs(rows) for rows in held_x.split(ROWS)], 1)
        return [mean_loss(own, held_target, self.crowd._goal) for own in raw]

    def keep(self, walks: list[int]) -> None:
        """Go on with these walks alone."""
        if walks == self.walks:
            return
        kept = [self.walks.index(walk) for walk in walks]
        self.walks = walks
        if walks:
            self.stack.take(torch.tensor(kept, device=self.crowd._train[0].device))
            self.steppers.take(kept)
            self.noise.take(kept)
