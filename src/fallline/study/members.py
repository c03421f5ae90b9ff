"""The members of a study: trained as populations, recorded whole, and read back when the study is resumed."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from fallline import record
from fallline._core.errors import FalllineError
from fallline.population import Block, Job, Population, Result
from fallline.population.steppers import build_one
from fallline.record import Reader, Writer
from fallline.study.models import ModelLike, fresh
from fallline.study.plan import BatchSize, Cell, Plan, label
from fallline.study.runner import Local, Runner, Stop, Tick
from fallline.study.steps import first_crossing
from fallline.training import Goal, Settings

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss

_WARM: set[str] = set()
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
        seconds: its share of the time of its block: forward and backward in equal parts, the step by rule.
        steps: optimizer steps.
        epochs: whole epochs.
        best_epoch: of the weights that were kept.
        message: what is to say, where it did not simply finish.
        loss: spec of its loss.
        schedule: spec of its schedule.
        block: members that were trained together with it.
        alone: why it was trained by itself; "" where it was not, or was the only one.
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
    loss: str = "auto"
    schedule: str = "constant"
    block: int = 1
    alone: str = ""

    @property
    def diverged(self) -> bool:
        """Whether the training left the finite numbers."""
        return self.status == "diverged"

    def value(self, metric: str) -> float:
        """The metric on validation rows; NaN for a diverged member."""
        found = self.validation.get(metric, math.nan)
        return math.nan if self.diverged or found is None else float(found)


class Request(NamedTuple):
    """A member that is wanted."""

    cell: Cell
    lr: float
    seed: int
    search: bool = False


class Workshop:
    """Trains members as populations into one record; blocks that the record holds whole are read from it.

    Args:
        model: spec, module or function.
        data: rows.
        plan: what is asked.
        writer: the study's record.
        loss: a loss object in place of the settings' name.
        stop: asked after every few steps.
        tick: told how many member-steps were made, and a loss.
        runner: where blocks are trained; by default here.
        told: told every member that is whole, trained or read.
        skip: told how many member-steps were read from the record.
    """

    def __init__(
        self,
        model: ModelLike,
        data: "Data",
        plan: Plan,
        writer: Writer,
        loss: "Loss | None",
        stop: Stop,
        tick: Tick,
        runner: Runner | None = None,
        told: "Callable[[Request, Member], None]" = lambda request, member: None,
        skip: Callable[[int], None] = lambda steps: None,
    ) -> None:
        self.data, self.plan, self.writer, self.stop, self.tick = data, plan, writer, stop, tick
        self.runner, self.told, self.skip = runner or Local(), told, skip
        self.reader = Reader(writer)
        self.interrupted = False
        self.alone: dict[str, int] = {}

        def make(settings: Settings, goal: Goal) -> nn.Module:
            return fresh(model, data.input_shape, goal.outputs, seed=settings.seed, dropout=settings.dropout)

        self.population = Population(make, data, loss, sizes=plan.sizes)

    def train(self, wanted: Sequence[Request]) -> dict[Request, Member]:
        """The members that are wanted; fewer where the user stopped, and then `interrupted` is set.

        A block is recorded whole or not at all: one that lacks a member is trained anew, as a member's last bits depend on its block.
        The members that it has (of a study that trained them one by one) are replaced in the moment in which it is whole, not before, and
        count as they are where the user stops earlier.
        """
        by_run = {self.plan.name_of(r.cell, r.lr, r.seed, search=r.search): r for r in wanted}
        jobs = [Job(run, self.plan.settings_of(r.cell, r.lr, r.seed), test=not r.search) for run, r in by_run.items()]
        found: dict[str, Member] = {}
        missing: list[Block] = []
        older: dict[str, Member] = {}  # whole members of blocks that are not
        before = dict(self.population.sizes)
        blocks = self.population.blocks(jobs)
        if self.population.sizes != before:  # so that a resumed study takes the same blocks
            self.writer.describe(config=self.plan.to_json())
        for block in blocks:
            known = {job.run: self.known(job.run) for job in block.jobs}
            if all(member is not None for member in known.values()):
                read = {run: member for run, member in known.items() if member is not None}
                found |= read
                for run, member in read.items():
                    self.told(by_run[run], member)
                self.skip(sum(member.steps for member in read.values()))
            else:
                self.writer.drop(*(run for run, member in known.items() if member is None))
                older |= {run: member for run, member in known.items() if member is not None}
                missing.append(block)
        self._warm_up([job.settings for block in missing for job in block.jobs])
        self.writer.holds = bool(older)
        try:
            self._train(missing, by_run, found, older)
        finally:
            if self.writer.holds:
                self.writer.forget()
                self.writer.holds = False
        for run, member in older.items():
            if run not in found:
                found[run] = member
                self.told(by_run[run], member)
        return {by_run[run]: found[run] for run in by_run if run in found}

    def _train(self, missing: Sequence[Block], by_run: dict[str, Request], found: dict[str, Member], older: dict[str, Member]) -> None:
        """Train the blocks into `found`, each in the place of what the record holds of its members."""
        for block, results in self.runner.run(self.population, missing, self.writer, stop=self.stop, tick=self.tick):
            runs = [job.run for job in block.jobs]
            if results is None:
                self.writer.forget()
                self.writer.drop(*(run for run in runs if run not in older))
                self.interrupted = True
                break
            for result in results:
                member = self._member(by_run[result.job.run], result)
                found[result.job.run] = member
                self.told(by_run[result.job.run], member)
                self.writer.text(OUTCOME, json.dumps(asdict(member)), run=member.run)
                if result.alone:
                    self.alone[result.alone] = self.alone.get(result.alone, 0) + 1
            self.writer.replace(*(run for run in runs if run in older))

    def _member(self, request: Request, result: Result) -> Member:
        settings, outcome = result.job.settings, result.outcome
        return Member(
            result.job.run,
            label(settings.optimizer),
            settings.batch_size,
            float(settings.lr),
            settings.seed,
            request.search,
            outcome.status,
            outcome.metrics.get("validation", {}),
            outcome.metrics.get("test", {}),
            outcome.seconds,
            outcome.steps,
            outcome.epochs_done,
            outcome.best_epoch,
            outcome.message,
            request.cell.loss,
            request.cell.schedule,
            result.block,
            result.alone,
        )

    def _warm_up(self, wanted: Sequence[Settings]) -> None:
        """Have the optimizers' steps compiled before members are timed."""
        for spec, settings in {settings.optimizer: settings for settings in wanted}.items():
            if spec not in _WARM:
                _WARM.add(spec)
                weight = torch.nn.Parameter(torch.zeros(2))
                weight.grad = torch.zeros(2)
                build_one(settings, [("weight", weight)]).step()

    def known(self, name: str) -> Member | None:
        """The member of that name, where the record holds it whole."""
        texts = self.reader.texts(OUTCOME, name)
        return None if not texts else read_member(texts[-1][1], name)

    def steps_to(self, member: Member, metric: str, target: float) -> float:
        """Steps until the validation metric first reached the target, on the line between two epochs; infinity where it never did, or
        where the member diverged.
        """
        if member.diverged:
            return math.inf
        found = self.reader.series(metric, "validation", member.run)
        return first_crossing(found.step.tolist(), found.value.tolist(), target, lower=record.key(metric).better == "lower")

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
