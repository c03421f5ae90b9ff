"""Batch size against epochs: one training for each batch size and seed gives the cells of all its lengths, with intervals over seeds.

Nothing is chosen on the way (no validation rows, no early stop, no search), so the test rows may be judged after every epoch: the numbers
of an epoch are those of the weights as they are used then. Seed s gives every batch size the same initial weights and, batch by batch,
the same order of rows, so batch sizes are compared seed by seed.

What is corrected over what: every pair of batch sizes is asked once for each number of epochs, and Holm's correction runs over all of
these questions together, so the chance that a table claims any false difference stays below 5 %.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from fallline import record
from fallline._core.errors import FalllineError
from fallline._core.progress import Progress
from fallline.population import Block, Population, shape_of
from fallline.population import Result as Trained
from fallline.record import Reader, Writer
from fallline.study.models import ModelLike, fresh
from fallline.study.pairs import LEVEL, differences
from fallline.study.plan import BatchSize
from fallline.study.published import within
from fallline.study.runner import Local, Runner
from fallline.study.sentence import listed, sentence
from fallline.study.statistics import holm, mean_interval, median, pair_test, smallest_move
from fallline.study.table_plan import TablePlan, batch_name, steps_of
from fallline.study.versus import plain
from fallline.training import Goal, aim
from fallline.training.checks import batch_rows

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss

OUTCOME = "outcome"  # the text in the record that says: this member is whole
LARGE = 5e9  # multiplications and additions of a step: beyond, a block of members only takes memory

_KEPT = ("a", "b", "n", "difference", "low", "high", "p", "by", "diverged")

Published = Mapping[BatchSize, Mapping[int, float]]


@dataclass(frozen=True)
class TableMember:
    """What came of one training.

    Attributes:
        run: its name in the record.
        batch_size: rows in a mini-batch, or "full".
        epochs: that it was to train.
        seed: of its weights and orders.
        status: "finished" or "diverged".
        at: by epochs, as text: metrics on test rows at the weights after so many; fewer for a diverged member.
        seconds: by epochs, as text: time until then; its share, where it was trained in a block.
        steps: optimizer steps.
        block: members that were trained together with it.
        alone: why it was trained by itself; "" where it was not, or was the only one.
        message: what is to say, where it did not simply finish.
    """

    run: str
    batch_size: BatchSize
    epochs: int
    seed: int
    status: str
    at: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    block: int = 1
    alone: str = ""
    message: str = ""

    def value(self, metric: str, epochs: int) -> float:
        """The metric on test rows after so many epochs; NaN where it had diverged by then."""
        found = self.at.get(str(epochs), {})
        whole = all(math.isfinite(found.get(key, math.nan)) for key in ("loss", metric))
        return float(found[metric]) if whole else math.nan


@dataclass
class TableResult:
    """What a table holds.

    Attributes:
        status: "finished" or "interrupted".
        cells: one dict for each batch size and number of epochs, see `cells_of`.
        differences: one dict for each pair of batch sizes at each number of epochs, see `differences_of`.
        members: every whole training.
        headline: the result in words.
        notes: how it was made, in sentences.
        seconds: wall-clock time of this sitting.
    """

    status: str
    cells: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    members: list[TableMember]
    headline: str
    notes: list[str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """What `run.json` holds of it."""
        return {**{key: value for key, value in vars(self).items() if key != "status"}, "members": len(self.members)}


def run_table(
    model: ModelLike,
    data: "Data",
    plan: TablePlan,
    writer: Writer,
    *,
    loss: "Loss | None" = None,
    beside: Published | None = None,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
    runner: Runner | None = None,
) -> TableResult:
    """Train what the plan asks for and the record does not hold yet, and fill the table.

    Args:
        model: spec, function or module.
        data: rows; the test rows are judged.
        plan: what is asked.
        writer: the table's record, new or continued.
        loss: a loss object in place of the settings' name.
        beside: published cells, where there are some.
        stop: asked after every few steps; True ends with what is whole so far.
        quiet: no progress bar.
        runner: where blocks are trained; by default in this process.

    Raises:
        FalllineError: settings that do not fit the data.
    """
    began = time.monotonic()
    members, interrupted = _train(model, data, plan, writer, loss, stop, quiet, runner or Local())
    step = smallest_move(plan.metric, np.asarray(data.test.y))
    cells = cells_of(plan, members, len(data.train), step, beside or {})
    pairs = differences_of(cells)
    notes = [*plan.notes, *_notes(plan, members, len(data.train), bool(beside))]
    status = "interrupted" if interrupted else "finished"
    return TableResult(status, cells, pairs, members, headline(cells, pairs), notes, time.monotonic() - began)


def population_of(model: ModelLike, data: "Data", plan: TablePlan, loss: "Loss | None") -> Population:
    """The members of a table as a population; where one step is a large matrix product, each is a block of its own."""

    def make(settings: Any, goal: Goal) -> nn.Module:
        return fresh(model, data.input_shape, goal.outputs, seed=settings.seed, dropout=settings.dropout)

    sizes = dict(plan.sizes)
    for batch in plan.batch_sizes:
        settings = plan.settings_of(batch, plan.epochs[-1], plan.seeds[0])
        weights = sum(p.numel() for p in make(settings, aim(data, settings, copy.deepcopy(loss))).parameters())
        if 6 * batch_rows(settings, len(data.train)) * weights > LARGE:
            sizes.setdefault(repr(shape_of(settings)), 1)
    return Population(make, data, loss, sizes=sizes)


def _train(
    model: ModelLike,
    data: "Data",
    plan: TablePlan,
    writer: Writer,
    loss: "Loss | None",
    stop: Callable[[], bool],
    quiet: bool,
    runner: Runner,
) -> tuple[list[TableMember], bool]:
    """All whole members, in the order of the plan, and whether the user stopped it. A block is recorded whole or not at all."""
    rows = len(data.train)
    population = population_of(model, data, plan, loss)
    jobs = plan.jobs(rows)
    blocks = population.blocks(jobs)
    if population.sizes != plan.sizes:
        plan.sizes.update(population.sizes)
        writer.describe(config=plan.to_json())  # so that a resumed table takes the same blocks, wherever it is resumed
    reader = Reader(writer)
    found: dict[str, TableMember] = {}
    missing: list[Block] = []
    for block in blocks:
        known = [member for job in block.jobs if (member := _known(reader, job.run)) is not None]
        if len(known) == len(block.jobs):
            found |= {member.run: member for member in known}
            continue
        missing.append(block)
        for job in block.jobs:
            writer.drop(job.run)
    interrupted = False
    with Progress("table", max(1, rows * sum(job.settings.epochs for job in jobs)), quiet=quiet) as bar:
        ticks = _Ticks(bar, missing, rows)
        bar.advance(rows * sum(member.epochs for member in found.values()))
        for block, results in runner.run(population, missing, writer, stop=stop, tick=ticks):
            if results is None:
                for job in block.jobs:
                    writer.drop(job.run)
                interrupted = True
                break
            for result in results:
                found[result.job.run] = _record(writer, reader, result, rows)
            writer.flush()
            ticks.end(block)
    return [found[job.run] for job in jobs if job.run in found], interrupted


def _record(writer: Writer, reader: Reader, result: Trained, rows: int) -> TableMember:
    """The member, with its test metrics by epochs, as curves and as the text that says it is whole."""
    job, outcome = result.job, result.outcome
    batch = job.settings.batch_size
    steps = steps_of(batch, rows)
    spent = reader.series("seconds_per_step", "train", job.run)
    seconds = {str(round(e)): float(s) for e, s in zip(spent.epoch, spent.seconds, strict=True)}
    for epochs, metrics in sorted(result.marks.items()):
        for key, value in metrics.items():
            when = seconds.get(str(epochs), math.nan)
            writer.scalar(key, value, step=epochs * steps, epoch=epochs, split="test", run=job.run, seconds=when)
    member = TableMember(
        job.run,
        batch,
        job.settings.epochs,
        job.settings.seed,
        outcome.status,
        {str(epochs): metrics for epochs, metrics in sorted(result.marks.items())},
        seconds,
        outcome.steps,
        result.block,
        result.alone,
        outcome.message,
    )
    writer.text(OUTCOME, json.dumps(asdict(member)), run=job.run)
    return member


def _known(reader: Reader, run: str) -> TableMember | None:
    """The member of that name, where the record holds it whole."""
    texts = reader.texts(OUTCOME, run)
    try:
        return TableMember(**json.loads(texts[-1][1])) if texts else None
    except (ValueError, TypeError) as error:
        raise FalllineError(f"the record of member '{run}' is damaged: {error}.") from error


def cells_of(plan: TablePlan, members: Sequence[TableMember], rows: int, step: float, beside: Published) -> list[dict[str, Any]]:
    """The cells, row after row of the table, as plain values for JSON.

    Args:
        plan: what was asked.
        members: those that are whole.
        rows: training rows.
        step: the smallest amount by which the metric can move; 0 where it is continuous.
        beside: published cells.

    Returns:
        One dict each: `batch_size`, `epochs`, `cell` (the name of its row), `metric`, `mean`, `low`, `high` (95 % t interval over seeds;
        None: fewer than two), `n` (seeds in it), `seeds` (seeds that were run), `diverged`, `at_seeds`, `values` (one for each seed;
        None: diverged), `seconds` (middle of the seeds, from the start), `step`, `published` (None: not there), `published_within`
        (whether that lies in the interval widened by one point at both ends; None: unknown).
    """
    out = []
    fraction = record.key(plan.metric).unit == "fraction"
    for batch in plan.batch_sizes:
        shared = plan.shared(batch, rows)
        for epochs in plan.epochs:
            mine = [m for m in members if m.batch_size == batch and m.epochs == (plan.epochs[-1] if shared else epochs)]
            values = [m.value(plan.metric, epochs) for m in mine]
            whole = [v for v in values if math.isfinite(v)]
            mean, low, high, n = mean_interval(whole, step=step)
            if fraction and low is not None and high is not None:
                low, high = max(low, 0.0), min(high, 1.0)
            known = beside.get(batch, {}).get(epochs)
            out.append(
                {
                    "batch_size": batch,
                    "epochs": epochs,
                    "cell": batch_name(batch),
                    "metric": plan.metric,
                    "mean": plain(mean),
                    "low": low,
                    "high": high,
                    "n": n,
                    "seeds": len(mine),
                    "diverged": len(values) - len(whole),
                    "at_seeds": [m.seed for m in mine],
                    "values": [plain(v) for v in values],
                    "seconds": plain(median([m.seconds[str(epochs)] for m in mine if str(epochs) in m.seconds])),
                    "step": step,
                    "published": known,
                    "published_within": None if known is None else within(known, low, high),
                }
            )
    return out


def differences_of(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every pair of batch sizes at every number of epochs, the better one first, as plain values for JSON.

    Args:
        cells: of `cells_of`.

    Returns:
        One dict each: `epochs`, `a`, `b` (names of rows), `n`, `difference` (mean of a - b over the seeds on which neither diverged),
        `low`, `high` (its 95 % interval, of this pair alone), `p` (corrected over all pairs at all numbers of epochs), `by`, `diverged`.
    """
    made: list[dict[str, Any]] = []
    ps: list[float] = []
    for epochs in dict.fromkeys(cell["epochs"] for cell in cells):
        rows = _ranked(cells, epochs)
        held = {row["cell"]: dict(zip(row["at_seeds"], row["values"], strict=True)) for row in rows}
        for pair in differences(rows):
            a, b = held[pair["a"]], held[pair["b"]]
            both = [seed for seed in a if seed in b]
            values = [[math.nan if side[seed] is None else side[seed] for seed in both] for side in (a, b)]
            ps.append(pair_test(values[0], values[1], rows[0]["step"]).p)
            made.append({"epochs": epochs, **{key: pair[key] for key in _KEPT}})
    for pair, p in zip(made, holm(ps), strict=True):
        pair["p"] = p
    return made


