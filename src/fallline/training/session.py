"""One run in the making: model, rows, optimizer, schedule and state, and the inner loop over one epoch.

The inner loop does per step what must be done (forward, loss, backward, optimizer) and nothing else: rows are gathered for many
steps at once, losses and outputs are kept as tensors, and numbers are read once every few dozen steps.
"""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fallline import data as data_
from fallline import penalties
from fallline._core.errors import FalllineError
from fallline._core.progress import Progress
from fallline._core.seeds import stream
from fallline.optim import schedules
from fallline.record import CHECKPOINT_FILE, Writer
from fallline.training import checkpoint, trained
from fallline.training.checks import batch_rows, check_patience, device_of
from fallline.training.dense import dense_stack
from fallline.training.evaluate import learn_reading, mean_loss, outputs
from fallline.training.goal import Goal
from fallline.training.metrics import compute
from fallline.training.settings import Settings
from fallline.training.state import State, Tally, rng_state, set_rng_state
from fallline.training.stepping import as_used, bare_step, build_optimizer
from fallline.training.stopping import Patience
from fallline.training.track import tracker

if TYPE_CHECKING:
    from fallline.data import Data

_GATHER_BYTES = 2 << 20  # rows gathered at once; more would fall out of the cache before it is used
_GATHER_STEPS = 50
KEPT_OUTPUTS = 1 << 24  # numbers of the epoch's outputs kept for the training metrics
AUC_ROWS = 1 << 9  # of the epoch's last outputs go into the training ROC AUC, whose sorting would cost a tenth of a fast epoch
_POINTS = 200  # recorded points an epoch
_APART = 1.0  # seconds between checkpoints at the ends of short epochs
EXPLODED = 1e4
SMALL = 1e-3


