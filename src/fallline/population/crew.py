"""Train a block of members in lock-step: epochs, validation, patience and divergence as a run alone has them, for all at once.

The members share rows, batch size, loss and the shape of their model; optimizer, rate, schedule, decay, clipping, seed, epochs and
patience are each member's own. A member that diverges, or whose epochs are over, leaves; the rest move up.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fallline import data as data_
from fallline.data.batches import order
from fallline._core.seeds import stream
from fallline.optim import schedules
from fallline.population.member import Job, Result
from fallline.population.noise import Noise
from fallline.population.passes import make_pass
from fallline.population.stack import Stack
from fallline.population.steppers import Steppers
from fallline.record import Writer
from fallline.training.checks import batch_rows, check_patience, device_of
from fallline.training.goal import Goal
from fallline.training.loop import Outcome, judged_rows
from fallline.training.metrics import compute_each
from fallline.training.session import AUC_ROWS, EXPLODED, SMALL
from fallline.training.settings import Settings
from fallline.training.stopping import Patience

if TYPE_CHECKING:
    from fallline.data import Data, Split

_GATHER_BYTES = 8 << 20  # rows gathered at once, of all members
_GATHER_STEPS = 50
_KEPT_OUTPUTS = 1 << 26  # numbers of an epoch's outputs kept for the training metrics, of all members
_ELEMENTS = 1 << 24  # numbers of an activation while rows are judged


EachEpoch = Callable[[Sequence[tuple[str, int, dict[str, float]]]], Collection[str]]  # (run, epoch, validation metrics) -> runs that leave


class Stopped(Exception):
    """The user asked to stop; the members of this block are lost."""


class _Seat:
    """What a member of a block remembers besides its weights."""

    def __init__(self, job: Job, steps: int, place: int) -> None:
        settings = job.settings
        assert settings.lr != "auto"
        self.job, self.place, self.settings = job, place, settings
        self.lr = float(settings.lr)
        self.schedule = schedules.build(settings.schedule, total_steps=steps * settings.epochs, steps_per_epoch=steps)
        self.patience = Patience(settings.patience, settings.min_change)
        self.start = math.nan
        self.status, self.message = "", ""
        self.epoch, self.step = 0, 0
        self.seconds = 0.0
        self.marks: dict[int, dict[str, float]] = {}
        self.best: dict[str, Tensor] | None = None
        self.last: dict[str, Tensor] = {}

    def rate(self, step: int) -> float:
        """The learning rate of a step; 0 is the first."""
        return self.lr * self.schedule(step)

    @property
    def alike(self) -> Any:
        """What tells this member's rates from another's: members of the same key share a row of numbers."""
        if isinstance(self.schedule, schedules.Plateau):
            return self.place
        return (self.settings.schedule, self.settings.epochs if self.settings.schedule != "constant" else 0)

    @property
    def over(self) -> bool:
        return self.epoch >= self.settings.epochs or self.patience.over


class Crew:
    """A block of members in training.

    Args:
        jobs: members whose settings differ only in what is a member's own; see `shape_of`.
        models: their untrained models, in the same order.
        data: rows.
        goal: loss and target form; its loss has no parameters and looks at each example alone.
        writer: the record.
        stop: asked after every block of steps; True raises `Stopped`.
        tick: told after every block of steps how many member-steps were made, and the middle of the last losses.
        keep_models: whether results carry the trained models.
        each_epoch: told after each epoch what every member measured; the runs that it names leave with status "stopped".

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
    ) -> None:
        settings = jobs[0].settings
        self.each_epoch = each_epoch
        self.data, self.goal, self.writer, self.stop, self.tick, self.keep_models = data, goal, writer, stop, tick, keep_models
        self.device = device_of(settings.device)
        self.rows, self.batch = len(data.train), batch_rows(settings, len(data.train))
        self.steps = math.ceil(self.rows / self.batch)
        self.x = data.train.x.to(self.device)
        self.target = goal.targets(data.train.y).to(self.device)
        self.held_x = data.validation.x.to(self.device)
        self.held_target = goal.targets(data.validation.y).to(self.device)
        goal.loss.to(self.device)
        for job in jobs:
            check_patience(job.settings, len(self.held_x))
        self.augment = data_.Augment.parse(settings.augment) if settings.augment else None
        self.seats = [_Seat(job, self.steps, place) for place, job in enumerate(jobs)]
        self.size = len(jobs)
        self.stack = Stack(models, self.device)
        self.noise = Noise([stream(job.settings.seed, "training") for job in jobs], self.device)
        self.passes = make_pass(self.stack, self.x[: self.batch], self.noise, self.target[: self.batch], goal.loss)
        self.steppers = Steppers(self.stack, [j.settings for j in jobs], [s.rate for s in self.seats], [s.alike for s in self.seats])
        self.penal = [n for n, v in self.stack.values.items() if v.ndim > 2] if settings.l1 > 0 or settings.l2 > 0 else []
        self.l1, self.l2 = settings.l1, settings.l2
        self.done: list[Result] = []
        self.step = 0

    # --- from the first step to the last ----------------------------------------------------------------------------------------------

    def train(self) -> list[Result]:
        """Train all members to their ends; results in the order of the jobs."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            self._began = self._mark = time.perf_counter()
            self._begin()
            while self.seats:
                self._epoch()
        return sorted(self.done, key=lambda result: self._order[id(result.job)])

    def _begin(self) -> None:
        self._order = {id(seat.job): seat.place for seat in self.seats}
        if len(self.held_x):
            for seat, found in zip(self.seats, self._validate(0), strict=True):
                seat.start = found["loss"]
                if not math.isfinite(seat.start):
                    seat.status = "diverged"
                    seat.message = (
                        "the untrained model gives a loss that is not finite; check its initial weights and the scale of the inputs."
                    )
            self._share()
            self._leave()

    def _epoch(self) -> None:
        """One epoch of all members that are left."""
        epoch, count = self.seats[0].epoch, len(self.seats)
        orders: dict[int, Tensor] = {}
        for seat in self.seats:
            seed = seat.settings.seed
            if seed not in orders:
                orders[seed] = order(self.rows, seed=seed, epoch=epoch)
        spots = torch.stack([orders[seat.settings.seed] for seat in self.seats]).to(self.device)
        losses = torch.full((count, self.steps), math.nan, dtype=self.x.dtype, device=self.device)
        kept = min(self.rows, max(1, _KEPT_OUTPUTS // (self.goal.outputs * count)))
        outputs = self.x.new_empty((count, kept, self.goal.outputs))
        bytes_a_step = max(1, self.x[:1].numel() * self.x.element_size() * self.batch * count)
        block = max(1, min(_GATHER_STEPS, _GATHER_BYTES // bytes_a_step, math.ceil(self.steps / 4)))
        for first in range(0, self.steps, block):
            end = min(first + block, self.steps)
            self._block(spots, first, end, losses, outputs)
            gone = self._check(losses, first, end, epoch)
            if gone:
                left = [i for i in range(len(self.seats)) if i not in gone]
                chosen = torch.tensor(left, dtype=torch.long, device=self.device)
                self._share()
                self._leave()
                spots, losses, outputs = spots[chosen], losses[chosen], outputs[chosen]
                if not self.seats:
                    return
            middle = float(losses[:, end - 1].median())
            self.tick((end - first) * len(self.seats), middle)
            if self.stop():
                raise Stopped
        self._close(spots, losses, outputs)

    def _block(self, spots: Tensor, first: int, end: int, losses: Tensor, outputs: Tensor) -> None:
        batch, count = self.batch, len(self.seats)
        kept = outputs.shape[1]
        chosen = spots[:, first * batch : end * batch]
        x = self.x[chosen]
        target = self.target[chosen]
        for k, (xs, ts) in enumerate(zip(x.split(batch, 1), target.split(batch, 1), strict=True)):
            if self.augment is not None:
                xs = self._augmented(xs, first + k)  # noqa: PLW2901
            value, raw = self.passes.step(xs, ts, self.goal.loss)
            for name in self.penal:
                w = self.stack.values[name]
                self.stack.grads[name] += self.l1 * w.sign() + 2 * self.l2 * w
            self.steppers.step(self.step)
            self.step += 1
            losses[:, first + k] = value
            row = (first + k) * batch
            if row < kept:
                width = min(kept - row, raw.shape[1])
                outputs[:, row : row + width] = raw.reshape(count, -1, self.goal.outputs)[:, :width]

    def _augmented(self, x: Tensor, position: int) -> Tensor:
        assert self.augment is not None
        out = []
        for seat, rows in zip(self.seats, x, strict=True):
            seed = stream(seat.settings.seed, "augment", seat.epoch, position)
            out.append(self.augment(rows, torch.Generator(device="cpu").manual_seed(seed)))
        return torch.stack(out)

    def _check(self, losses: Tensor, first: int, end: int, epoch: int) -> list[int]:
        """Members whose loss is lost: not finite, or ten thousand times the first."""
        part = losses[:, first:end].double()
        means = part.mean(1).cpu().tolist()
        gone = []
        for i, (seat, mean) in enumerate(zip(self.seats, means, strict=True)):
            if math.isnan(seat.start):
                seat.start = float(part[i, 0])
            if math.isfinite(mean) and mean <= EXPLODED * max(abs(seat.start), SMALL):
                continue
            bad = ~torch.isfinite(part[i])
            where = int(bad.nonzero()[0]) if bool(bad.any()) else int(part[i].argmax())
            seat.step = self.step
            self._diverged(seat, self.step - (end - first) + where + 1, epoch, float(part[i, where]))
            gone.append(i)
        return gone

    def _diverged(self, seat: _Seat, step: int, epoch: int, value: float) -> None:
        seat.status = "diverged"
        seat.message = (
            f"training diverged at step {step} (epoch {epoch + 1}): the loss became {value:.4g}, it began at {seat.start:.4g}; "
            f"try a learning rate of {seat.lr / 10:.2g} (it was {seat.lr:.2g}), or clip_norm=1."
        )

    # --- the end of an epoch ----------------------------------------------------------------------------------------------------------

    def _close(self, spots: Tensor, losses: Tensor, outputs: Tensor) -> None:
        short = self.steps * self.batch - self.rows
        double = losses.double()
        means = ((double.sum(1) * self.batch - double[:, -1] * short) / self.rows).cpu().tolist()
        trained = compute_each(self.goal, outputs, self.data.train.y[spots[:, : outputs.shape[1]].cpu()], auc_rows=AUC_ROWS)
        for seat in self.seats:
            seat.epoch, seat.step = seat.epoch + 1, self.step
        self._share()
        with self.steppers.as_used():
            found = self._validate(self.step) if len(self.held_x) else [{"loss": mean} for mean in means]
            better = []
            for i, (seat, judged) in enumerate(zip(self.seats, found, strict=True)):
                if not math.isfinite(judged["loss"]):
                    self._diverged(seat, self.step, seat.epoch - 1, judged["loss"])
                elif seat.patience.better(judged["loss"]):
                    better.append(i)
            held = self.stack.copy(torch.tensor(better, dtype=torch.long, device=self.device)) if better else {}
            for k, i in enumerate(better):
                self.seats[i].best = {name: tensor[k] for name, tensor in held.items()}
            self._judge_marks()
        for seat, mean, metrics, judged in zip(self.seats, means, trained, found, strict=True):
            self._note(
                seat, {"loss": mean, **metrics, "seconds_per_step": seat.seconds / max(seat.step, 1), "lr": seat.rate(seat.step - 1)}
            )
            if isinstance(seat.schedule, schedules.Plateau):
                seat.schedule.update(judged["loss"])
            if seat.over and not seat.status:
                seat.status = "finished"
                if seat.patience.over and seat.epoch < seat.settings.epochs:
                    waited = seat.patience.waited
                    seat.message = f"stopped after epoch {seat.epoch}: no better validation loss for {waited} epochs."
        whole = [(s.job.run, s.epoch, judged) for s, judged in zip(self.seats, found, strict=True) if s.status != "diverged"]
        gone = self.each_epoch(whole) if whole else ()
        for seat in self.seats:
            if seat.job.run in gone and not seat.status:
                seat.status, seat.message = "stopped", f"stopped after epoch {seat.epoch}: others did better."
        self._leave()

    def _share(self) -> None:
        """Give every member its share of the time since the last call."""
        now = time.perf_counter()
        stepped = self.steppers.seconds
        common = max(0.0, now - self._mark - float(stepped.sum())) / max(len(self.seats), 1)
        for seat, own in zip(self.seats, stepped.tolist(), strict=True):
            seat.seconds += common + own
        self.steppers.seconds = np.zeros(len(self.seats))
        self._mark = now

    def _validate(self, step: int) -> list[dict[str, float]]:
        raw = self._outputs(self.held_x)
        losses = self._losses(raw, self.held_target)
        metrics = compute_each(self.goal, raw, self.data.validation.y)
        found = [{"loss": loss, **each} for loss, each in zip(losses, metrics, strict=True)]
        for seat, each in zip(self.seats, found, strict=True):
            self._note(seat, each, split="validation", step=step)
        return found

    def _judge_marks(self) -> None:
        epoch = self.seats[0].epoch
        if not len(self.data.test) or not any(epoch in seat.job.marks for seat in self.seats):
            return
        found = self._judged(self.data.test)
        for seat, each in zip(self.seats, found, strict=True):
            if epoch in seat.job.marks:
                seat.marks[epoch] = each

    def _outputs(self, x: Tensor) -> Tensor:
        widest = max([x[:1].numel(), self.goal.outputs, *(v.shape[1] if v.ndim > 1 else 1 for v in self.stack.values.values())])
        rows = max(1, min(len(x), _ELEMENTS // (widest * len(self.seats))))
        with torch.inference_mode():
            return torch.cat([self.passes.outputs(part.to(self.device)) for part in x.split(rows)], 1)

    def _losses(self, raw: Tensor, target: Tensor) -> list[float]:
        quick, squeeze = self.goal.loss.quick, self.goal.squeeze
        with torch.inference_mode():
            return [float(quick(squeeze(each), target)) for each in raw]

    def _judged(self, split: "Split") -> list[dict[str, float]]:
        raw = self._outputs(split.x)
        losses = self._losses(raw, self.goal.targets(split.y).to(self.device))
        return [{"loss": loss, **each} for loss, each in zip(losses, compute_each(self.goal, raw, split.y), strict=True)]

    def _note(self, seat: _Seat, values: dict[str, float], *, split: str = "train", step: int | None = None) -> None:
        at = seat.step if step is None else step
        for key, value in values.items():
            self.writer.scalar(key, value, step=at, epoch=at / self.steps, split=split, run=seat.job.run, seconds=seat.seconds)

    # --- leaving ----------------------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Members with a status get their results; the rest move up."""
        going = [i for i, seat in enumerate(self.seats) if seat.status]
        if not going:
            return
        with self.steppers.as_used() if self.steppers.each else nullcontext():
            now = self.stack.copy(torch.tensor(going, dtype=torch.long, device=self.device))
        for k, i in enumerate(going):
            seat = self.seats[i]
            seat.last = {name: tensor[k] for name, tensor in now.items()}
        self._finish([self.seats[i] for i in going])
        staying = [i for i in range(len(self.seats)) if i not in going]
        self.seats = [self.seats[i] for i in staying]
        if staying:
            self.stack.take(torch.tensor(staying, dtype=torch.long, device=self.device))
            self.noise.take(staying)
            self.steppers.take(staying)
        self._mark = time.perf_counter()

    def _finish(self, seats: list[_Seat]) -> None:
        """Judge the weights that are kept, as a run alone does."""
        chosen = [
            seat.best if seat.best is not None and (seat.settings.keep == "best" or seat.status == "diverged") else seat.last
            for seat in seats
        ]
        best_epoch = [seat.patience.best_epoch if weights is seat.best else seat.epoch for seat, weights in zip(seats, chosen, strict=True)]
        state = {name: torch.stack([each[name] for each in chosen]) for name in chosen[0]}
        aside = self.stack.swap(state)
        here, self.seats = self.seats, seats
        splits = {"train": judged_rows(self.data.train), "validation": self.data.validation, "test": self.data.test}
        found = {name: self._judged(split) for name, split in splits.items() if len(split)}
        self.seats = here
        self.stack.swap(aside)
        for k, seat in enumerate(seats):
            tests = seat.job.test and seat.status == "finished"
            metrics = {name: each[k] for name, each in found.items() if name != "test" or tests}
            if tests and "test" in metrics:
                self._note(seat, metrics["test"], split="test")
            if seat.status == "diverged" and seat.best is None:
                seat.message += " No epoch was finished before it, so the model's weights are of no use."
            finite = {n: {key: v if math.isfinite(v) else math.nan for key, v in each.items()} for n, each in metrics.items()}
            outcome = Outcome(seat.status, seat.epoch, seat.step, best_epoch[k], finite, seat.seconds, seat.message)
            model = self.stack.module(k, state) if self.keep_models else None
            self.done.append(Result(seat.job, outcome, seat.marks, self.size, model=model))


def shape_of(settings: Settings) -> Settings:
    """What members of one block have in common: the settings with a member's own put to one value."""
    own = {"optimizer": "sgd", "lr": 1.0, "schedule": "constant", "seed": 0, "epochs": 1, "patience": None, "min_change": 0.0}
    return dataclasses.replace(settings, **own, weight_decay=None, clip_norm=None, keep="best", engine="auto", checkpoint_seconds=30.0)