def _value(value: float, metric: str) -> str:
    """A value of the metric: a share in percent."""
    return f"{100 * value:.3g} %" if record.key(metric).unit == "fraction" else f"{value:.4g}"


def headline(cells: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]) -> str:
    """What the table shows, in words: for each number of epochs which differences are shown, and on what these words rest."""
    if not any(cell["seeds"] for cell in cells):
        return "no training was finished"
    if all(cell["mean"] is None for cell in cells):
        return "every run diverged; a smaller learning rate is worth a try"
    key = record.key(cells[0]["metric"])
    lengths = list(dict.fromkeys(cell["epochs"] for cell in cells))
    if len({cell["cell"] for cell in cells}) == 1:
        return _single(cells, key.label)
    most = max((pair["n"] for pair in pairs), default=0)
    if most < 2:
        return "one seed shows no difference, take three or more" if most else "no two batch sizes share a seed so far"
    said = [f"after {epochs} epoch{'s' if epochs > 1 else ''}: {_words(cells, pairs, epochs)}" for epochs in lengths]
    over = "" if len(pairs) == 1 else f"; a difference is called shown where it holds at 5 % over all {len(pairs)} pairs together"
    text = ". ".join(s[0].upper() + s[1:] for s in said)
    return f"{text} (test {key.label}, compared seed by seed; each 95 % interval is of its own pair alone{over})"


