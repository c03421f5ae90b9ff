"""One member of a study: trained, recorded whole, and read back when the study is resumed."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fallline import optim, record
from fallline._core.errors import FalllineError
from fallline.record import Reader, Writer
from fallline.study.models import ModelLike, fresh
from fallline.study.plan import BatchSize, Plan, label
from fallline.training.threads import fitting_threads
from fallline.training import Settings, aim, train
from fallline.training.checks import batch_rows

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss

OUTCOME = "outcome"  # the text in the record that says: this member is whole


@dataclass(frozen=True)
class Member:
    """What came of one training.

    Attributes:
        run: its name in the record.
        optimizer: as the table calls it.
        batch_size: rows in a mini-batch, or "full".
        lr: learning rate.
        seed: of its weights and orders.
        search: whether it is a trial of the search for a learning rate.
        status: "finished" or "diverged".
        validation: metrics on validation rows, at the weights that were kept.
        test: metrics on test rows, looked at once; {} for a trial and for a diverged member.
        seconds: wall-clock time of its training.
        steps: optimizer steps.
        epochs: whole epochs.
        best_epoch: of the weights that were kept.
        message: what is to say, where it did not simply finish.
    """

    run: str
    optimizer: str
    batch_size: BatchSize
    lr: float
    seed: int
    search: bool
    status: str
    validation: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    steps: int = 0
    epochs: int = 0
    best_epoch: int = 0
    message: str = ""

    @property
    def diverged(self) -> bool:
        """Whether the training left the finite numbers."""
        return self.status == "diverged"

    def value(self, metric: str) -> float:
        """The metric on validation rows; NaN for a diverged member."""
        found = self.validation.get(metric, math.nan)
        return math.nan if self.diverged or found is None else float(found)


class Workshop:
    """Trains members one after another into one record; those that the record holds already are read from it."""

    def __init__(
        self,
        model: ModelLike,
        data: "Data",
        plan: Plan,
        writer: Writer,
        loss: "Loss | None",
        stop: Callable[[], bool],
        tick: Callable[[], None],
    ) -> None:
        self.model, self.data, self.plan, self.writer, self.loss, self.stop, self.tick = model, data, plan, writer, loss, stop, tick
        self.goal = aim(data, plan.settings, loss)
        self.reader = Reader(writer)
        self.interrupted = False
        self.warm: set[str] = set()

    def member(self, optimizer: str, batch: BatchSize, lr: float, seed: int, *, search: bool = False) -> Member | None:
        """Train one member, or read it; None where the user stopped it."""
        name = self.plan.name_of(optimizer, batch, lr, seed, search=search)
        known = self.known(name)
        if known is not None:
            return known
        if self.interrupted or self.stop():
            self.interrupted = True
            return None
        self.writer.drop(name)
        settings = self.plan.settings_of(optimizer, batch, lr, seed)
        made = self._train(name, settings, search)
        if made is not None:
            self.writer.text(OUTCOME, json.dumps(asdict(made)), run=name)
            self.writer.flush()
        return made

    def _train(self, name: str, settings: Settings, search: bool) -> Member | None:
        self._warm_up(settings)
        model = fresh(self.model, self.data.input_shape, self.goal.outputs, seed=settings.seed, dropout=settings.dropout)

        def stop() -> bool:
            self.tick()
            return self.stop()

        with fitting_threads(model, batch_rows(settings, len(self.data.train))):
            outcome = train(
                model,
                self.data,
                settings,
                writer=self.writer,
                progress=False,
                stop=stop,
                loss=copy.deepcopy(self.loss),  # every member begins with the loss's own parameters as they were given
                run=name,
                test=not search,
            )
        if outcome.status == "interrupted":
            self.interrupted = True
            self.writer.drop(name)
            return None
        return Member(
            name,
            label(settings.optimizer),
            settings.batch_size,
            float(settings.lr),
            settings.seed,
            search,
            outcome.status,
            outcome.metrics.get("validation", {}),
            outcome.metrics.get("test", {}),
            outcome.seconds,
            outcome.steps,
            outcome.epochs_done,
            outcome.best_epoch,
            outcome.message,
        )

    def _warm_up(self, settings: Settings) -> None:
        """Have the optimizer's step compiled before the first member is timed."""
        if settings.optimizer in self.warm:
            return
        self.warm.add(settings.optimizer)
        weight = torch.nn.Parameter(torch.zeros(2))
        weight.grad = torch.zeros(2)
        optim.build(
            settings.optimizer,
            [("weight", weight)],
            lr=float(settings.lr),
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm,
            engine=settings.engine,
            nonfinite="allow",
        ).step()

    def known(self, name: str) -> Member | None:
        """The member of that name, where the record holds it whole."""
        texts = self.reader.texts(OUTCOME, name)
        return None if not texts else read_member(texts[-1][1], name)

    def steps_to(self, member: Member, metric: str, target: float) -> float:
        """Steps until the validation metric first reached the target; infinity where it never did, or where the member diverged."""
        if member.diverged:
            return math.inf
        found = self.reader.series(metric, "validation", member.run)
        reached = found.value <= target if record.key(metric).better == "lower" else found.value >= target
        return float(found.step[reached][0]) if reached.any() else math.inf

    def best_value(self, member: Member, metric: str) -> float:
        """The best validation metric of any epoch; NaN for a diverged member."""
        values = self.reader.series(metric, "validation", member.run).value
        values = values[[math.isfinite(v) for v in values]]
        if member.diverged or not len(values):
            return math.nan
        return float(values.min() if record.key(metric).better == "lower" else values.max())


def read_member(text: str, name: str) -> Member:
    """A member from the text in the record.

    Raises:
        FalllineError: the text is damaged.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        return Member(**fields)
    except (ValueError, TypeError) as error:
        raise FalllineError(f"the record of member '{name}' is damaged: {error}.") from error
