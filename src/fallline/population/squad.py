"""Members of a block that one thread steps: as many as the cache bears, with their weights, streams and optimizers.

The squads of a block share nothing but the rows, so that threads run them side by side: a thread that has a whole squad waits for no
other inside an operation. A member's numbers depend on its squad, never on the threads.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fallline._core.seeds import stream
from fallline.data import Augment
from fallline.population.layers import Layers
from fallline.population.noise import Noise, Unstackable
from fallline.population.passes import make_pass
from fallline.population.seat import Seat
from fallline.population.stack import Stack
from fallline.population.steppers import Steppers, magnified
from fallline.population.turns import Turns
from fallline.training.evaluate import rows_at_once
from fallline.training.goal import Goal
from fallline.training.metrics import Tally, compute_each
from fallline.training.session import AUC_ROWS, EXPLODED, KEPT_OUTPUTS, SMALL
from fallline.training.state import loss_dtype

if TYPE_CHECKING:
    from fallline.data import Split

_GATHER_BYTES = 1 << 19  # rows gathered at once, of all members of a squad; a gather that leaves the cache costs twice
_EVEN = 16  # rows of float32 that end at a multiple of 64 bytes, whatever their width
_ELEMENTS = 1 << 23  # numbers of an activation while rows are judged

Metrics = dict[str, float]


@dataclass
class Rows:
    """What the squads of a block share: the training rows on their device, and how they are cut.

    Args:
        x, y, target: inputs, classes or values as `Data` has them (on the CPU), and targets as the loss reads them.
        batch: rows in a mini-batch.
        goal: loss and target form.
        augment: changes of the inputs.
        l1, l2: penalties on weights.
    """

    x: Tensor
    y: Tensor
    target: Tensor
    batch: int
    goal: Goal
    augment: Augment | None = None
    l1: float = 0.0
    l2: float = 0.0

    @property
    def steps(self) -> int:
        """Mini-batches in an epoch."""
        return math.ceil(len(self.x) / self.batch)

    @property
    def short(self) -> int:
        """Rows of a last mini-batch that has fewer; 0 where none has."""
        return len(self.x) % self.batch


class Stopped(Exception):
    """The user asked to stop; the members of this block are lost."""


class Squad:
    """Members in lock-step.

    Args:
        seats: of the members.
        models: their untrained models.
        rows: that all share.

    Raises:
        Unstackable: the models cannot be run together.
    """

    def __init__(self, seats: Sequence[Seat], models: Sequence[nn.Module], rows: Rows) -> None:
        self.seats, self.rows, self.device = list(seats), rows, rows.x.device
        self.stack = Stack(models, self.device)
        self.noise = Noise([stream(seat.settings.seed, "training") for seat in seats], self.device)
        batch = slice(rows.batch)
        learnt = [n for n, v in self.stack.values.items() if v.ndim > 2] if rows.l1 > 0 or rows.l2 > 0 else []
        bits = next((words for seat in seats if (words := magnified(seat.settings))), "")
        if bits and learnt:  # the penalty's gradient is added to the loss's own in another way than by autograd
            raise Unstackable(bits)
        self.passes = make_pass(self.stack, rows.x[batch], self.noise, rows.target[batch], rows.goal.loss, short=rows.short, bits=bits)
        unused = next((n for n in learnt if n not in self.stack.values), None)
        if unused is not None:
            raise Unstackable(f"'{unused}' is shrunk by the penalty, but the outputs do not need it")
        self.steppers = Steppers(self.stack, [s.settings for s in seats], [s.rate for s in seats], [s.alike for s in seats])
        self.penal = learnt
        self.best: dict[str, Tensor] = {}
        self.step = 0
        self.spots, self.losses = torch.empty((len(seats), 0), dtype=torch.long), torch.empty((len(seats), 0))
        self.tally = Tally(rows.goal, len(seats), 0)
        self._room: tuple[Tensor, Tensor] | None = None

    # --- steps ------------------------------------------------------------------------------------------------------------------------

    def open_epoch(self, orders: Mapping[int, Tensor]) -> None:
        """Begin an epoch with the order of rows of each seed."""
        rows, members = self.rows, len(self.seats)
        self.spots = torch.stack([orders[seat.settings.seed] for seat in self.seats]).to(self.device)
        self.losses = torch.full((members, rows.steps), math.nan, dtype=loss_dtype(self.device), device=self.device)
        self.kept = min(len(rows.x), KEPT_OUTPUTS // rows.goal.outputs)
        self.tally = Tally(rows.goal, members, self.kept, AUC_ROWS)

    def run(self, first: int, end: int, ask: Callable[[], None] = lambda: None) -> None:
        """Steps first .. end - 1 of the epoch; `ask` is called after each, and may raise `Stopped`."""
        rows, members = self.rows, len(self.seats)
        a_step = members * rows.batch * rows.x[:1].numel() * rows.x.element_size()
        at_once = max(1, _GATHER_BYTES // max(1, a_step))
        self.steppers.prepare(self.step, end - first)
        whole = end - (end == rows.steps and rows.short > 0)
        seen: list[Tensor] = []
        for at in range(first, whole, at_once):
            to = min(at + at_once, whole)
            chosen = self.spots[:, at * rows.batch : to * rows.batch].view(members, to - at, rows.batch).transpose(0, 1).reshape(-1)
            for k, (x, target) in enumerate(zip(*self._gather(chosen, to - at, rows.batch), strict=True)):
                seen.append(self._one(at + k, x, target))
                ask()
        if whole < end:
            chosen = self.spots[:, whole * rows.batch :]
            even = -(-rows.short // _EVEN) * _EVEN  # every member's rows begin where rows of its own would: products may round by that
            chosen = torch.cat([chosen, chosen[:, :1].expand(members, even - rows.short)], 1).reshape(-1)
            ((x,), (target,)) = self._gather(chosen, 1, even)
            seen.append(self._one(whole, x[:, : rows.short], target[:, : rows.short]))
        start = first * rows.batch
        if start < self.kept:
            raw = torch.cat(seen, 1)[:, : self.kept - start]
            shown = self.spots[:, start : start + raw.shape[1]].cpu()
            self.tally.add(raw, rows.y[shown])

    def _gather(self, chosen: Tensor, steps: int, batch: int) -> tuple[Tensor, Tensor]:
        """The rows of some steps, (steps, R, batch, ...), in memory that is used again: fresh pages would cost more than the copy."""
        x, target = self.rows.x, self.rows.target
        if self._room is None or len(self._room[0]) < len(chosen):
            self._room = x.new_empty((len(chosen), *x.shape[1:])), target.new_empty((len(chosen), *target.shape[1:]))
        room, wished = self._room[0][: len(chosen)], self._room[1][: len(chosen)]
        torch.index_select(x, 0, chosen, out=room)
        torch.index_select(target, 0, chosen, out=wished)
        shape = (steps, len(self.seats), batch)
        return room.view(*shape, *x.shape[1:]), wished.view(*shape, *target.shape[1:])

    def _one(self, position: int, x: Tensor, target: Tensor) -> Tensor:
        rows, stack = self.rows, self.stack
        if rows.augment is not None:
            x = self._augmented(x, position)
        value, raw = self.passes.step(x, target, rows.goal.loss)
        for name in self.penal:
            w = stack.values[name]
            stack.grads[name] += rows.l1 * w.sign() + 2 * rows.l2 * w
        self.steppers.step(self.step)
        self.step += 1
        self.losses[:, position] = value
        return raw.reshape(len(self.seats), -1, rows.goal.outputs)

    def _augmented(self, x: Tensor, position: int) -> Tensor:
        assert self.rows.augment is not None
        out = []
        for seat, rows in zip(self.seats, x, strict=True):
            seed = stream(seat.settings.seed, "augment", seat.epoch, position)
            out.append(self.rows.augment(rows, torch.Generator(device="cpu").manual_seed(seed)))
        return torch.stack(out)

    def check(self, first: int, end: int, epoch: int) -> bool:
        """Give members their status whose loss is lost: not finite, or ten thousand times the first; whether there are any."""
        part = self.losses[:, first:end]
        found = False
        for i, (seat, mean) in enumerate(zip(self.seats, part.mean(1).cpu().tolist(), strict=True)):
            if math.isnan(seat.start):
                seat.start = float(part[i, 0])
            if math.isfinite(mean) and mean <= EXPLODED * max(abs(seat.start), SMALL):
                continue
            bad = ~torch.isfinite(part[i])
            where = int(bad.nonzero()[0]) if bool(bad.any()) else int(part[i].argmax())
            seat.step = self.step
            seat.diverged(self.step - (end - first) + where + 1, epoch, float(part[i, where]))
            found = True
        return found

    # --- judging ----------------------------------------------------------------------------------------------------------------------

    def close_epoch(self) -> list[Metrics]:
        """What the epoch measured of each member on its training rows, while it learnt."""
        rows = self.rows
        lacking = rows.steps * rows.batch - len(rows.x)  # rows that the last mini-batch lacks
        double = self.losses.double()
        means = ((double.sum(1) * rows.batch - double[:, -1] * lacking) / len(rows.x)).cpu().tolist()
        for seat in self.seats:
            seat.epoch, seat.step = seat.epoch + 1, self.step
        return [{"loss": mean, **each} for mean, each in zip(means, self.tally.metrics(), strict=True)]

    def judge_epoch(self, held: "Split", target: Tensor, test: "Split | None", test_target: Tensor, means: list[float]) -> list[Metrics]:
        """Judge the members on validation rows (or by their training loss, without), keep the best weights, mark on test rows."""
        with self.steppers.as_used():
            found = self.judge(held, target) if len(held) else [{"loss": mean} for mean in means]
            better = []
            for i, (seat, judged) in enumerate(zip(self.seats, found, strict=True)):
                if not math.isfinite(judged["loss"]):
                    seat.diverged(self.step, seat.epoch - 1, judged["loss"])
                elif seat.patience.better(judged["loss"]):
                    better.append(i)
            self._keep(better)
            if test is not None and any(seat.epoch in seat.job.marks for seat in self.seats):
                for seat, judged in zip(self.seats, self.judge(test, test_target), strict=True):
                    if seat.epoch in seat.job.marks and not seat.status:
                        seat.marks[seat.epoch] = judged
        return found

    def _keep(self, better: list[int]) -> None:
        if not better:
            return
        if not self.best:
            self.best = self.stack.copy()
        elif len(better) == len(self.seats):
            for name, now in self.stack.everything.items():
                self.best[name].copy_(now)
        else:
            chosen = torch.tensor(better, device=self.device)
            for name, now in self.stack.everything.items():
                self.best[name][chosen] = now[chosen]

    def judge(self, split: "Split", target: Tensor) -> list[Metrics]:
        """Loss and metrics of every member on the rows of a split, in evaluation mode."""
        goal = self.rows.goal
        with torch.inference_mode():
            raw = self._outputs(split.x)
            members = raw.shape[0]
            read = raw.squeeze(-1) if goal.outputs == 1 else raw
            losses = goal.loss.quick_each(read, target.expand(members, *target.shape)).tolist()
            return [{"loss": loss, **each} for loss, each in zip(losses, compute_each(goal, raw, split.y), strict=True)]

    def _outputs(self, x: Tensor) -> Tensor:
        widths = (v.shape[1] if v.ndim > 1 else 1 for v in self.stack.values.values())
        widest = max([x[:1].numel(), self.rows.goal.outputs, self.stack.widest, *widths])
        members = 1 if isinstance(self.passes, Layers | Turns) else len(self.seats)
        rows = max(1, min(rows_at_once(x), _ELEMENTS // (widest * members)))
        return torch.cat([self.passes.outputs(part.to(self.device)) for part in x.split(rows)], 1)

    # --- leaving ----------------------------------------------------------------------------------------------------------------------

    def leave(self, splits: Mapping[str, tuple["Split", Tensor]], models: bool) -> list[tuple[Seat, dict[str, Metrics], nn.Module | None]]:
        """Members with a status leave, with what their kept weights are worth on each split; the rest move up."""
        going = [i for i, seat in enumerate(self.seats) if seat.status]
        if not going:
            return []
        gone = [self.seats[i] for i in going]
        with self.steppers.as_used() if self.steppers.each else nullcontext():
            state = self.stack.copy(torch.tensor(going, device=self.device))
        for k, (i, seat) in enumerate(zip(going, gone, strict=True)):
            if seat.takes_best:
                for name, kept in state.items():
                    kept[k] = self.best[name][i]
        aside, here = self.stack.swap(state), self.seats
        self.seats = gone
        found = {name: self.judge(*split) for name, split in splits.items() if len(split[0])}
        self.seats = here
        self.stack.swap(aside)
        out = []
        for k, seat in enumerate(gone):
            model = self.stack.module(k, state) if models else None
            out.append((seat, {name: each[k] for name, each in found.items()}, model))
        self._stay([i for i, seat in enumerate(self.seats) if not seat.status])
        return out

    def _stay(self, staying: list[int]) -> None:
        self.seats = [self.seats[i] for i in staying]
        if not staying:
            return
        chosen = torch.tensor(staying, device=self.device)
        self.stack.take(chosen)
        self.noise.take(staying)
        self.steppers.take(staying)
        self.best = {name: kept[chosen] for name, kept in self.best.items()}
        self.spots, self.losses = self.spots[chosen], self.losses[chosen]
        self.tally.take(chosen.cpu())

    def share(self) -> list[float]:
        """Seconds that each member's own rule took since this was asked last."""
        return self.steppers.spent()