def _words(cells: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]], epochs: int) -> str:
    mine = [pair for pair in pairs if pair["epochs"] == epochs]
    if max((pair["n"] for pair in mine), default=0) < 2:
        return "not enough runs to tell"
    return sentence(_ranked(cells, epochs), mine)


def _single(cells: Sequence[Mapping[str, Any]], label: str) -> str:
    words = []
    for cell in cells:
        spread = "" if cell["low"] is None else f" [{_value(cell['low'], cell['metric'])}, {_value(cell['high'], cell['metric'])}]"
        after = f"after {cell['epochs']} epoch{'s' if cell['epochs'] > 1 else ''}"
        words.append(f"diverged {after}" if cell["mean"] is None else f"{_value(cell['mean'], cell['metric'])}{spread} {after}")
    n = max(cell["n"] for cell in cells)
    seeds = f"{n} seed{'s' if n > 1 else ''}"
    return f"{cells[0]['cell']} has a mean test {label} of {listed(words)} ({seeds}); there is nothing to compare it with"


def _ranked(cells: Sequence[Mapping[str, Any]], epochs: int) -> list[dict[str, Any]]:
    """The cells of so many epochs as rows that `differences` and `sentence` read: fewest diverged first, then the best mean."""
    mine = [cell for cell in cells if cell["epochs"] == epochs and cell["seeds"]]
    sign = 1 if mine and record.key(mine[0]["metric"]).better == "lower" else -1
    mine.sort(key=lambda c: (c["diverged"] / c["seeds"], math.inf if c["mean"] is None else sign * c["mean"]))
    return [{**c, "rank": i, "steps": None, "ran": [1.0] * c["seeds"], "every": 0.0} for i, c in enumerate(mine, start=1)]


