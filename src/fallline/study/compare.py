"""Run a study: the searches of all cells together, round by round, then the members, then the table; what is recorded is not run again.

Seed s gives every optimizer the same initial weights, the same order of rows and the same dropout. All members that share a shape are
trained as populations, block after block; the blocks that hold the first seed come first, whatever their shape, then those that begin with
the next. What a study that was stopped lacks is said in its headline and in its notes.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fallline._core.errors import FalllineError, must
from fallline._core.progress import Progress
from fallline.record import Writer
from fallline.study.board import Board, Show
from fallline.study.budget import Clock
from fallline.study.members import Member, Request, Workshop
from fallline.study.models import ModelLike, fresh
from fallline.study.pairs import judged
from fallline.study.plan import Cell, Plan, label
from fallline.study.profiles import study_profiles
from fallline.study.ranking import table
from fallline.study.runner import Runner
from fallline.study.sentence import listed
from fallline.study.tune import Search, Tuned, search
from fallline.study.verdict import verdict
from fallline.training import aim, checks

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss


@dataclass
class Result:
    """What a study found.

    Attributes:
        status: "finished", "interrupted" or "out of time".
        table: ranked rows, see `ranking.table`.
        members: every whole member that is compared.
        trials: every whole trial of the search.
        search: by cell its trials as (rate, validation loss), None: diverged.
        target: the level that steps are counted to; NaN where there is none.
        headline: the result in a sentence.
        shown: what else is shown, a line each.
        basis: how it was judged.
        seconds: wall-clock time of this sitting.
        differences: every pair of rows, see `pairs.differences`.
        factors: where several factors vary, the levels of each, see `pairs.factors`.
        profiles: see `profiles.study_profiles`.
        notes: how the study was run, in sentences.
    """

    status: str
    table: list[dict[str, Any]]
    members: list[Member]
    search: dict[str, list[list[float | None]]]
    target: float
    headline: str
    seconds: float
    trials: list[Member] = field(default_factory=list)
    differences: list[dict[str, Any]] = field(default_factory=list)
    profiles: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    factors: list[dict[str, Any]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    basis: str = ""

    def to_json(self) -> dict[str, Any]:
        """What `run.json` holds of it."""
        return {
            "table": self.table,
            "search": self.search,
            "headline": self.headline,
            "shown": self.shown,
            "basis": self.basis,
            "target": self.target if math.isfinite(self.target) else None,
            "members": len(self.members),
            "trials": len(self.trials),
            "seconds": self.seconds,
            "differences": self.differences,
            "factors": self.factors,
            "profiles": self.profiles,
            "notes": self.notes,
        }


def run_study(
    model: ModelLike,
    data: "Data",
    plan: Plan,
    writer: Writer,
    *,
    loss: "Loss | None" = None,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
    runner: Runner | None = None,
    show: Show | None = None,
) -> Result:
    """Train what the plan asks for and the record does not hold yet, and rank it.

    Args:
        model: spec, function or module.
        data: rows; the validation rows judge.
        plan: what is asked.
        writer: the study's record, new or continued.
        loss: a loss object in place of the settings' name.
        stop: asked after every few steps; True ends the study with what is whole so far.
        quiet: no progress bar.
        runner: where blocks are trained; by default in this process.
        show: told how the cells stand and how many seconds are left, at most twice a second.

    Raises:
        FalllineError: no validation rows, or settings that do not fit the data.
    """
    check(data, plan)
    clock = Clock(writer, plan.budget)

    def halt() -> bool:
        return stop() or clock.over

    with Progress("compare", _steps(plan, len(data.train)), quiet=quiet) as bar:
        board = Board(plan, _steps(plan, len(data.train)), bar, show)
        shop = Workshop(model, data, plan, writer, loss, halt, board.tick, runner, told=board.take, skip=board.read)
        tuned, trials = _searches(shop, plan, board)
        members = {} if shop.interrupted else _members(shop, plan, tuned, board)
    rows, target = table(shop, plan, members, tuned)
    status = "finished" if not shop.interrupted else "out of time" if clock.over else "interrupted"
    clock.keep(status)
    whole = [member for found in members.values() for member in found]
    pairs, levels = judged(rows)
    wanted = len(plan.cells) * len(plan.seeds)
    words, shown, basis = verdict(rows, plan.metric)
    return Result(
        status,
        rows,
        whole,
        _search(plan, tuned),
        target,
        words if status == "finished" else f"{status} with {len(whole)} of {wanted} members whole: {words}",
        clock.sitting,
        trials,
        pairs,
        study_profiles(rows),
        [*([] if status == "finished" else [_lacks(plan, status, members)]), *_notes(plan, whole, trials)],
        levels,
        shown,
        basis,
    )


def _searches(shop: Workshop, plan: Plan, board: Board) -> tuple[dict[Cell, Tuned], list[Member]]:
    """The searches of all cells, a round of each at a time."""
    tuned: dict[Cell, Tuned] = {}
    asked: dict[Cell, list[float]] = {}
    running: dict[Cell, Search] = {}
    trials: list[Member] = []

    def go_on(cell: Cell, answer: dict[float, float] | None) -> None:
        try:
            asked[cell] = running[cell].send(answer) if answer is not None else next(running[cell])
        except StopIteration as end:
            tuned[cell] = end.value
            board.chosen[cell] = tuned[cell].lr or math.nan
            asked.pop(cell, None)

    for cell in plan.cells:
        running[cell] = search(plan, cell.optimizer)
        go_on(cell, None)
    turn = 0
    while asked and not shop.interrupted:
        turn += 1
        board.now = f"learning rates, round {turn}"
        wanted = [Request(cell, rate, plan.search_seed, True) for cell, rates in asked.items() for rate in rates]
        found = shop.train(wanted)
        trials += found.values()
        if not shop.interrupted:
            for cell, rates in list(asked.items()):
                go_on(cell, {rate: board.tried[cell][rate] for rate in rates})
        board.tell()
    for cell in asked:
        tuned[cell] = Tuned(None, False, sorted(board.tried[cell].items()))
    return tuned, trials


def _members(shop: Workshop, plan: Plan, tuned: dict[Cell, Tuned], board: Board) -> dict[Cell, list[Member]]:
    """The members that are compared, seed after seed."""
    board.now = f"{len(plan.cells)} cells, {len(plan.seeds)} seeds"
    rates = {cell: found.lr for cell in plan.cells if (found := tuned[cell]).lr is not None}
    found = shop.train([Request(cell, rate, seed) for seed in plan.seeds for cell, rate in rates.items() if rate is not None])
    out: dict[Cell, list[Member]] = {cell: [] for cell in plan.cells}
    for seed in plan.seeds:
        for cell, rate in rates.items():
            member = found.get(Request(cell, rate, seed)) if rate is not None else None
            if member is not None:
                out[cell].append(member)
    board.tell()
    return out


def check(data: "Data", plan: Plan, model: ModelLike | None = None, loss: "Loss | None" = None) -> None:
    """Refuse before anything is written what could not be run; the sentence names the cell, where not all are refused alike.

    Args:
        data: rows.
        plan: what is asked.
        model: where it is given, every cell's optimizer, schedule and batch size are tried on it.
        loss: a loss object in place of the settings' name.

    Raises:
        FalllineError: the first cell that cannot be run, and why.
    """
    must(len(data.validation) > 0, "there are validation rows", "none", "give the data a validation share", where="compare")
    must(plan.settings.track is None, "track is left out", repr(plan.settings.track), "fl.fit mirrors a single run", where="compare")
    wrong: list[tuple[Cell, FalllineError]] = []
    for cell in plan.cells:
        settings = plan.settings_of(cell, plan.rates[cell.optimizer][0], plan.seeds[0])
        try:
            checks.batch_rows(settings, len(data.train))
            if model is not None:
                goal = aim(data, settings, copy.deepcopy(loss))
                checks.check(_small(model, data, goal.outputs, settings.dropout), data, settings, goal.loss)
        except FalllineError as error:
            wrong.append((cell, error))
    if not wrong:
        return
    cell, error = wrong[0]
    if len(wrong) == len(plan.cells) and len({str(each) for _, each in wrong}) == 1:
        raise error  # the fault is none of the cell's
    raise FalllineError(f"{plan.cell_name(cell)}: {error}") from error


def _small(model: ModelLike, data: "Data", outputs: int, dropout: float) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return fresh(model, data.input_shape, outputs, seed=0, dropout=dropout)


def merged(plan: Plan, rows: int) -> Plan:
    """The plan with batch sizes that are the same on so many rows merged, and that said."""
    if "full" in plan.batch_sizes and rows in plan.batch_sizes:
        kept = tuple(batch for batch in plan.batch_sizes if batch != rows)
        return dataclasses.replace(plan, batch_sizes=kept, notes=(*plan.notes, f"batch size {rows} is the full batch and is run once"))
    return plan


def _steps(plan: Plan, rows: int) -> int:
    each = {batch: 1 if batch == "full" else math.ceil(rows / batch) for batch in plan.batch_sizes}
    trainings = sum((plan.trials(cell.optimizer) + len(plan.seeds)) * each[cell.batch_size] for cell in plan.cells)
    return max(1, plan.settings.epochs * trainings)


def _lacks(plan: Plan, status: str, members: Mapping[Cell, Sequence[Member]]) -> str:
    """What a study that did not come to its end has not compared."""
    said = "the study was interrupted" if status == "interrupted" else "the study ran out of time"
    none = [plan.cell_name(cell) for cell in plan.cells if not members.get(cell)]
    if len(none) == len(plan.cells):
        return f"{said} before any member was whole"
    less = [plan.cell_name(cell) for cell in plan.cells if 0 < len(members.get(cell, ())) < len(plan.seeds)]
    some = [f"of {listed(none)} there is no member" if none else "", f"of {listed(less)} some seeds are missing" if less else ""]
    return ": ".join([said, *filter(None, [", ".join(filter(None, some))])])


def _notes(plan: Plan, members: Sequence[Member], trials: Sequence[Member]) -> list[str]:
    """How the study was run, in sentences."""
    notes = list(plan.notes)
    if plan.searched:
        counts = {name: plan.trials(name) for name in plan.optimizers}
        of = {count: listed([label(name) for name in counts if counts[name] == count]) for count in counts.values()}
        if len(of) == 1:
            spent = f"every cell had {counts[plan.optimizers[0]]} trainings to find its learning rate"
        else:
            each = [f"{count} a cell for {names}" if count else f"none for {names}, whose rate was given" for count, names in of.items()]
            spent = f"the trainings to find a learning rate were not equal: {listed(sorted(each, key=lambda words: words[0] == 'n'))}"
        more = "up to 3 more where the best stood at the edge of the rates"
        notes.append(f"{spent}; {more}; all with seed {plan.search_seed}, which is not compared")
    every = [*members, *trials]
    blocks = sorted({m.block for m in every})
    if blocks and blocks[-1] > 1:
        notes.append(f"{len(every)} trainings were run, up to {blocks[-1]} of them together in one program")
    for why in dict.fromkeys(m.alone for m in every if m.alone):
        notes.append(f"{sum(m.alone == why for m in every)} trainings were run one by one: {why}")
    return notes


def _search(plan: Plan, tuned: dict[Cell, Tuned]) -> dict[str, list[list[float | None]]]:
    return {
        plan.cell_name(cell): [[lr, loss if math.isfinite(loss) else None] for lr, loss in found.trials]
        for cell, found in tuned.items()
        if found.trials
    }
