"""Train a model: epochs, early stopping, checkpoints, and the last judgement on validation and test rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fallline._core.errors import must
from fallline._core.progress import Progress
from fallline._core.seeds import stream
from fallline.record import MODEL_FILE, Writer
from fallline.training.checkpoint import save_tensors
from fallline.training.checks import device_of
from fallline.training.evaluate import evaluate, learn_reading
from fallline.training.goal import Goal, aim
from fallline.training.session import Diverged, Interrupted, Session
from fallline.training.settings import Settings
from fallline.training.stepping import keep_as_used
from fallline.training.trained import load_state, state

if TYPE_CHECKING:
    from fallline.data import Data, Split
    from fallline.losses import Loss

_JUDGED_ROWS = 1 << 13  # evenly spaced training rows on which the final model is judged; all validation and test rows are
MODEL_FORMAT = "fallline-model"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        status: "finished", "stopped", "interrupted" or "diverged".
        epochs_done: whole epochs.
        steps: optimizer steps.
        best_epoch: the epoch (1 is the first) whose weights the model now has; 0 where there is none.
        metrics: split to {name: value}, for "train" (of more than 8,192 rows, so many evenly spaced ones), "validation" and "test"
            where they have rows.
        seconds: wall-clock time of training, over all sittings.
        message: one sentence where the run did not simply finish, else "".
    """

    status: str
    epochs_done: int
    steps: int
    best_epoch: int
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dict(vars(self))


def train(
    model: nn.Module,
    data: "Data",
    settings: Settings,
    *,
    writer: Writer,
    folder: Path | str | None = None,
    resume: bool = False,
    progress: bool = True,
    stop: Callable[[], bool] | None = None,
    loss: "Loss | None" = None,
    goal: Goal | None = None,
    run: str = "",
    test: bool = True,
    each_epoch: Callable[[int, dict[str, float]], None] | None = None,
    leave: Callable[[], bool] | None = None,
) -> Outcome:
    """Train `model` in place on `data.train`, judge it on `data.validation` each epoch, and on `data.test` once at the end.

    The user's random generators are left as they were; the run draws from streams of `settings.seed` only, so the same call gives the
    same weights, bit for bit, also when it was killed and resumed in between.

    Args:
        model: gives (N, outputs) from x; trained in place, in the end with its best weights (`settings.keep`).
        data: rows, from `fallline.data.load`.
        settings: how to train; `lr` is a number here.
        writer: where numbers are recorded, under the name `run`.
        folder: where checkpoints and the best weights go; None keeps none.
        resume: go on from the checkpoint in `folder`, from the start where none was written yet.
        progress: show a bar on a terminal.
        stop: asked after every step; True saves a checkpoint and ends with status "interrupted".
        loss: a loss object in place of `settings.loss`; its parameters are trained in place, where it has some.
        goal: what `aim` gave for these rows, settings and loss, where that is at hand; its loss and reading are trained in place.
        run: the name under which a study records this run.
        test: judge on the test rows at the end.
        each_epoch: called after each epoch with its number (1 is the first) and what it measured, as {"validation/loss": 0.3, ...}.
        leave: asked after each epoch; True ends training there, with status "stopped" where epochs are left.

    Returns:
        How it ended; a diverged run is an outcome, not an error.

    Raises:
        FalllineError: settings that do not fit the data, a checkpoint that is damaged or of another run.
    """
    must(settings.lr != "auto", "lr is a number in train", "'auto'", "fallline.fit finds one")
    place = None if folder is None else Path(folder)
    must(not resume or place is not None, "resume needs a folder", "None")
    device = device_of(settings.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(stream(settings.seed, "training"))  # torch.manual_seed would seed every device
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(stream(settings.seed, "training"))
        goal = goal or aim(data, settings, loss)
        session = Session(model, data, settings, goal, writer=writer, folder=place, run=run, stop=stop)
        session.each_epoch, session.leave = each_epoch, leave
        status, message = _work(session, resume, progress)
    left = session.state
    if left.best and (settings.keep == "best" or status == "diverged"):
        load_state(model, goal.loss, left.best)
        best_epoch = session.patience.best_epoch
    else:
        best_epoch = left.epoch
        keep_as_used(session.optimizer)
    if status == "diverged" and not left.best:
        message += " No epoch was finished before it, so the model's weights are of no use."
    metrics = _judge(session, test and status == "finished")
    if place is not None:
        whole = state(model, goal.loss) | goal.reading_state()
        save_tensors(place / MODEL_FILE, whole, {"goal": goal.to_json()}, format=MODEL_FORMAT)
    if session.tracker is not None:
        session.tracker.close()
    writer.flush()
    return Outcome(status, left.epoch, left.step, best_epoch, metrics, session.seconds, message)


def _work(session: Session, resume: bool, progress: bool) -> tuple[str, str]:
    state = session.state
    try:
        if not (resume and session.load()):
            session.begin()
            session.save()
        state = session.state
        with Progress("train", session.total, quiet=not progress) as bar:
            bar.advance(state.step)
            while not session.over:
                session.epoch(bar)
    except Interrupted:
        session.save()
        return "interrupted", f"interrupted at step {session.state.step} of {session.total}; everything is saved."
    except Diverged as why:
        session.writer.flush()
        return "diverged", str(why)
    if session.patience.over and state.epoch < session.settings.epochs:
        return "finished", f"stopped after epoch {state.epoch}: no better validation loss for {session.patience.waited} epochs."
    if session.left and state.epoch < session.settings.epochs:
        return "stopped", f"stopped after epoch {state.epoch}, as was asked."
    return "finished", ""


def _judge(session: Session, test: bool) -> dict[str, dict[str, float]]:
    """Loss and metrics of the weights that are kept, recorded for the test rows."""
    data, goal, state = session.data, session.goal, session.state
    learn_reading(session.model, data.train, goal)
    splits = {"train": judged_rows(data.train), "validation": data.validation, **({"test": data.test} if test else {})}
    metrics = {name: evaluate(session.model, split, goal) for name, split in splits.items() if len(split)}
    for key, value in metrics.get("test", {}).items():
        session.note(key, value, step=state.step, epoch=state.step / session.steps, split="test")
    return {name: {key: value if math.isfinite(value) else math.nan for key, value in found.items()} for name, found in metrics.items()}


def judged_rows(train: "Split") -> "Split":
    """The training rows that are judged at the end: all of them, or 8,192 that are evenly spaced."""
    if len(train) <= _JUDGED_ROWS:
        return train
    chosen = torch.linspace(0, len(train) - 1, _JUDGED_ROWS).long()
    return type(train)(train.x[chosen], train.y[chosen])
