"""Train a block of members in lock-step: epochs, validation, patience and divergence as a run alone has them, for all at once.

The members share rows, batch size, loss and the shape of their model; optimizer, rate, schedule, decay, clipping, seed, epochs and
patience are each member's own. They sit in squads, which threads step side by side. A member that diverges, or whose epochs are over,
leaves; the rest move up.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fallline import data as data_
from fallline.data.batches import order
from fallline.optim import schedules
from fallline.population.layers import Layers
from fallline.population.member import Job, Result
from fallline.population.seat import Seat
from fallline.population.squad import Metrics, Rows, Squad, Stopped
from fallline.population.turns import Turns
from fallline.record import Writer
from fallline.training.checks import batch_rows, check_patience, device_of
from fallline.training.goal import Goal
from fallline.training.loop import Outcome, judged_rows
from fallline.training.session import block_of
from fallline.training.settings import Settings
from fallline.training.threads import is_small

if TYPE_CHECKING:
    from fallline.data import Data


_PATIENCE = 0.2  # seconds between two questions whether to stop
EachEpoch = Callable[[Sequence[tuple[str, int, dict[str, float]]]], Collection[str]]  # (run, epoch, validation metrics) -> runs that leave


class Crew:
    """A block of members in training.

    Args:
        jobs: members whose settings differ only in what is a member's own; see `shape_of`.
        models: their untrained models, in the same order.
        data: rows.
        goal: loss and target form; its loss has no parameters and looks at each example alone.
        writer: the record.
        stop: asked after every block of steps, and a few times a second where that takes longer; True raises `Stopped`.
        tick: told after every block of steps how many member-steps were made, and the middle of the last losses.
        keep_models: whether results carry the trained models.
        each_epoch: told after each epoch what every member measured; the runs that it names leave with status "stopped".
        squad: members that one thread steps together, at most; 0: all.

    Raises:
        Unstackable: the models cannot be run together; nothing was recorded.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        models: Sequence[nn.Module],
        data: "Data",
        goal: Goal,
        writer: Writer,
        *,
        stop: Callable[[], bool] = lambda: False,
        tick: Callable[[int, float], None] = lambda steps, loss: None,
        keep_models: bool = False,
        each_epoch: EachEpoch = lambda members: (),
        squad: int = 0,
    ) -> None:
        settings = jobs[0].settings
        self.each_epoch, self.leaving, self.in_turn, self._asked = each_epoch, False, True, time.perf_counter()
        self.data, self.goal, self.writer, self.stop, self.tick, self.keep_models = data, goal, writer, stop, tick, keep_models
        self.device = device_of(settings.device)
        goal.loss.to(self.device)
        target = goal.targets(data.train.y).to(self.device)
        augment = data_.Augment.parse(settings.augment) if settings.augment else None
        batch = batch_rows(settings, len(data.train))
        self.rows = Rows(data.train.x.to(self.device), data.train.y, target, batch, goal, augment, settings.l1, settings.l2)
        self.steps = self.rows.steps
        self.held_target, self.test_target = (goal.targets(split.y).to(self.device) for split in (data.validation, data.test))
        for job in jobs:
            check_patience(job.settings, len(data.validation))
        self.size = len(jobs)
        self.order = {id(job): place for place, job in enumerate(jobs)}
        seats = sorted((Seat(job, self.steps, place) for place, job in enumerate(jobs)), key=lambda seat: seat.together)
        parts = 1 if self.device.type != "cpu" or not squad else -(-len(seats) // squad)
        cuts = [len(seats) * part // parts for part in range(parts + 1)]
        self.workers = min(parts, torch.get_num_threads())
        self.small = is_small(models[0], batch * -(-len(seats) // parts))
        self.squads: list[Squad] = []
        with self._threads():
            for first, end in pairwise(cuts):
                mine = seats[first:end]
                self.squads.append(Squad(mine, [models[seat.place] for seat in mine], self.rows))
        if any(
            isinstance(squad.passes, Layers | Turns) for squad in self.squads
        ):  # to the bit as alone: with as many threads, one after another
            self.workers = 1
        train = judged_rows(data.train)
        self.splits = {
            "train": (train, target if train is data.train else goal.targets(train.y).to(self.device)),
            "validation": (data.validation, self.held_target),
            "test": (data.test, self.test_target),
        }
        self.done: list[Result] = []

    @property
    def seats(self) -> list[Seat]:
        """The members that are left."""
        return [seat for squad in self.squads for seat in squad.seats]

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """The threads of torch shared out among the squads: one squad, one thread, where there are as many and they work side by side."""
        before = torch.get_num_threads()
        try:
            if self.device.type == "cpu":
                torch.set_num_threads(1 if self.small else max(1, before // self.workers))
            yield
        finally:
            torch.set_num_threads(before)

    # --- from the first step to the last ----------------------------------------------------------------------------------------------

    def train(self) -> list[Result]:
        """Train all members to their ends; results in the order of the jobs."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), self._threads(), ThreadPoolExecutor(self.workers) as self.pool:
            self._mark = time.perf_counter()
            self._begin()
            while self.squads:
                self._epoch()
        return sorted(self.done, key=lambda result: self.order[id(result.job)])

    def _all(self, name: str, *arguments: Any) -> list[Any]:
        """A method of every squad, side by side."""
        self.in_turn = self.workers == 1 or len(self.squads) == 1
        if self.in_turn:
            return [getattr(squad, name)(*arguments) for squad in self.squads]
        made = [self.pool.submit(getattr(squad, name), *arguments) for squad in self.squads]
        while wait(made, _PATIENCE).not_done:
            self.leaving = self.leaving or self.stop()  # the squads look at it
        return [each.result() for each in made]

    def _ask(self) -> None:
        """Called by every squad after each step."""
        if self.leaving:
            raise Stopped
        now = time.perf_counter()
        if self.in_turn and now - self._asked > _PATIENCE:
            self._asked = now
            if self.stop():
                raise Stopped

    def _members(self, name: str, *arguments: Any) -> list[Any]:
        """A method of every squad that gives a list by members, joined."""
        return [each for found in self._all(name, *arguments) for each in found]

    def _begin(self) -> None:
        if not len(self.data.validation):
            return
        found = self._members("judge", self.data.validation, self.held_target)
        for seat, each in zip(self.seats, found, strict=True):
            seat.start = each["loss"]
            if not math.isfinite(seat.start):
                seat.status = "diverged"
                seat.message = "the untrained model gives a loss that is not finite; check its initial weights and the scale of the inputs."
        self._share()
        self._note(self.seats, found, "validation")
        self._leave()

    def _epoch(self) -> None:
        """One epoch of all members that are left."""
        epoch = self.seats[0].epoch
        orders = {seed: order(len(self.rows.x), seed=seed, epoch=epoch) for seed in {seat.settings.seed for seat in self.seats}}
        self._all("open_epoch", orders)
        block = block_of(self.rows.x, self.rows.batch)
        for first in range(0, self.steps, block):
            end = min(first + block, self.steps)
            self._all("run", first, end, self._ask)
            count = len(self.seats)
            if any(self._all("check", first, end, epoch)):
                self._share()
                self._leave()
                if not self.squads:
                    return
            last = torch.cat([squad.losses[:, end - 1] for squad in self.squads])
            self.tick((end - first) * count, float(last.median()))
            self._asked = time.perf_counter()
            if self.leaving or self.stop():
                raise Stopped
        self._close()

    # --- the end of an epoch ----------------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        trained = self._members("close_epoch")
        test = self.data.test if len(self.data.test) else None
        if len(self.data.validation):
            found = self._members("judge_epoch", self.data.validation, self.held_target, test, self.test_target, [])
        else:
            means = iter(trained)
            found = []
            for squad in self.squads:
                mine = [next(means)["loss"] for _ in squad.seats]
                found += squad.judge_epoch(self.data.validation, self.held_target, test, self.test_target, mine)
        self._share()
        seats = self.seats
        for seat, each, judged in zip(seats, trained, found, strict=True):
            each["seconds_per_step"], each["lr"] = seat.seconds / max(seat.step, 1), seat.rate(seat.step - 1)
            if isinstance(seat.schedule, schedules.Plateau):
                seat.schedule.update(judged["loss"])
            seat.finish()
        self._note(seats, trained, "train")
        if len(self.data.validation):
            self._note(seats, found, "validation")
        whole = [(s.job.run, s.epoch, judged) for s, judged in zip(seats, found, strict=True) if s.status != "diverged"]
        gone = self.each_epoch(whole) if whole else ()
        for seat in seats:
            if seat.job.run in gone and not seat.status:
                seat.status, seat.message = "stopped", f"stopped after epoch {seat.epoch}: others did better."
        self._leave()

    def _share(self) -> None:
        """Give every member its share of the time since the last call: the step of its own rule, and of all else an equal part."""
        now = time.perf_counter()
        own = [[seconds / self.workers for seconds in squad.share()] for squad in self.squads]
        common = max(0.0, now - self._mark - sum(map(sum, own))) / max(sum(map(len, own)), 1)
        for squad, mine in zip(self.squads, own, strict=True):
            for seat, seconds in zip(squad.seats, mine, strict=True):
                seat.seconds += common + seconds
        self._mark = now

    def _note(self, seats: Sequence[Seat], values: Sequence[Metrics], split: str) -> None:
        """Record what was measured of members just now."""
        for seat, each in zip(seats, values, strict=True):
            self.writer.scalars(each, step=seat.step, epoch=seat.step / self.steps, split=split, run=seat.job.run, seconds=seat.seconds)

    def _leave(self) -> None:
        """Members with a status get their results."""
        for seat, metrics, model in self._members("leave", self.splits, self.keep_models):
            tested = seat.job.test and seat.status == "finished"
            found = {name: each for name, each in metrics.items() if name != "test" or tested}
            if "test" in found:
                self._note([seat], [found["test"]], "test")
            if seat.status == "diverged" and not seat.patience.best_epoch:
                seat.message += " No epoch was finished before it, so the model's weights are of no use."
            finite = {name: {key: v if math.isfinite(v) else math.nan for key, v in each.items()} for name, each in found.items()}
            best = seat.patience.best_epoch if seat.takes_best else seat.epoch
            outcome = Outcome(seat.status, seat.epoch, seat.step, best, finite, seat.seconds, seat.message)
            self.done.append(Result(seat.job, outcome, seat.marks, self.size, model=model))
        self.squads = [squad for squad in self.squads if squad.seats]
        self._mark = time.perf_counter()


def shape_of(settings: Settings) -> Settings:
    """What members of one block have in common: the settings with a member's own put to one value."""
    own = {"optimizer": "sgd", "lr": 1.0, "schedule": "constant", "seed": 0, "epochs": 1, "patience": None, "min_change": 0.0}
    return dataclasses.replace(settings, **own, weight_decay=None, clip_norm=None, keep="best", engine="auto", checkpoint_seconds=30.0)
