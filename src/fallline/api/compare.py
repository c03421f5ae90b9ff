"""`fl.compare`: optimizers (and batch sizes) against one another over paired seeds, each at a learning rate found for it."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fallline._core.errors import FalllineError, must
from fallline._core.files import make_folder
from fallline.api.again import check_loss_given, same_model, same_rows, sitting
from fallline.api.fit import load_data
from fallline.api.folder import describe
from fallline.api.model import model_maker, with_width
from fallline.api.names import check_names, check_resumed, check_settings, loss_name
from fallline.losses import Loss, own_loss
from fallline.population import Population
from fallline.record import REPORT_FILE, Reader, Writer, holds_run, read_info
from fallline.study.budget import fitted, parse_budget
from fallline.study.compare import Result, check, merged, run_study
from fallline.study.members import Member
from fallline.study.models import fresh
from fallline.study.plan import BatchSize, Plan, Rates, make_plan
from fallline.study.runner import runner_of
from fallline.study.text import python_call, ranking_text
from fallline.training import Settings, aim
from fallline.training.goal import warn_of_rare_pairs
from fallline.training.metrics import names as metric_names

if TYPE_CHECKING:
    from torch import Tensor

    from fallline.data import Data
    from fallline.study.board import Show
    from fallline.study.runner import Runner

_INSTEAD = {"lr": "lrs=[0.1]", "batch_size": "batch_sizes=[64]", "seed": "seeds=[0]", "optimizer": "optimizers=['adam']"}
_ON_RESUME = ("make_model", "data", "loss", "cluster", "resume", "quiet", "stop", "show")
ALL = ("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "nadam", "adamax")


class Study:
    """A comparison that was run (or stopped on the way).

    Attributes:
        table: one dict for each cell (an optimizer at a batch size, with a loss and a schedule), the best first: rank (None: not ranked),
            cell (its name), optimizer, batch_size, loss, schedule, lr, seeds, diverged, metric, mean, low, high (95 % interval over
            seeds), values (one for each seed), test_mean, test_low, test_high, seconds (middle member), steps (one for each seed),
            steps_to_target (middle seed; None: never), missed, lr_at_edge, trials, differs_from_best ("best", "yes", "not shown",
            "not ranked"), difference, difference_low, difference_high, p (corrected over all pairs), visible (what these seeds can
            show, about), note, target, at_seeds (which seeds), ran (steps of each in all), step and every (the smallest amounts by which
            values and steps can move).
        best: the first row of the table, or None.
        target: the level that steps are counted to; NaN where there is none.
        factors: where several factors vary, one dict for each with what its levels show: pairs, turns of their order, ...
        plan: what was asked: cells, rates, seeds, and the settings that all members share.
        differences: one dict for each pair of cells: a, b, difference, low, high, p, ratio (of steps to the target), ratio_low, ...
        profiles: the performance profile of each optimizer, with its score.
        members: every training that is compared, with its metrics and time.
        search: by cell the rates that were tried, with their validation loss.
        headline: the result in a sentence.
        shown: what else is shown, a line each.
        basis: how it was judged.
        notes: how the study was run, in sentences.
        status: "finished", "interrupted" or "out of time".
        folder: where it is kept, or None.
        reader: the record: curves of every member.
        data: what it was run on.
    """

    def __init__(self, result: Result, plan: Plan, writer: Writer, data: "Data", again: "Callable[..., Study]") -> None:
        self._result, self.plan, self.data, self._again = result, plan, data, again
        self.reader = Reader(writer)
        self.folder: Path | None = writer.folder
        self.table: list[dict[str, Any]] = result.table
        self.members: list[Member] = result.members
        self.search = result.search
        self.differences, self.profiles, self.notes = result.differences, result.profiles, result.notes
        self.factors = result.factors
        self.headline, self.shown, self.basis = result.headline, result.shown, result.basis
        self.status = result.status
        self.target = result.target

    @property
    def best(self) -> dict[str, Any] | None:
        """The first row of the table, or None where no member was finished."""
        return self.table[0] if self.table else None

    def text(self) -> str:
        """The ranking for a terminal."""
        return ranking_text(self._result, self.plan)

    def resume(self, *, quiet: bool = False, stop: Callable[[], bool] | None = None) -> "Study":
        """Go on with a study that was interrupted; members that are whole are not trained again.

        Args:
            quiet: no progress bar.
            stop: asked after every step; True stops.
        """
        return self._again(quiet=quiet, stop=stop)

    def report(self, path: Path | str | None = None) -> Path:
        """Write the page with curves, table and settings; return its path.

        Args:
            path: of the HTML file; by default report.html in the study's folder, or in the current one.
        """
        from fallline import report

        place = Path(path) if path is not None else (self.folder or Path()) / REPORT_FILE
        report.write(report.study_page(self.reader), place)
        return place

    def __repr__(self) -> str:
        return f"<Study {self.status}: {self.headline}>"


def compare(
    make_model: Any = "mlp:128",
    data: Any = None,
    optimizers: Sequence[str] = ALL,
    lrs: Rates = "auto",
    batch_sizes: Sequence[BatchSize] = (32,),
    seeds: int | Sequence[int] = 5,
    epochs: int = 10,
    out: Path | str | None = None,
    target: float | str = "auto",
    *,
    metric: str = "auto",
    loss: "str | Loss | Callable[..., Tensor]" = "auto",
    losses: Sequence[str] | None = None,
    schedules: Sequence[str] | None = None,
    budget: float | str | None = None,
    cluster: str | None = None,
    column: str | None = None,
    resume: Path | str | None = None,
    quiet: bool = False,
    stop: Callable[[], bool] | None = None,
    show: "Show | None" = None,
    **settings: Any,
) -> Study:
    """Compare optimizers: a learning rate is found for each on the same budget, then each trains with the same fresh seeds.

    All trainings of a shape run together as populations: a member is what its run alone would be, to float rounding, and costs a
    fraction of it. Models that cannot be stacked are trained one by one, and the study's notes say why.

    Args:
        make_model: spec ("mlp:128", "cnn", "file.py:make_model"), function, or module (every seed then begins with its weights).
        data: a `Data`, or what `fl.data.load` takes.
        optimizers: names with options ("adam", "rmsprop:alpha=0.9").
        lrs: "auto" searches; a number for all; a list to choose from; a dict gives each optimizer its own of these.
        batch_sizes: a further factor: [32, 128].
        seeds: how many, or a list. One seed gives no interval.
        epochs: of every training, also of the search.
        out: folder of the study; None keeps it in memory.
        target: the validation metric that steps are counted to; "auto": what every run of three in
            four cells reaches.
        metric: that ranks, on validation rows; "auto": accuracy, or R2.
        loss: name, "auto", `Loss`, or one of your own: any function or module of (input, target).
        losses: a further factor, in the place of `loss`: ["mse", "huber"].
        schedules: a further factor, in the place of `schedule`: ["constant", "cosine"].
        budget: the time it may take, in seconds or as "10m": epochs are cut, for all alike, until it fits; at its end what is whole counts.
            A study that was interrupted has the rest when it is resumed; one that ran out of time has all of it again.
        cluster: "ray", or the address of a Ray cluster: blocks of members are trained there.
        column: the target column, where `data` is a table.
        resume: folder of a study to go on with; members that are whole are not run again. Model and data only where they were in memory.
        quiet: no progress bar.
        stop: asked after every few steps; True stops, as Ctrl-C does: what is whole is kept and ranked.
        show: told how the cells stand, a dict each (cell, trials, lr, members, of, mean), and the seconds that are left.
        **settings: the other fields of `fallline.training.Settings` (schedule, weight_decay, clip_norm, patience, device, ...).

    Returns:
        The study.

    Raises:
        FalllineError: bad input, in one sentence; nothing is written then.

    >>> import torch
    >>> x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> study = compare("linear", (x.numpy(), y.numpy()), ["sgd", "adam"], lrs=0.1, seeds=2, epochs=2, quiet=True)
    >>> len(study.table), study.table[0]["seeds"], study.status
    (2, 2, 'finished')
    """
    given_here = dict(locals())
    if resume is not None:
        check_resumed(compare, given_here, _ON_RESUME)
        must(not isinstance(loss, str) or loss == "auto", "the loss is that in the folder", repr(loss), "leave it out", where="resume")
    runner = runner_of(cluster)
    if resume is not None:
        own = None if isinstance(loss, str) else loss
        return _resume(Path(resume), make_model, data, own, quiet=quiet, stop=stop, runner=runner, show=show)
    must(losses is None or (isinstance(loss, str) and loss == "auto"), "losses are given once", "loss and losses", "leave one of them out")
    must(schedules is None or "schedule" not in settings, "schedules are given once", "schedule and schedules", "leave one of them out")
    must(data is not None, "compare has data", "none", "fallline.compare('mlp:128', 'digits') is an example")
    check_settings("compare", settings, _INSTEAD)
    factor = [losses] if isinstance(losses, str) else losses
    first_loss = factor[0] if factor and isinstance(factor[0], str) and factor[0] != "auto" else loss
    wanted = Settings(loss=loss_name(first_loss), epochs=epochs, lr=1.0, **settings)
    for each in factor or [loss]:
        check_names(each, optimizers if isinstance(optimizers, (list, tuple)) else [optimizers])
    rows = load_data(data, column, 0)
    given = own_loss(loss, rows.task)
    wanted = with_width(wanted, make_model, rows, given)
    goal = aim(rows, wanted, given)
    known = ("loss", *metric_names(rows.task))
    plan = make_plan(
        optimizers,
        lrs=lrs,
        batch_sizes=batch_sizes,
        losses=losses,
        schedules=schedules,
        seeds=seeds,
        metric=known[1] if metric == "auto" else metric,
        metrics=known,
        target=target,
        settings=wanted,
        budget=parse_budget(budget),
    )
    plan = merged(plan, len(rows.train))
    wanted = plan.settings
    for each in plan.losses:
        one = replace(wanted, loss=each)
        model_maker(make_model, rows, aim(rows, one, given), one).make()  # says what is wrong with a model before anything is trained
    check(rows, plan, make_model, given)
    for batch in plan.batch_sizes:
        each = replace(wanted, batch_size=batch)
        warn_of_rare_pairs(aim(rows, each, given), rows, each)
    maker = model_maker(make_model, rows, goal, wanted)
    if plan.budget is not None:
        population = Population(lambda s, g: fresh(make_model, rows.input_shape, g.outputs, seed=s.seed, dropout=s.dropout), rows, given)
        plan = fitted(population, plan, given)
        check(rows, plan, make_model, given)
        wanted = plan.settings
    parts = describe(maker, maker.copy(), rows, wanted, goal, goal.choices, loss_given=given is not None)
    folder = None
    if out is not None:
        if holds_run(out):
            raise FalllineError(f"'{out}' already holds a run; resume it (--resume {out}), or choose another folder with --out.")
        folder = make_folder(out)
    writer = Writer(folder, kind="study")
    parts |= {
        "config": plan.to_json(),
        "optimizer": {"name": ", ".join(plan.optimizers), "schedule": wanted.schedule},
        "python": python_call(make_model, rows.source, plan, loss_in_memory=given is not None),
    }
    writer.describe(**parts)
    return _run(make_model, rows, plan, writer, given, runner, show, quiet=quiet, stop=stop)


def _run(
    model: Any,
    data: "Data",
    plan: Plan,
    writer: Writer,
    loss: Loss | None,
    runner: "Runner | None",
    show: "Show | None",
    *,
    quiet: bool,
    stop: Callable[[], bool] | None,
) -> Study:
    with sitting(writer, stop, runner) as asked:
        result = run_study(model, data, plan, writer, loss=loss, stop=asked, quiet=quiet, runner=runner, show=show)
    writer.describe(status=result.status, result=result.to_json())
    writer.flush()
    return Study(result, plan, writer, data, partial(_run, model, data, plan, writer, loss, runner, show))


def _resume(
    folder: Path,
    model: Any,
    data: Any,
    loss: Any,
    *,
    quiet: bool,
    stop: Callable[[], bool] | None,
    runner: "Runner | None",
    show: "Show | None",
) -> Study:
    info = read_info(folder)
    must(info["kind"] == "study", "a study can be resumed", f"a {info['kind']}", "resume a run with fallline train", where=f"'{folder}'")
    plan = Plan.from_json(info["config"])
    given = same_model(info, "study", model, usual=inspect.signature(compare).parameters["make_model"].default, option="make_model")
    check_loss_given(info, "study", loss)
    rows = same_rows(info, "study", data, folder)
    writer = Writer(folder)
    writer.describe(status="running")
    own = None if loss is None else own_loss(loss, rows.task)
    return _run(given, rows, plan, writer, own, runner, show, quiet=quiet, stop=stop)
