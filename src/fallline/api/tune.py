"""`fl.tune`: a search over all settings by Optuna, trained as populations; its best trials are trained again before anything is claimed."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fallline._core.errors import FalllineError, must
from fallline._core.files import make_folder
from fallline.api.again import check_loss_given, same_rows, sitting
from fallline.api.fit import fit, load_data
from fallline.api.folder import describe
from fallline.api.model import model_maker, with_width
from fallline.api.names import check_names, check_settings, loss_name
from fallline.api.run import Run
from fallline.losses import Loss, own_loss
from fallline.record import REPORT_FILE, Reader, Writer, holds_run, read_info
from fallline.study.found import Found, check_rows, found_text, run_search, trial_row
from fallline.study.models import ModelLike, spoken
from fallline.study.sampling import need_optuna
from fallline.study.search import SearchPlan
from fallline.study.space import AVERAGES, FACTORS, Range, Space, make_space
from fallline.study.trials_db import held
from fallline.training import Settings, aim
from fallline.training.metrics import names as metric_names

if TYPE_CHECKING:
    from torch import Tensor

    from fallline.data import Data

TRIALS = 100


class Tuning:
    """A search that was run (or stopped on the way).

    Attributes:
        table: the best trials, trained again with fresh seeds, ranked: trial, settings, factors, mean, low, high (95 % interval over
            seeds), test_mean, test_low, test_high, values, searched (what the search had shown of it), seconds, diverged.
        trials: one dict for each trial: number, model, factors, settings, status ("finished", "stopped", "diverged"), value, epochs.
        headline: the result in words.
        notes: what must be known of it.
        importances: which settings mattered among these trials.
        counts: trials by how they ended, and epochs that were trained.
        status: "finished" or "interrupted".
        folder: where it is kept, or None.
        reader: the record: curves of every trial.
        data: what it was run on.
    """

    def __init__(
        self,
        found: Found,
        plan: SearchPlan,
        models: Mapping[str, ModelLike],
        writer: Writer,
        data: "Data",
        loss: Loss | None,
        again: "Callable[..., Tuning]",
    ) -> None:
        self._found, self.plan, self.data, self._again, self._models, self._loss = found, plan, data, again, models, loss
        self.reader = Reader(writer)
        self.folder: Path | None = writer.folder
        self.table = found.table
        self.trials: list[dict[str, Any]] = [trial_row(trial) for trial in found.trials]
        self.headline, self.notes = found.headline, found.notes
        self.importances, self.counts, self.status = found.importances, found.counts, found.status

    @property
    def best(self) -> dict[str, Any] | None:
        """The settings of the first row of the table, `model` among them; None where no trial was finished."""
        if not self.table or self.table[0]["mean"] is None:
            return None
        return {"model": self.table[0]["model"], **self.table[0]["settings"]}

    @property
    def command(self) -> str:
        """The command line that trains the best settings; "" where there are none, or where model or data were in memory."""
        if self.best is None or not isinstance(self._models[self.best["model"]], str) or self._loss is not None:
            return ""
        return train_line(self.data.source, self.best, self.plan.settings)

    def fit(self, **changes: Any) -> Run:
        """Train the best settings once more; `changes` are further arguments of `fallline.fit` (seed, out, epochs, ...).

        Raises:
            FalllineError: no trial was finished.
        """
        must(self.best is not None, "a trial was finished", "none", "search on: tuning.resume()", where="fit")
        assert self.best is not None
        fields = dataclasses.replace(self.plan.settings, **{k: v for k, v in self.best.items() if k != "model"}).to_json()
        fields |= changes
        if self._loss is not None:
            fields["loss"] = self._loss
        return fit(self._models[self.best["model"]], self.data, **fields)

    def text(self) -> str:
        """The finalists and what is known of them, for a terminal."""
        return found_text(self._found, self.plan)

    def resume(self, trials: int | None = None, *, quiet: bool = False, stop: Callable[[], bool] | None = None) -> "Tuning":
        """Go on with a search that was interrupted, or add trials to one that was finished.

        Args:
            trials: in all; by default as many as were asked for.
            quiet: no progress bar.
            stop: asked after every few steps; True stops.
        """
        return self._again(_longer(self.plan, trials), quiet=quiet, stop=stop)

    def report(self, path: Path | str | None = None) -> Path:
        """Write the page with the search, the finalists and what mattered; return its path.

        Args:
            path: of the HTML file; by default report.html in the search's folder, or in the current one.
        """
        from fallline import report

        place = Path(path) if path is not None else (self.folder or Path()) / REPORT_FILE
        report.write(report.tune_page(self.reader), place)
        return place

    def __repr__(self) -> str:
        return f"<Tuning {self.status}: {self.headline}>"


def tune(
    make_model: Any = "mlp:128",
    data: Any = None,
    trials: int | None = None,
    space: Mapping[str, Any] | None = None,
    *,
    epochs: int = 10,
    metric: str = "auto",
    loss: "str | Sequence[str] | Loss | Callable[..., Tensor]" = "auto",
    sampler: str = "tpe",
    pruner: str = "halving",
    batch: int = 32,
    best: int = 5,
    seeds: int | Sequence[int] = 5,
    seed: int = 0,
    column: str | None = None,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    quiet: bool = False,
    stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Tuning:
    """Search over optimizer, learning rate, batch size, schedule, decay, dropout, ...; the best are trained again with fresh seeds.

    Args:
        make_model: spec, list of specs to choose from, function, or module.
        data: a `Data`, or what `fl.data.load` takes.
        trials: how many; 100 unless given.
        space: factor -> a value; a list of choices; a pair (low, high); an Optuna distribution; or None: not searched. Factors: optimizer,
            lr, batch_size, schedule, weight_decay, dropout, model, loss, momentum, beta1, beta2, alpha, eps. The rest is as usual.
        epochs: of every trial that is not stopped early.
        metric: that is judged, on validation rows; "auto": accuracy, or R2.
        loss: name, list of names to choose from, `Loss`, or one of your own.
        sampler: "tpe", "random", or "grid" (every place; of a range three levels).
        pruner: "halving": the best third goes on after E/5 and E/2 epochs; "median"; "none".
        batch: trials asked for at once and trained together.
        best: trials that are trained again in the end.
        seeds: of these trainings: how many, or which.
        seed: of the search: the same seed asks the same trials.
        column: the target column, where `data` is a table.
        out: folder of the search; None keeps it in memory.
        resume: folder of a search to go on with; `trials` may be larger than it was. Model and data only where they were in memory.
        quiet: no progress bar.
        stop: asked after every few steps; True stops, as Ctrl-C does.
        **settings: the other fields of `fallline.training.Settings`; one that is a factor (weight_decay=0.01) is then not searched.

    Returns:
        The search.

    Raises:
        FalllineError: bad input, in one sentence; nothing is written then.

    >>> found = tune("linear", "iris", 4, {"optimizer": ["adam", "sgd"], "batch_size": [32]}, epochs=2, best=2, seeds=2, quiet=True)
    >>> len(found.trials), len(found.table) <= 2, sorted(found.best)[:2]
    (4, True, ['batch_size', 'loss'])
    """
    need_optuna()
    if resume is not None:
        own = loss if not isinstance(loss, (str, list, tuple)) else None
        return _resume(Path(resume), make_model, data, own, trials, quiet=quiet, stop=stop)
    must(data is not None, "tune has data", "none", "fallline.tune('mlp:128', 'digits') is an example")
    given = dict(space or {})
    for name in [name for name in settings if name in FACTORS]:
        must(name not in given, f"{name} is given once", f"in the space and as {name}={settings[name]!r}", "leave it out of one")
        given[name] = [settings.pop(name)]
    named = [loss] if isinstance(loss, str) else list(loss) if isinstance(loss, (list, tuple)) else []
    if named and "loss" not in given:
        given["loss"] = named
    models = _models(make_model, given)
    own_object = None if named else loss
    check_settings("tune", settings, {"lr": "space={'lr': (1e-4, 0.1)}", "optimizer": "space={'optimizer': ['adam']}"})
    wanted = Settings(loss=loss_name(own_object if own_object is not None else named[0]), epochs=epochs, lr=1.0, **settings)
    must(wanted.track is None, "no tracker in a search", repr(wanted.track), "leave track out")
    rows = load_data(data, column, 0)
    made = _fitting(make_space({**given, "model": list(models)}, loss=wanted.loss), given, len(rows.train))
    for each in made.choices("loss"):
        if own_object is None:
            check_names(each, [])
    own = None if own_object is None else own_loss(own_object, rows.task)
    known = ("loss", *metric_names(rows.task))
    must(metric in ("auto", *known), "the metric is known", repr(metric), f"there are {', '.join(known)}", where="tune")
    plan = SearchPlan(
        made,
        TRIALS if trials is None else trials,
        batch,
        sampler,
        pruner,
        seed,
        known[1] if metric == "auto" else metric,
        best,
        tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        wanted,
    )
    check_rows(rows, plan)
    parts: dict[str, Any] = {}
    for name, model in models.items():
        for each in made.choices("loss"):
            chosen = with_width(dataclasses.replace(wanted, loss=each), model, rows, own)
            goal = aim(rows, chosen, own)
            maker = model_maker(model, rows, goal, chosen)
            maker.make()  # says what is wrong with a model before anything is written
            parts = parts or describe(maker, maker.copy(), rows, chosen, goal, goal.choices, loss_given=own is not None)
            if name == next(iter(models)) and each == made.choices("loss")[0]:
                plan = dataclasses.replace(plan, settings=dataclasses.replace(chosen, loss=wanted.loss))
    folder = None
    if out is not None:
        if holds_run(out):
            raise FalllineError(f"'{out}' already holds a run; resume it (--resume {out}), or choose another folder with --out.")
        folder = make_folder(out)
    writer = Writer(folder, kind="search")
    parts["model"] = {**parts["model"], "specs": list(models)}
    writer.describe(**parts | {"config": plan.to_json(), "python": python_call(models, rows.source, plan)})
    return _run(models, rows, writer, own, plan, quiet=quiet, stop=stop)


def _models(given: Any, space: dict[str, Any]) -> dict[str, ModelLike]:
    """The models by the names that the space knows."""
    several = space.get("model", given)
    listed = list(several) if isinstance(several, (list, tuple)) else [several]
    must(len(listed) > 0, "there is at least one model", "none", "mlp:128 is an example", where="tune")
    return {spoken(model): model for model in listed}


def _fitting(space: Space, given: Mapping[str, Any], rows: int) -> Space:
    """The space without what cannot be: usual batch sizes larger than the training rows; dropout of models that fallline does not build."""
    values = dict(space.values)
    if "batch_size" not in given:
        small = tuple(b for b in space.choices("batch_size") if isinstance(b, int) and b <= rows)
        values["batch_size"] = small or ("full",)
    if "dropout" not in given and not any(spec.partition(":")[0] in ("mlp", "cnn") for spec in space.models):
        values.pop("dropout", None)
    return Space(values)


def _longer(plan: SearchPlan, trials: int | None) -> SearchPlan:
    """The plan with more trials; fewer than there were change nothing."""
    if trials is None or trials <= plan.trials:
        return plan
    must(plan.sampler != "grid", "a grid is searched whole", f"{trials} trials", "start another search", where="tune")
    return dataclasses.replace(plan, trials=trials)


def _run(
    models: Mapping[str, ModelLike],
    data: "Data",
    writer: Writer,
    loss: Loss | None,
    plan: SearchPlan,
    *,
    quiet: bool,
    stop: Callable[[], bool] | None,
) -> Tuning:
    with held(writer.folder):
        return _run_held(models, data, writer, loss, plan, quiet=quiet, stop=stop)


def _run_held(
    models: Mapping[str, ModelLike],
    data: "Data",
    writer: Writer,
    loss: Loss | None,
    plan: SearchPlan,
    *,
    quiet: bool,
    stop: Callable[[], bool] | None,
) -> Tuning:
    """Run a search whose folder is held: no other process changes what is written here."""
    writer.describe(config=plan.to_json(), status="running")
    with sitting(writer, stop) as asked:
        found = run_search(models, data, plan, writer, loss=loss, stop=asked, quiet=quiet)
    made = Tuning(found, plan, models, writer, data, loss, partial(_run, models, data, writer, loss))
    writer.describe(status=found.status, result={**found.to_json(), "train": made.command, "space": describe_space(plan.space)})
    writer.flush()
    return made


def _resume(folder: Path, model: Any, data: Any, loss: Any, trials: int | None, *, quiet: bool, stop: Callable[[], bool] | None) -> Tuning:
    kind = read_info(folder)["kind"]
    must(kind == "search", "a search can be resumed", f"a {kind}", "resume it with its own command", where=f"'{folder}'")
    with held(folder):
        return _resume_held(folder, model, data, loss, trials, quiet=quiet, stop=stop)


def _resume_held(
    folder: Path, model: Any, data: Any, loss: Any, trials: int | None, *, quiet: bool, stop: Callable[[], bool] | None
) -> Tuning:
    info = read_info(folder)
    plan = _longer(SearchPlan.from_json(info["config"]), trials)
    if info["model"].get("spec") is None:
        if isinstance(model, str):
            raise FalllineError(
                f"this search was given a model in memory ({info['model'].get('class')}); pass the same again: make_model=..."
            )
        models: dict[str, ModelLike] = _models(model, {})
    else:
        models = {name: name for name in plan.space.models}
    check_loss_given(info, "search", loss)
    rows = same_rows(info, "search", data, folder)
    writer = Writer(folder)
    return _run_held(models, rows, writer, None if loss is None else own_loss(loss, rows.task), plan, quiet=quiet, stop=stop)


def train_line(source: Mapping[str, Any], best: Mapping[str, Any], settings: Settings) -> str:
    """The command line that trains these settings on these rows; "" where the rows were in memory.

    >>> train_line({"source": "digits", "target": None}, {"model": "mlp:128", "optimizer": "adam", "lr": 0.003}, Settings(lr=1.0))
    'fallline train digits --model mlp:128 --optimizer adam --lr 0.003'
    """
    if not isinstance(source.get("source"), str):
        return ""
    words = ["fallline", "train", str(source["source"])]
    from_file = bool(Path(words[2]).suffix) or Path(words[2]).exists()
    for name in ("target", "task", "scale"):
        if source.get(name) not in (None, "zscore") and (from_file or name == "scale"):
            words += [f"--{name}", str(source[name])]
    usual = Settings()
    fields = {**dataclasses.replace(settings, **{k: v for k, v in best.items() if k != "model"}).to_json()}
    words += ["--model", str(best["model"]), "--optimizer", str(fields.pop("optimizer")), "--lr", f"{fields.pop('lr'):g}"]
    for name, value in fields.items():
        if value == getattr(usual, name) or name in ("seed", "keep", "min_change", "engine", "checkpoint_seconds", "track"):
            continue
        option = f"--{name.replace('_', '-')}"
        words += [option] if value is True else [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def python_call(models: Mapping[str, ModelLike], source: Mapping[str, Any], plan: SearchPlan) -> str:
    """The Python call that repeats the search; where model or data were in memory, their names stand for them."""
    load = (
        ", ".join([repr(source["source"]), *(f"{k}={v!r}" for k, v in source.items() if k != "source" and v is not None)]) if source else ""
    )
    usual = Settings()
    changed = {
        k: v
        for k, v in plan.settings.to_json().items()
        if v != getattr(usual, k) and k not in ("optimizer", "lr", "seed", "loss", "epochs")
    }
    options = {
        "trials": plan.trials,
        "epochs": plan.settings.epochs,
        "metric": plan.metric,
        "sampler": plan.sampler,
        "pruner": plan.pruner,
        "batch": plan.batch,
        "best": plan.best,
        "seeds": list(plan.seeds),
        "seed": plan.seed,
        **changed,
    }
    listed = [repr(name) if isinstance(model, str) else name for name, model in models.items()]
    made = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    words = ",\n    ".join([f"{key}={value!r}" for key, value in options.items()])
    data = f"data = fl.data.load({load})" if load else "data = ...  # the rows were given in memory"
    space = space_text(plan.space)
    imports = "import optuna\n\n" if "optuna.distributions" in space else ""
    return f"{imports}import fallline as fl\n\n{data}\nfound = fl.tune(\n    {made},\n    data,\n    {words},\n    space={space},\n)"


def describe_space(space: Space) -> dict[str, str]:
    """Every factor and where it is looked for, in words."""
    out = {}
    for factor, values in space.values.items():
        if isinstance(values, Range):
            ends = (1 - values.high, 1 - values.low) if factor in AVERAGES else (values.low, values.high)
            how = ", by the logarithm of one minus it" if factor in AVERAGES else ", by its logarithm" if values.log else ""
            out[factor] = f"{ends[0]:g} to {ends[1]:g}" + (f" in steps of {values.step:g}" if values.step else how)
        else:
            shown = [1 - v for v in values] if factor in AVERAGES else values
            out[factor] = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in shown)
    if "lr" not in out:
        out["lr"] = "the usual range of each optimizer, by its logarithm"
    return {k: out[k] for k in FACTORS if k in out}


def space_text(space: Space) -> str:
    """The space as `tune` takes it."""
    words = []
    for factor, values in space.values.items():
        if factor == "model":
            continue
        if isinstance(values, Range):
            pair = (values.low, values.high) if factor not in AVERAGES else tuple(float(f"{1 - v:.6g}") for v in (values.high, values.low))
            plain = values == make_space({factor: pair}, only=True).values[factor] if pair[0] > 0 or factor == "dropout" else False
            even = factor == "dropout" and values.step is not None
            listed = make_space({factor: values.levels(2)}, only=True).values[factor] == values if even else False
            kind = f"FloatDistribution({values.low!r}, {values.high!r}, log={values.log}, step={values.step!r})"
            said = repr(pair) if plain else repr(values.levels(2)) if listed else f"optuna.distributions.{kind}"
            words.append(f"{factor!r}: {said}")
        else:
            shown = [float(f"{1 - v:.6g}") for v in values] if factor in AVERAGES else list(values)
            words.append(f"{factor!r}: {shown!r}")
    missing = [f for f in FACTORS if f not in space.values and f != "lr"]
    return "{" + ", ".join([*words, *(f"{f!r}: None" for f in missing)]) + "}"
