"""Train many members: grouped by what they share, in blocks of the size that is fastest, one by one where a population is not possible."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fallline.population.blocks import Sizes, block_size
from fallline.population.crew import Crew, EachEpoch, Stopped, shape_of
from fallline.population.member import Job, Result
from fallline.population.noise import Unstackable
from fallline.record import Writer
from fallline.training.checks import batch_rows, device_of
from fallline.training.goal import Goal, aim
from fallline.training.loop import train
from fallline.training.settings import Settings
from fallline.training.threads import fitting_threads

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss

_THREADS, _SQUAD = "threads", "squad of "  # keys of `Population.sizes` beside the shapes
Maker = Callable[[Settings, Goal], nn.Module]


@dataclass
class Block:
    """Jobs that are trained together, in squads of so many (0: all); `alone` says why, where each is trained by itself."""

    jobs: list[Job]
    goal: Goal
    alone: str = ""
    squad: int = 0


@dataclass
class Population:
    """Jobs on the same rows, cut into blocks.

    Args:
        make: gives the untrained model of a member from its settings and goal.
        data: rows.
        loss: a loss object in place of the settings' name.
        together: False trains every member by itself.
        sizes: members in a block and in a squad, by the shape that a block shares, and threads; filled in as they are measured, so that a
            resumed study can give them back.
    """

    make: Maker
    data: "Data"
    loss: "Loss | None" = None
    together: bool = True
    sizes: dict[str, int] = field(default_factory=dict)

    def blocks(self, jobs: Sequence[Job]) -> list[Block]:
        """The jobs in blocks, those of the seed that comes first in the jobs first: a pure function of the jobs and the sizes.

        Raises:
            FalllineError: settings that do not fit the data.
        """
        groups: dict[Settings, list[Job]] = {}
        for job in jobs:
            groups.setdefault(shape_of(job.settings), []).append(job)
        place = {seed: at for at, seed in enumerate(dict.fromkeys(job.settings.seed for job in jobs))}
        out: list[Block] = []
        for shape, mine in groups.items():
            goal = aim(self.data, shape, copy.deepcopy(self.loss))
            sizes, alone = self._size(shape, mine, goal)
            ordered = sorted(mine, key=lambda job: job.settings.epochs)  # those that end together stand together
            parts = -(-len(ordered) // sizes.block)
            cuts = [len(ordered) * part // parts for part in range(parts + 1)]
            for first, end in pairwise(cuts):
                squad = min(sizes.squad, -(-(end - first) // self.sizes.get(_THREADS, 1)))  # a thread without a squad would be idle
                out.append(Block(ordered[first:end], goal, alone, squad))
        return sorted(out, key=lambda block: min(place[job.settings.seed] for job in block.jobs))

    def _size(self, shape: Settings, jobs: list[Job], goal: Goal) -> tuple[Sizes, str]:
        words = self._obstacle(goal)
        if words or len(jobs) == 1:
            return Sizes(1, 1), words
        key = repr(shape)
        self.sizes.setdefault(_THREADS, torch.get_num_threads())
        if key in self.sizes:
            return Sizes(self.sizes[key], self.sizes.get(f"{_SQUAD}{key}", self.sizes[key])), ""
        device, batch = device_of(shape.device), batch_rows(shape, len(self.data.train))
        model = self.make(jobs[0].settings, goal).to(device)
        x, target = self.data.train.x[:batch].to(device), goal.targets(self.data.train.y[:batch]).to(device)
        try:
            found = block_size(model, x, target, goal.loss.to(device), jobs[0].settings)
        except Unstackable as why:
            return Sizes(1, 1), str(why)
        self.sizes[key], self.sizes[f"{_SQUAD}{key}"] = found
        return found, ""

    def _obstacle(self, goal: Goal) -> str:
        """Why the members cannot be trained together whatever the model is; empty where nothing stands in the way."""
        if not self.together:
            return "each member by itself was asked for"
        if next(goal.loss.parameters(), None) is not None:
            return f"the loss {goal.loss.name} has parameters of its own"
        if goal.learns or goal.together or not goal.loss.separate:
            return f"the loss {goal.loss.name} compares the examples of a batch"
        return ""

    def run(
        self,
        block: Block,
        writer: Writer,
        *,
        stop: Callable[[], bool] = lambda: False,
        tick: Callable[[int, float], None] = lambda steps, loss: None,
        keep_models: bool = False,
        each_epoch: EachEpoch = lambda members: (),
    ) -> list[Result] | None:
        """Train one block; None where the user stopped it, and then nothing of it is of use. `each_epoch` is as `Crew` takes it."""
        if block.alone or len(block.jobs) == 1:
            return self._one_by_one(block, writer, stop, tick, keep_models, each_epoch)
        models = [self.make(job.settings, block.goal) for job in block.jobs]
        try:
            options: dict[str, Any] = {
                "stop": stop,
                "tick": tick,
                "keep_models": keep_models,
                "each_epoch": each_epoch,
                "squad": block.squad,
            }
            return Crew(block.jobs, models, self.data, block.goal, writer, **options).train()
        except Stopped:
            return None
        except Unstackable as why:
            writer.drop(*(job.run for job in block.jobs))
            return self._one_by_one(Block(block.jobs, block.goal, str(why)), writer, stop, tick, keep_models, each_epoch)

    def _one_by_one(
        self,
        block: Block,
        writer: Writer,
        stop: Callable[[], bool],
        tick: Callable[[int, float], None],
        keep_models: bool,
        each_epoch: EachEpoch,
    ) -> list[Result] | None:
        out: list[Result] = []
        for job in block.jobs:
            goal = aim(self.data, job.settings, copy.deepcopy(self.loss))
            model = self.make(job.settings, goal)
            marks: dict[int, dict[str, float]] = {}
            gone: list[int] = []

            def ask() -> bool:
                tick(1, float("nan"))
                return stop()

            def mark(
                epoch: int,
                seen: dict[str, float],
                job: Job = job,
                model: nn.Module = model,
                goal: Goal = goal,
                gone: list[int] = gone,
                marks: dict[int, dict[str, float]] = marks,
            ) -> None:
                found = {key.removeprefix("validation/"): v for key, v in seen.items() if key.startswith("validation/")}
                if job.run in each_epoch([(job.run, epoch, found)]):
                    gone.append(epoch)
                if epoch in job.marks:
                    from fallline.training.evaluate import evaluate

                    marks[epoch] = evaluate(model, self.data.test, goal)

            with fitting_threads(model, batch_rows(job.settings, len(self.data.train))):
                outcome = train(
                    model,
                    self.data,
                    job.settings,
                    writer=writer,
                    progress=False,
                    stop=ask,
                    goal=goal,
                    run=job.run,
                    test=job.test,
                    each_epoch=mark,
                    leave=lambda gone=gone: bool(gone),
                )
            if outcome.status == "interrupted":
                return None
            if outcome.status == "stopped":
                words = f"stopped after epoch {gone[0]}: others did better."
                outcome = dataclasses.replace(outcome, status="stopped", message=words)
            out.append(Result(job, outcome, marks, 1, block.alone, model if keep_models else None))
        return out

    def train(
        self, jobs: Sequence[Job], writer: Writer, *, stop: Callable[[], bool] = lambda: False, keep_models: bool = False
    ) -> Iterator[Result]:
        """Train all jobs, block by block; results as they come, fewer where the user stops."""
        for block in self.blocks(jobs):
            found = self.run(block, writer, stop=stop, keep_models=keep_models)
            if found is None:
                return
            yield from found