def shown(pair: Mapping[str, Any]) -> bool:
    """Whether a difference is shown."""
    return pair["p"] is not None and pair["p"] <= LEVEL


def _notes(plan: TablePlan, members: Sequence[TableMember], rows: int, beside: bool) -> list[str]:
    """How the table was made, in sentences."""
    notes = []
    if len(plan.epochs) > 1:
        shared = all(plan.shared(batch, rows) for batch in plan.batch_sizes)
        every = f"{listed([str(e) for e in plan.epochs])} epochs"
        notes.append(
            f"one training of {plan.epochs[-1]} epochs for each batch size and seed gives the cells of {every}, as its rate does not "
            "depend on its length"
            if shared
            else f"the schedule {plan.settings.schedule} depends on the length of the run, so {every} were trained separately"
        )
    blocks = max((m.block for m in members), default=1)
    if blocks > 1:
        notes.append(f"{len(members)} trainings were run, up to {blocks} of them together in one program")
    for why in dict.fromkeys(m.alone for m in members if m.alone):
        notes.append(f"{sum(m.alone == why for m in members)} trainings were run one by one: {why}")
    lost = [m for m in members if m.status == "diverged"]
    notes += [f"{m.run}: {m.message}" for m in lost[:3]]
    if len(lost) > 3:
        notes.append(f"{len(lost) - 3} more diverged")
    if beside:
        notes.append(
            "published: one run a cell, without an interval; it is held against the interval of the mean, widened by one point at both ends"
        )
    return notes


class _Ticks:
    """Moves the bar by rows seen: blocks come in order, so the member-steps made tell which block is at work, and its batch size."""

    def __init__(self, bar: Progress, blocks: Sequence[Block], rows: int) -> None:
        self.bar = bar
        self.names, steps, seen = [], [0], [0]
        for block in blocks:
            batch = block.jobs[0].settings.batch_size
            epochs = sum(job.settings.epochs for job in block.jobs)
            seeds = ", ".join(str(job.settings.seed) for job in block.jobs)
            self.names.append(f"{batch_name(batch)}, seed{'s' if len(block.jobs) > 1 else ''} {seeds}")
            steps.append(steps[-1] + steps_of(batch, rows) * epochs)
            seen.append(seen[-1] + rows * epochs)
        self.steps, self.seen = np.asarray(steps, float), np.asarray(seen, float)
        self.made, self.at, self.ended = 0.0, 0.0, 0

    def __call__(self, steps: int, loss: float) -> None:
        """So many member-steps were made."""
        self.made += steps
        place = min(int(np.searchsorted(self.steps, self.made)), len(self.names)) - 1
        words = f", loss {loss:.4g}" if math.isfinite(loss) else ""
        self._reach(float(np.interp(self.made, self.steps, self.seen)), f"{self.names[max(place, 0)]}{words}" if self.names else None)

    def end(self, block: Block) -> None:
        """A block is whole: the bar stands where it should, also where members left early."""
        del block
        self.ended += 1
        self.made = max(self.made, float(self.steps[self.ended]))
        self._reach(float(np.interp(self.made, self.steps, self.seen)), None)

    def _reach(self, place: float, note: str | None) -> None:
        self.bar.advance(max(0.0, place - self.at), note=note)
        self.at = max(self.at, place)
