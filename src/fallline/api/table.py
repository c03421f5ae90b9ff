"""`fl.table`: batch size against epochs as one call, with intervals over seeds, beside the published cells where there are some."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fallline._core.errors import FalllineError, lookup, must
from fallline._core.files import make_folder
from fallline.api.again import check_loss_given, same_model, same_rows, sitting
from fallline.api.folder import describe
from fallline.api.model import model_maker, with_width
from fallline.api.names import check_names, check_resumed, check_settings, loss_name
from fallline.losses import Loss, own_loss
from fallline.record import REPORT_FILE, Reader, Writer, holds_run, read_info
from fallline.study.plan import BatchSize
from fallline.study.published import published
from fallline.study.runner import runner_of
from fallline.study.table import TableMember, TableResult, run_table
from fallline.study.table_plan import TablePlan, make_table_plan
from fallline.study.table_text import python_call, table_text
from fallline.training import Settings, aim
from fallline.training.checks import check
from fallline.training.goal import warn_of_rare_pairs
from fallline.training.metrics import names as metric_names

if TYPE_CHECKING:
    from torch import Tensor

    from fallline.data import Data
    from fallline.study.runner import Runner


_INSTEAD = {"batch_size": "batch_sizes=[64]", "seed": "seeds=[0]"}
_ON_RESUME = ("model", "data", "loss", "cluster", "resume", "quiet", "stop")


class Table:
    """A table of batch size against epochs that was filled (or stopped on the way).

    Attributes:
        cells: one dict for each batch size and number of epochs: batch_size, epochs, cell (the name of its row), metric, mean, low, high
            (95 % interval over seeds), n (seeds in it), seeds, diverged, at_seeds, values (one for each seed), seconds (middle of the
            seeds), published, published_within (whether that lies in the interval widened by one point at both ends).
        differences: one dict for each pair of batch sizes at each number of epochs: epochs, a, b, n, difference, low, high, p (corrected
            over all of them).
        members: every training, with its metrics by epochs.
        headline: which differences are shown, in words.
        notes: how the table was made, in sentences.
        status: "finished" or "interrupted".
        folder: where it is kept, or None.
        reader: the record: curves of every member.
        data: what it was made on.
    """

    def __init__(self, result: TableResult, plan: TablePlan, writer: Writer, data: "Data", again: "Callable[..., Table]") -> None:
        self._result, self.plan, self.data, self._again = result, plan, data, again
        self.reader = Reader(writer)
        self.folder: Path | None = writer.folder
        self.cells: list[dict[str, Any]] = result.cells
        self.differences: list[dict[str, Any]] = result.differences
        self.members: list[TableMember] = result.members
        self.headline = result.headline
        self.notes = result.notes
        self.status = result.status
        self.seconds = result.seconds

    def cell(self, batch_size: BatchSize, epochs: int) -> dict[str, Any]:
        """One cell of the table.

        Raises:
            FalllineError: the table has no such cell.
        """
        known = {f"{cell['batch_size']} at {cell['epochs']}": cell for cell in self.cells}
        return lookup("cell", f"{batch_size} at {epochs}", known)

    def text(self) -> str:
        """The table for a terminal."""
        return table_text(self._result)

    def resume(self, *, quiet: bool = False, stop: Callable[[], bool] | None = None) -> "Table":
        """Go on with a table that was interrupted; blocks of members that are whole are not trained again.

        Args:
            quiet: no progress bar.
            stop: asked after every few steps; True stops.
        """
        return self._again(quiet=quiet, stop=stop)

    def report(self, path: Path | str | None = None) -> Path:
        """Write the page with heat map, curves and differences; return its path.

        Args:
            path: of the HTML file; by default report.html in the table's folder, or in the current one.
        """
        from fallline import report

        place = Path(path) if path is not None else (self.folder or Path()) / REPORT_FILE
        return report.write(report.table_page(self.reader), place)

    def __repr__(self) -> str:
        return f"<Table {self.status}: {self.headline}>"


def table(
    data: Any = None,
    model: Any = "mlp:256",
    *,
    optimizer: str = "rmsprop:like=keras",
    lr: float = 0.001,
    batch_sizes: Sequence[BatchSize] = (32, 64, 128, "full"),
    epochs: Sequence[int] = (5, 10, 15),
    seeds: int | Sequence[int] = 5,
    out: Path | str | None = None,
    metric: str = "auto",
    loss: "str | Loss | Callable[..., Tensor]" = "auto",
    column: str | None = None,
    resume: Path | str | None = None,
    quiet: bool = False,
    stop: Callable[[], bool] | None = None,
    cluster: str | None = None,
    **settings: Any,
) -> Table:
    """Fill a table of batch size against epochs over several seeds, and say which differences are real.

    One training for each batch size and seed gives the cells of all its lengths, where the schedule allows (a constant rate does). All
    training rows train: nothing is chosen, so no row is held out to choose by; the test rows are judged after every epoch.

    Args:
        data: a `Data`, or what `fl.data.load` takes, which is then loaded without validation rows and scaled to 0..1.
        model: spec ("mlp:256", "cnn", "file.py:make_model"), function, or module (every seed then begins with its weights).
        optimizer: name with options.
        lr: learning rate, the same in every cell.
        batch_sizes: rows of the table: numbers, or "full" for all rows at once.
        epochs: columns of the table.
        seeds: how many, or a list. One seed gives no interval.
        out: folder of the table; None keeps it in memory.
        metric: in the cells; "auto": accuracy, or R2.
        loss: name, "auto", `Loss`, or one of your own: any function or module of (input, target).
        column: the target column, where `data` is a table.
        resume: folder of a table to go on with; what is whole is not run again. Model and data only where they were in memory.
        quiet: no progress bar.
        stop: asked after every few steps; True stops, as Ctrl-C does: what is whole is kept.
        cluster: "ray", or the address of a Ray cluster: blocks of members are trained there.
        **settings: the other fields of `fallline.training.Settings` (schedule, weight_decay, clip_norm, device, ...).

    Returns:
        The table.

    Raises:
        FalllineError: bad input, in one sentence; nothing is written then.

    >>> found = table("iris", "linear", lr=0.01, batch_sizes=[16, "full"], epochs=[1, 3], seeds=2, quiet=True)
    >>> [(cell["cell"], cell["epochs"], cell["n"]) for cell in found.cells]
    [('batch 16', 1, 2), ('batch 16', 3, 2), ('full batch', 1, 2), ('full batch', 3, 2)]
    """
    given_here = dict(locals())
    if resume is not None:
        check_resumed(table, given_here, _ON_RESUME)
        must(not isinstance(loss, str) or loss == "auto", "the loss is that in the folder", repr(loss), "leave it out", where="resume")
    runner = runner_of(cluster)
    if resume is not None:
        own = None if isinstance(loss, str) else loss
        return _resume(Path(resume), model, data, own, quiet=quiet, stop=stop, runner=runner)
    if isinstance(data, str) and data.partition(":")[0] in ("mlp", "cnn", "linear"):
        raise FalllineError(f"table takes the data first and the model after it: fallline.table({model!r}, {data!r}).")
    must(data is not None, "a table has data", "none", "fallline.table('fashion_mnist') is an example")
    check_settings("table", settings, _INSTEAD)
    wanted = Settings(optimizer=optimizer, lr=lr, loss=loss_name(loss), **settings)
    check_names(loss, [optimizer])
    rows = _load(data, column)
    must(len(rows.test) > 0, "there are test rows", "none", "give the data a test share", where="a table")
    given = own_loss(loss, rows.task)
    wanted = with_width(wanted, model, rows, given)
    known = ("loss", *metric_names(rows.task))
    chosen = known[1] if metric == "auto" else metric
    lookup("metric of this task", chosen, dict.fromkeys(known))
    plan = make_table_plan(batch_sizes=batch_sizes, epochs=epochs, seeds=seeds, metric=chosen, settings=wanted, rows=len(rows.train))
    if len(rows.validation):
        said = f"{len(rows.validation)} validation rows of the data stand aside: they neither train nor choose"
        plan = replace(plan, notes=(*plan.notes, said))
    goal = aim(rows, plan.settings, given)
    maker = model_maker(model, rows, goal, plan.settings)
    maker.make()  # says what is wrong with a model before anything is trained
    for batch in plan.batch_sizes:
        each = plan.settings_of(batch, plan.epochs[-1], plan.seeds[0])
        check(maker.copy(), rows, each, goal.loss)
        warn_of_rare_pairs(aim(rows, each, given), rows, each)
    folder = None
    if out is not None:
        if holds_run(out):
            raise FalllineError(f"'{out}' already holds a run; resume it (--resume {out}), or choose another folder with --out.")
        folder = make_folder(out)
    writer = Writer(folder, kind="table")
    parts = describe(maker, maker.copy(), rows, plan.settings, goal, goal.choices, loss_given=given is not None)
    writer.describe(**parts | {"config": plan.to_json(), "python": python_call(model, rows.source, plan)})
    return _run(model, rows, plan, writer, given, runner, quiet=quiet, stop=stop)


def _load(data: Any, column: str | None) -> "Data":
    from fallline.data import Data, load

    return data if isinstance(data, Data) else load(data, column, seed=0, scale="minmax", validation=0.0)


def _run(
    model: Any,
    data: "Data",
    plan: TablePlan,
    writer: Writer,
    loss: Loss | None,
    runner: "Runner | None",
    *,
    quiet: bool,
    stop: Callable[[], bool] | None,
) -> Table:
    beside = published(data, model, plan.settings, plan.metric)
    with sitting(writer, stop, runner) as asked:
        result = run_table(model, data, plan, writer, loss=loss, beside=beside, stop=asked, quiet=quiet, runner=runner)
    writer.describe(status=result.status, result=result.to_json())
    writer.flush()
    return Table(result, plan, writer, data, partial(_run, model, data, plan, writer, loss, runner))


def _resume(
    folder: Path, model: Any, data: Any, loss: Any, *, quiet: bool, stop: Callable[[], bool] | None, runner: "Runner | None"
) -> Table:
    info = read_info(folder)
    must(info["kind"] == "table", "a table can be resumed", f"a {info['kind']}", "each command resumes its own", where=f"'{folder}'")
    plan = TablePlan.from_json(info["config"])
    again = same_model(info, "table", model, usual=inspect.signature(table).parameters["model"].default, option="model")
    check_loss_given(info, "table", loss)
    rows = same_rows(info, "table", data, folder, _load)
    writer = Writer(folder)
    writer.describe(status="running")
    given = None if loss is None else own_loss(loss, rows.task)
    return _run(again, rows, plan, writer, given, runner, quiet=quiet, stop=stop)