def block_of(x: Tensor, batch: int) -> int:
    """Steps between two looks at the losses, for training rows x (rows, ...)."""
    row_bytes = max(1, x[:1].numel() * x.element_size())
    most = max(1, _GATHER_BYTES // (row_bytes * batch))
    return max(1, min(_GATHER_STEPS, most, math.ceil(math.ceil(len(x) / batch) / 4)))


class Diverged(Exception):
    """Training left the finite numbers; carries the sentence to say."""


class Interrupted(Exception):
    """The user asked to stop; the state is saved."""


class NotResumed(FalllineError):
    """A checkpoint that cannot be gone on from; nothing was changed."""


class Session:
    """Everything that one call of `train` works with."""

    def __init__(
        self,
        model: nn.Module,
        data: "Data",
        settings: Settings,
        goal: Goal,
        *,
        writer: Writer,
        folder: Path | None,
        run: str,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.settings, self.goal, self.writer, self.folder, self.run = settings, goal, writer, folder, run
        self.data = data
        self.stop = stop or (lambda: False)
        self.each_epoch: Callable[[int, dict[str, float]], None] | None = None
        self.leave: Callable[[], bool] | None = None
        self.left = False  # whether `leave` said so
        self.last: dict[str, float] = {}
        self.device = device_of(settings.device)
        self.model = model.to(self.device)
        self.rows = len(data.train)
        self.batch = batch_rows(settings, self.rows)
        self.steps = math.ceil(self.rows / self.batch)
        self.total = self.steps * settings.epochs
        self.x = data.train.x.to(self.device)
        self.y = data.train.y
        self.target = goal.targets(data.train.y).to(self.device)
        self.held_x = data.validation.x.to(self.device)
        self.held_target = goal.targets(data.validation.y).to(self.device)
        goal.loss.to(self.device)
        check_patience(settings, len(self.held_x))
        assert settings.lr != "auto"
        self.lr = float(settings.lr)
        self.optimizer = build_optimizer(self.model, goal.loss, settings)
        self.schedule = schedules.build(settings.schedule, total_steps=self.total, steps_per_epoch=self.steps)
        self.steady = settings.schedule == "constant"
        self.augment = data_.Augment.parse(settings.augment) if settings.augment else None
        self.parameters = [
            *self.model.parameters(),
            *goal.loss.parameters(),
        ]  # frozen ones too: one may hold an old gradient, or be thawed later
        self.patience = Patience(settings.patience, settings.min_change)
        self.state = State()
        self.block = block_of(self.x, self.batch)
        room = min(self.block * self.batch, self.rows)
        self._room = self.x.new_empty((room, *self.x.shape[1:])), self.target.new_empty((room, *self.target.shape[1:]))
        width = goal.outputs
        self.kept = 0 if goal.learns else min(self.rows, KEPT_OUTPUTS // width)
        self.tally = Tally.empty(self.steps, self.kept, width, self.x.dtype, self.device)
        self.tracker = tracker(settings.track, folder)
        self._began = self._saved = time.monotonic()
        self._before = 0.0

    # --- the inner loop ---------------------------------------------------------------------------------------------------

    def epoch(self, bar: Progress) -> None:
        """The rest of the running epoch; raises `Interrupted` or `Diverged`."""
        state, batch = self.state, self.batch
        began = time.monotonic() - state.lived
        order = next(iter(data_.batches(self.rows, self.rows, seed=self.settings.seed, epoch=state.epoch, device="cpu")))
        spots = order.to(self.device)
        self.model.train()
        while state.position < self.steps:
            first = state.position
            end = min((first // self.block + 1) * self.block, self.steps)
            stopped = self._block(*self._gather(spots[first * batch : end * batch], at=first % self.block * batch))
            self._norm(end)
            self._check(first, state.position)
            bar.advance(state.position - first, note=f"epoch {state.epoch + 1}, loss {float(self.tally.losses[state.position - 1]):.4g}")
            if stopped:
                state.lived = time.monotonic() - began
                raise Interrupted
            if time.monotonic() - self._saved > self.settings.checkpoint_seconds:
                state.lived = time.monotonic() - began
                self.save()
        spent = time.monotonic() - began
        self._close_epoch(order, spent)

    def _gather(self, chosen: Tensor, *, at: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The rows of a block as batches, in memory that is used again for the next block (fresh pages would cost more than the copy).

        A block that is gone on with starts at row `at` of it, where it would have been: matrix products may round by the alignment.
        """
        x, target = (room[at : at + len(chosen)] for room in self._room)
        torch.index_select(self.x, 0, chosen, out=x)
        torch.index_select(self.target, 0, chosen, out=target)
        return x.split(self.batch), target.split(self.batch)

    def _block(self, xs: tuple[Tensor, ...], ts: tuple[Tensor, ...]) -> bool:
        """Steps over gathered batches; whether the user asked to stop."""
        model, quick, step, parameters = self.model, self.goal.loss.quick, bare_step(self.optimizer), self.parameters
        single, penal, stop = self.goal.outputs == 1, self.settings.l1 > 0 or self.settings.l2 > 0, self.stop
        own = next(self.goal.loss.parameters(), None) is not None  # parameters of the loss: autograd has to reach them
        dense = None if penal or own else dense_stack(model, xs[0])
        slope = self._slope
        losses: list[Tensor] = []
        seen: list[Tensor] = []
        stopped = False
        for x, target in zip(xs, ts, strict=True):
            if not self.steady:
                self._set_lr()
            if self.augment is not None:
                x = self._augmented(x)  # noqa: PLW2901
            for p in parameters:
                p.grad = None
            if dense is not None:
                raw, loss = dense.step(x, functools.partial(slope, y=target))
                losses.append(loss)
                seen.append(raw)
            else:
                raw = model(x)
                if single:
                    raw = raw.reshape(-1)
                loss = quick(raw, target)
                losses.append(loss.detach())
                seen.append(raw.detach())
                if penal:
                    loss = loss + self._penalty()
                loss.backward()
            step()
            self.state.step += 1
            self.state.position += 1
            if stop():
                stopped = True
                break
        end = self.state.position
        first = end - len(losses)
        self.tally.losses[first:end] = torch.stack(losses)
        row = first * self.batch
        if row < self.kept:
            whole = torch.cat(seen).reshape(-1, self.goal.outputs)[: self.kept - row]
            self.tally.outputs[row : row + len(whole)] = whole
        return stopped

    def _slope(self, raw: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of raw outputs (N, outputs) and its derivative by them."""
        if self.goal.outputs > 1:
            return self.goal.loss.quick_slope(raw, y)
        value, slope = self.goal.loss.quick_slope(raw.reshape(-1), y)
        return value, slope.reshape(raw.shape)

    def _set_lr(self) -> None:
        lr = self.lr * self.schedule(self.state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _augmented(self, x: Tensor) -> Tensor:
        assert self.augment is not None
        words = ("augment", self.state.epoch, self.state.position)
        generator = torch.Generator(device="cpu").manual_seed(stream(self.settings.seed, *words))
        return self.augment(x, generator)

    def _penalty(self) -> Tensor:
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        return self.settings.l1 * penalties.l1(named) + self.settings.l2 * penalties.l2(named)

    def _norm(self, end: int) -> None:
        """The norm of the gradient of the last step of a block."""
        if self.state.position == end:
            grads = [p.grad for p in self.parameters if p.grad is not None]
            if grads:
                self.tally.norms[end - 1] = torch.nn.utils.get_total_norm(grads)

    def _check(self, first: int, end: int) -> None:
        """Refuse to go on from losses that are not finite, or ten thousand times the first."""
        losses = self.tally.losses[first:end]
        mean = float(losses.mean())
        if math.isnan(self.state.start):
            self.state.start = float(losses[0])
        limit = EXPLODED * max(abs(self.state.start), SMALL)
        if math.isfinite(mean) and mean <= limit:
            return
        bad = ~torch.isfinite(losses)
        where = int(bad.nonzero()[0]) if bool(bad.any()) else int(losses.argmax())
        step = self.state.step - (end - first) + where + 1
        self._diverged(step, self.state.epoch + 1, float(losses[where]))

    def _diverged(self, step: int, epoch: int, value: float) -> None:
        raise Diverged(
            f"training diverged at step {step} (epoch {epoch}): the loss became {value:.4g}, it began at "
            f"{self.state.start:.4g}; try a learning rate of {self.lr / 10:.2g} (it was {self.lr:.2g}), or clip_norm=1."
        )

    # --- the end of an epoch ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Before the first step: how good is the untrained model on the validation rows."""
        if len(self.held_x):
            self._learn(step=0, epoch=0.0, record=False)
            self.state.start = self._validate(step=0, epoch=0.0)
            if not math.isfinite(self.state.start):
                raise Diverged(
                    "the untrained model gives a loss that is not finite; check its initial weights and the scale of the inputs."
                )

    def _close_epoch(self, order: Tensor, spent: float) -> None:
        state, tally = self.state, self.tally
        state.epoch += 1
        state.position = 0
        state.lived = 0.0
        self._points(spent)
        step, epoch = state.step, float(state.epoch)
        losses = tally.losses.double()
        short = self.steps * self.batch - self.rows  # rows that the last batch lacks
        loss = float((losses.sum() * self.batch - losses[-1] * short) / self.rows)
        self.note("loss", loss, step=step, epoch=epoch)
        if not self.goal.learns:
            for key, value in compute(self.goal, tally.outputs, self.y[order[: self.kept]], auc_rows=AUC_ROWS).items():
                self.note(key, value, step=step, epoch=epoch)
        self.note("seconds_per_step", spent / self.steps, step=step, epoch=epoch)
        self.note("examples_per_second", self.rows / max(spent, 1e-9), step=step, epoch=epoch)
        with as_used(self.optimizer):
            self._learn(step=step, epoch=epoch)
            judged = self._validate(step=step, epoch=epoch) if len(self.held_x) else loss
            if not math.isfinite(judged):
                self._diverged(step, state.epoch, judged)
            if self.patience.better(judged):
                state.best = {name: t.detach().clone() for name, t in trained.state(self.model, self.goal.loss).items()}
            if self.each_epoch is not None:
                self.each_epoch(state.epoch, dict(self.last))
            self.left = self.leave is not None and self.leave()
        if isinstance(self.schedule, schedules.Plateau):
            self.schedule.update(judged)
        tally.losses.fill_(math.nan)
        tally.norms.fill_(math.nan)
        if time.monotonic() - self._saved > min(_APART, self.settings.checkpoint_seconds) or self.over:
            self.save()

    @property
    def over(self) -> bool:
        """Whether there is no epoch left to do."""
        return self.state.epoch >= self.settings.epochs or self.patience.over or self.left

    def _learn(self, *, step: int, epoch: float, record: bool = True) -> None:
        """Learn how the outputs are to be read, where that is needed; the rows that this looks at give the training metrics."""
        seen = learn_reading(self.model, self.data.train, self.goal)
        if seen is not None and record:
            for key, value in compute(self.goal, *seen, auc_rows=AUC_ROWS).items():
                self.note(key, value, step=step, epoch=epoch)

    def _validate(self, *, step: int, epoch: float) -> float:
        raw = outputs(self.model, self.held_x)
        loss = mean_loss(raw, self.held_target, self.goal)
        for key, value in {"loss": loss, **compute(self.goal, raw, self.data.validation.y)}.items():
            self.note(key, value, step=step, epoch=epoch, split="validation")
        return loss

    def _points(self, spent: float) -> None:
        """The epoch's losses, learning rates and gradient norms, thinned."""
        stride = math.ceil(self.steps / _POINTS)
        ends = [min(at + stride, self.steps) for at in range(0, self.steps, stride)]
        base, now = self.state.step - self.steps, self.seconds
        losses = self.tally.losses.cpu()
        norms = self.tally.norms.cpu()
        means = [float(losses[end - (end - 1) % stride - 1 : end].mean()) for end in ends]
        rates = [self.lr * self.schedule(base + end - 1) for end in ends]
        self._series("loss", means, ends, spent, now, "batch")
        self._series("lr", rates, ends, spent, now, "train")
        known = [int(at) + 1 for at in (~torch.isnan(norms)).nonzero().flatten()]
        self._series("grad_norm", [float(norms[end - 1]) for end in known], known, spent, now, "train")

    def _series(self, key: str, values: list[float], ends: list[int], spent: float, now: float, split: str) -> None:
        base = self.state.step - self.steps
        steps = [base + end for end in ends]
        epochs = [step / self.steps for step in steps]
        seconds = [now - spent * (1 - end / self.steps) for end in ends]
        self.writer.series(key, values, steps=steps, epochs=epochs, seconds=seconds, split=split, run=self.run)
        if self.tracker is not None:
            for step, value in zip(steps, values, strict=True):
                self.tracker.scalar(key, value, step=step, split=split)

    def note(self, key: str, value: float, *, step: int, epoch: float, split: str = "train") -> None:
        """Record one number, and mirror it to the tracker."""
        self.last[f"{split}/{key}"] = value
        self.writer.scalar(key, value, step=step, epoch=epoch, split=split, run=self.run, seconds=self.seconds)
        if self.tracker is not None:
            self.tracker.scalar(key, value, step=step, split=split)

    @property
    def seconds(self) -> float:
        """Time spent so far, over all sittings."""
        return self._before + time.monotonic() - self._began

    # --- stop and go on ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the whole state, after the record that belongs to it."""
        self.writer.flush()
        self._saved = time.monotonic()
        if self.folder is None:
            return
        state = self.state
        state.seconds = self.seconds
        packed, plain = checkpoint.pack_optimizer(self.optimizer)
        tensors = {f"model/{name}": tensor for name, tensor in trained.state(self.model, self.goal.loss).items()}
        tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
        tensors |= packed | rng_state(self.device)
        if state.position:
            tensors["epoch/losses"] = self.tally.losses[: state.position]
            tensors["epoch/norms"] = self.tally.norms[: state.position]
            tensors["epoch/outputs"] = self.tally.outputs[: state.position * self.batch]
        meta = {
            "state": state.plain(),
            "patience": self.patience.state(),
            "plateau": self.schedule.state() if isinstance(self.schedule, schedules.Plateau) else None,
            "optimizer": plain,
            "settings": self.settings.to_json(),
            "data": self.data.fingerprint,
            "goal": self.goal.to_json(),
        }
        checkpoint.save_tensors(self.folder / CHECKPOINT_FILE, tensors, meta)

    def load(self) -> bool:
        """Go on from the checkpoint in the folder; False where there is none yet.

        Raises:
            NotResumed: the checkpoint is damaged, or of another run.
        """
        try:
            return self._load()
        except FalllineError as error:
            raise NotResumed(str(error)) from error

    def _load(self) -> bool:
        assert self.folder is not None
        path = self.folder / CHECKPOINT_FILE
        for left in self.folder.glob(f".{CHECKPOINT_FILE}-*"):
            left.unlink(missing_ok=True)
        if not path.is_file():
            self.writer.drop(self.run)
            return False
        tensors, meta = checkpoint.load_tensors(path)
        try:
            self._compare(path, tensors, meta)
            held = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
            trained.load_state(self.model, self.goal.loss, held)
            checkpoint.unpack_optimizer(self.optimizer, tensors, meta["optimizer"])
            self.state = State(**meta["state"])
            self.state.best = {n.removeprefix("best/"): t.to(self.device) for n, t in tensors.items() if n.startswith("best/")}
            self.patience = Patience(**{**meta["patience"], "epochs": self.settings.patience})
            if isinstance(self.schedule, schedules.Plateau) and meta["plateau"] is not None:
                self.schedule.load(meta["plateau"])
            if self.state.position:
                self.tally.losses[: self.state.position] = tensors["epoch/losses"]
                self.tally.norms[: self.state.position] = tensors["epoch/norms"]
                self.tally.outputs[: len(tensors["epoch/outputs"])] = tensors["epoch/outputs"]
            set_rng_state(tensors, self.device)
        except (KeyError, TypeError, RuntimeError) as error:
            raise FalllineError(f"the checkpoint '{path}' is damaged: {type(error).__name__}: {error}.") from error
        self._before = self.state.seconds
        self.writer.cut(self.state.step - self.state.position, self.run)
        return True

    def _compare(self, path: Path, tensors: dict[str, Tensor], meta: dict) -> None:
        """Refuse a checkpoint of other data, another model or other settings, naming what differs."""
        if meta["data"] != self.data.fingerprint:
            raise FalllineError(f"the checkpoint '{path}' belongs to other data; load the same rows with the same seed and options.")
        here = {f"model/{n}": tuple(t.shape) for n, t in trained.state(self.model, self.goal.loss).items()}
        there = {n: tuple(t.shape) for n, t in tensors.items() if n.startswith("model/")}
        for name in dict.fromkeys([*here, *there]):
            if here.get(name) != there.get(name):
                short = name.removeprefix("model/")
                raise FalllineError(
                    f"the checkpoint '{path}' belongs to another model: '{short}' has shape {there.get(name, 'absent')} there, "
                    f"{here.get(name, 'absent')} here."
                )
        free = {"track", "checkpoint_seconds", "epochs"}
        now = self.settings.to_json()
        for name, value in meta["settings"].items():
            if name not in free and now.get(name) != value:
                raise FalllineError(
                    f"the checkpoint '{path}' was made with {name}={value!r}, not {now.get(name)!r}; resume it with its own."
                )
