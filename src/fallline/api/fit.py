"""`fit`: from data to a trained model, its metrics and its record, in one call."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from fallline import optim
from fallline._core.errors import FalllineError, must
from fallline._core.files import make_folder, write_json
from fallline.api.evidence import evidence
from fallline.api.folder import describe, pipeline_file, read_pipeline
from fallline.api.model import Maker, model_maker, with_width
from fallline.api.names import check_names, check_settings, loss_name
from fallline.api.run import Run, residual_quantiles
from fallline.losses import Custom, Loss, own_loss
from fallline.record import MODEL_FILE, PIPELINE_FILE, RECORD_FILE, Reader, Writer, holds_run, read_info
from fallline.training import Goal, Outcome, Settings, aim, train
from fallline.training.checkpoint import load_tensors
from fallline.training.checks import batch_rows, check, device_of
from fallline.training.evaluate import mean_loss, outputs
from fallline.training.goal import warn_of_rare_pairs
from fallline.training.loop import MODEL_FORMAT
from fallline.training.session import NotResumed
from fallline.training.threads import fitting_threads

if TYPE_CHECKING:
    from fallline.data import Data

_USUAL_BATCH = 32
_TRIED_ROWS = 1 << 12


def fit(
    model: "str | nn.Module | Callable[..., nn.Module]" = "mlp:128",
    data: Any = None,
    *,
    target: str | None = None,
    loss: "str | Loss | Callable[..., Tensor]" = "auto",
    optimizer: str = "adam",
    lr: float | Literal["auto"] = "auto",
    batch_size: int | Literal["full"] = _USUAL_BATCH,
    epochs: int = 10,
    seed: int = 0,
    out: Path | str | None = None,
    quiet: bool = False,
    stop: Callable[[], bool] | None = None,
    say: Callable[[str], None] | None = None,
    each_epoch: Callable[[int, dict[str, float]], None] | None = None,
    **settings: Any,
) -> Run:
    """Train a model on data; everything that is not given is chosen, and `Run.choices` says what and why.

    Args:
        model: "linear", "mlp:256,128", "cnn", "file.py:make_model"; a module, which is trained in place; or a function that makes one
            (called with `input_shape` and `outputs` as far as it takes them).
        data: a `Data`, or what `fallline.data.load` takes: a named set, a file, a DataFrame, (X, y).
        target: the column to predict, where `data` is a table.
        loss: name and options; "auto"; a `Loss`; or one of your own, any function or module of (input, target) (see `fl.losses.Custom`).
        optimizer: name and options.
        lr: a number, or "auto": found by a range test before training.
        batch_size: rows in a batch, or "full".
        epochs: passes over the training rows.
        seed: start of every stream of random numbers; the same seed gives the same weights, bit for bit.
        out: folder for the run; None keeps it in memory.
        quiet: no progress bar.
        stop: asked after every step; True saves and ends with status "interrupted", as Ctrl-C does.
        say: called with each line of `Run.choices` before training.
        each_epoch: called after each epoch with its number (1 is the first) and what it measured, as {"validation/loss": 0.3, ...}.
        **settings: the other fields of `fallline.training.Settings`.

    Returns:
        The run; one that diverged or was interrupted has that `status`.

    Raises:
        FalllineError: bad input, in one sentence; nothing is written then.

    >>> import torch
    >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    >>> run = fit("linear", (x.numpy(), (x[:, 0] * 2).numpy()), lr=0.1, epochs=20, quiet=True)
    >>> run.status, run.metrics["test"]["r2"] > 0.9
    ('finished', True)
    """
    must(data is not None, "fit has data", "none", "fallline.fit('mlp:128', 'digits') is an example")
    wanted = _settings(loss, {"optimizer": optimizer, "lr": lr, "batch_size": batch_size, "epochs": epochs, "seed": seed, **settings})
    check_names(loss, [optimizer])
    rows = load_data(data, target, seed)
    given = own_loss(loss, rows.task)
    plan = _prepare(model, rows, wanted, given, batch_given=batch_size != _USUAL_BATCH)
    folder = None
    must(out is not None or wanted.track is None, "track needs a run folder", "none", "pass out (--out FOLDER)")
    if out is not None:
        if holds_run(out):
            raise FalllineError(f"'{out}' already holds a run; resume it (--resume {out}), or choose another folder with --out.")
        for name in (MODEL_FILE, PIPELINE_FILE):
            if (Path(out) / name).exists():
                raise FalllineError(f"'{out}' already holds {name}, which the run would replace; choose another folder with --out.")
        folder = make_folder(out)
    writer = Writer(folder)
    writer.describe(**describe(plan.maker, plan.module, rows, plan.settings, plan.goal, plan.choices, loss_given=given is not None))
    if say is not None:
        for line in plan.choices:
            say(line)
    return _run(plan, rows, writer, folder, resume=False, quiet=quiet, stop=stop, each_epoch=each_epoch)


@dataclasses.dataclass
class _Plan:
    maker: Maker
    module: nn.Module
    settings: Settings
    goal: Goal
    choices: list[str]


def load_data(data: Any, target: str | None, seed: int) -> "Data":
    """`data` as a `Data`, loaded where it is not one."""
    from fallline.data import Data, load

    return data if isinstance(data, Data) else load(data, target, seed=seed)


def _named(thing: object) -> str:
    """A class by its name, anything else by that of its class."""
    return thing.__name__ if isinstance(thing, type) else f"a {type(thing).__name__}"


def _settings(loss: Any, fields: dict[str, Any]) -> Settings:
    known = {field.name for field in dataclasses.fields(Settings)}
    optimizer = fields["optimizer"]
    must(
        isinstance(optimizer, str), "optimizer is a name with its options", _named(optimizer), "'adam' or 'sgd:momentum=0.9' is an example"
    )
    for name, value in fields.items():
        if name in ("task", "scale", "validation", "test"):
            raise FalllineError(f"{name} belongs to the data: fit(model, fallline.data.load(source, {name}=...)).")
        if name not in known:
            check_settings("fit", {name: value}, {})
    return Settings(loss=loss_name(loss), **fields)


def _prepare(model: Any, data: "Data", settings: Settings, loss: Loss | None, *, batch_given: bool = True) -> _Plan:
    """Check everything that can be checked before anything is written, and choose what is left open."""
    choices: list[str] = []
    if not batch_given and len(data.train) < _USUAL_BATCH:
        settings = dataclasses.replace(settings, batch_size="full")
        choices.append(f"batch size: full (there are only {len(data.train)} training rows)")
    settings = with_width(settings, model, data, loss)
    goal = aim(data, settings, loss)
    warn_of_rare_pairs(goal, data, settings)
    choices += goal.choices
    if settings.augment:
        from fallline.data import Augment

        augment = Augment.parse(settings.augment)
        must(len(data.input_shape) == 3, "augment is for pictures", f"rows of shape {data.input_shape}", "leave it out")
        augment(data.train.x[:1], torch.Generator())
    maker = model_maker(model, data, goal, settings)
    module = maker.make()
    check(module, data, settings, goal.loss)
    some = data.validation if len(data.validation) else data.train
    raw = outputs(module, some.x[:_TRIED_ROWS]).cpu()
    mean_loss(raw, goal.targets(some.y[:_TRIED_ROWS]), goal)  # a loss may refuse what the model gives
    settings = dataclasses.replace(settings, loss=goal.spec)
    spec, own = optim.split_rate(settings.optimizer)
    if own is not None:
        twice = f"{own:g} in the optimizer and {settings.lr} beside it"
        must(settings.lr == "auto", "the learning rate is given once", twice, "drop one")
        settings = dataclasses.replace(settings, optimizer=spec, lr=own)
        choices.append(f"learning rate: {own:g} (named with the optimizer)")
    if settings.lr == "auto":
        lr, why = _find_lr(maker, data, settings, loss)
        settings = dataclasses.replace(settings, lr=lr)
        choices.append(f"learning rate: {lr:.3g} ({why})")
    return _Plan(maker, module, settings, goal, choices)


def _find_lr(maker: Maker, data: "Data", settings: Settings, loss: Loss | None) -> tuple[float, str]:
    from fallline.study import find_lr

    found = find_lr(maker.copy, data, settings, loss=loss)
    return float(found.suggested), "found by a range test"


def _run(
    plan: _Plan,
    data: "Data",
    writer: Writer,
    folder: Path | None,
    *,
    resume: bool,
    quiet: bool,
    stop: Callable[[], bool] | None,
    each_epoch: Callable[[int, dict[str, float]], None] | None,
    **before: Any,
) -> Run:
    """Train and close the run; `before` is what run.json said, put back where a resume finds a checkpoint that it cannot use."""
    with interruptible(stop) as asked, fitting_threads(plan.module, batch_rows(plan.settings, len(data.train))):
        try:
            outcome = train(
                plan.module,
                data,
                plan.settings,
                writer=writer,
                folder=folder,
                resume=resume,
                progress=not quiet,
                stop=asked,
                goal=plan.goal,
                each_epoch=each_epoch,
            )
        except NotResumed:
            with contextlib.suppress(FalllineError):
                writer.describe(**before)
            writer.close()
            raise
        except BaseException as error:
            with contextlib.suppress(FalllineError):
                writer.describe(status="failed", result={"message": str(error) or type(error).__name__})
            writer.close()
            raise
    return _finish(plan, data, writer, folder, outcome)


def _finish(plan: _Plan, data: "Data", writer: Writer, folder: Path | None, outcome: Outcome) -> Run:
    residuals = residual_quantiles(plan.module, data, plan.goal) if outcome.status == "finished" else None
    if folder is not None:
        write_json(folder / PIPELINE_FILE, pipeline_file(data, plan.goal, residuals))
    writer.describe(status=outcome.status, result=outcome.to_json() | evidence(plan.module, data, plan.goal, outcome.metrics))
    reader = Reader(writer)
    if folder is not None:
        writer.close()
        reader = Reader(folder)
    return Run(
        plan.module,
        data,
        plan.settings,
        outcome.status,
        outcome.metrics,
        reader,
        plan.goal,
        folder,
        plan.choices,
        outcome.message,
        [],
        residuals,
        data.pipeline,
        data.target,
    )


def resume(
    folder: Path | str,
    model: Any = None,
    data: Any = None,
    *,
    loss: "Loss | Callable[..., Tensor] | None" = None,
    epochs: int | None = None,
    quiet: bool = False,
    stop: Callable[[], bool] | None = None,
    each_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Run:
    """Go on with a run that was interrupted or killed; it ends bit for bit as if it had never stopped.

    Args:
        folder: the run folder.
        model: needed where the run was given a module or a function; the same again.
        data: needed where the run was given rows in memory; the same again.
        loss: needed where the run was given a loss object.
        epochs: train to this many epochs in place of the run's own number.
        quiet: no progress bar.
        stop: as in `fit`.
        each_epoch: as in `fit`.

    Raises:
        FalllineError: no run there, a damaged checkpoint, other data or another model; a model or data that must be given again.
    """
    place = Path(folder)
    info = read_info(place)
    must(info["kind"] == "run", "a run can be resumed", f"a {info['kind']}", "resume a study with fallline compare", where=f"'{place}'")
    settings = Settings.from_json(info["config"])
    if epochs is not None:
        settings = dataclasses.replace(settings, epochs=epochs)
    elif info["status"] == "finished":
        return load_run(place, model, loss=loss)
    if not (place / RECORD_FILE).is_file():
        raise FalllineError(f"there is no record '{place / RECORD_FILE}'; the run folder is not whole.")
    rows = _same_data(info, data)
    plan = _prepare(_same_model(info, model), rows, settings, _same_loss(info, loss))
    plan.choices[:] = info.get("choices", [])
    writer = Writer(place)
    writer.describe(status="running", config=plan.settings.to_json())
    before = {"status": info["status"], "config": info["config"]}
    return _run(plan, rows, writer, place, resume=True, quiet=quiet, stop=stop, each_epoch=each_epoch, **before)


def load_run(folder: Path | str, model: Any = None, *, loss: "Loss | Callable[..., Tensor] | None" = None) -> Run:
    """A run from its folder: model, preprocessing and record, for `predict` and `report`.

    Args:
        folder: the run folder.
        model: needed where the run was given a module or a function; the same architecture again.
        loss: needed where the run was given a `Loss`; with a loss of one's own only to evaluate by it, as `predict` needs none.

    Raises:
        FalllineError: no run there, it has no model yet, or a file is damaged; the sentence names it.
    """
    place = Path(folder)
    info = read_info(place)
    must(info["kind"] == "run", "the folder holds one run", f"a {info['kind']}", where=f"'{place}'")
    if not (place / PIPELINE_FILE).is_file() or not (place / MODEL_FILE).is_file():
        raise FalllineError(f"the run '{place}' has no model yet (status {info['status']}); go on with it first: --resume {place}.")
    settings = Settings.from_json(info["config"])
    goal, pipeline, residuals, shape = read_pipeline(place / PIPELINE_FILE, _same_loss(info, loss, to_predict=True))
    module = model_maker(_same_model(info, model), None, goal, settings, input_shape=shape).make()
    tensors, _ = load_tensors(place / MODEL_FILE, format=MODEL_FORMAT, what="model")
    try:
        goal.load(module, tensors)
    except RuntimeError as error:
        raise FalllineError(
            f"the model does not fit the weights in '{place / MODEL_FILE}': {str(error).splitlines()[-1].strip()}."
        ) from error
    result = info.get("result") or {}
    return Run(
        module.to(device_of(settings.device)),
        None,
        settings,
        info["status"],
        result.get("metrics", {}),
        Reader(place),
        goal,
        place,
        info.get("choices", []),
        result.get("message", ""),
        [],
        residuals,
        pipeline,
        info["data"]["target"],
    )


def _same_model(info: dict[str, Any], model: Any) -> Any:
    spec = info["model"].get("spec")
    if model is None and spec is None:
        raise FalllineError(
            f"this run was given a model in memory ({info['model'].get('class')}); pass the same again: resume(folder, model=...)."
        )
    return spec if model is None else model


def _same_data(info: dict[str, Any], data: Any) -> "Data":
    from fallline.data import load

    source = info["data"].get("source") or {}
    if data is None:
        if not source:
            raise FalllineError("this run was given data in memory; pass the same again: resume(folder, data=...).")
        return load(**source)
    return load_data(data, info["data"].get("target"), info["config"]["seed"])


def _same_loss(info: dict[str, Any], loss: Any, *, to_predict: bool = False) -> Loss | None:
    if loss is None and to_predict and info["loss"].get("own"):
        return Custom.absent(info["loss"]["name"], info["data"]["task"])
    if loss is None and info["loss"].get("in_memory"):
        raise FalllineError(f"this run was given a loss object ({info['loss']['name']}); pass the same again: resume(folder, loss=...).")
    return None if loss is None else own_loss(loss, info["data"]["task"])


@contextlib.contextmanager
def interruptible(stop: Callable[[], bool] | None) -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks the run to stop after its step; a second one ends it at once. In the main thread only; put back after."""
    asked = False
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield stop or (lambda: False)
        return

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        del number, frame
        asked = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield (lambda: asked or stop()) if stop is not None else (lambda: asked)
    finally:
        signal.signal(signal.SIGINT, before)
