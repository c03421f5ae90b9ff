"""`fallline tune`: a search over all settings by Optuna, trained as populations, its best trained again before anything is claimed."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from fallline._core.errors import FalllineError, refuse
from fallline._core.number import Number
from fallline.cli import lists
from fallline.cli import options as o
from fallline.cli.failure import tell
from fallline.cli.given import given, only
from fallline.cli.place import claimed, default_folder, has_record
from fallline.cli.terminal import Voice

_SEARCH = Group("Search", sort_key=3)
_OWN = ("momentum", "beta1", "beta2", "alpha", "eps")


def tune(
    data: Annotated[str | None, Parameter(help="CSV, Parquet or npz file, folder of pictures by class, or a named set")] = None,
    /,
    *,
    target: o.Target = None,
    task: o.Task = None,
    scale: o.Scale = "zscore",
    models: Annotated[str, o.text("a list to choose from, as mlp:64,mlp:256,128,cnn: the 128 belongs to mlp:256", o.MODEL)] = "mlp:128",
    losses: Annotated[str, o.text("a list to choose from, as mse,huber; auto takes the one of the task", o.MODEL)] = "auto",
    embedding: o.Embedding = None,
    class_weight: o.ClassWeight = None,
    signed_labels: o.SignedLabels = False,
    trials: Annotated[int, o.ranged(Number("trials", 1, usual="100", doc="how many are run in all"), _SEARCH, whole=True)] = 100,
    epochs: o.Epochs = 10,
    optimizers: Annotated[str | None, o.text("a list; adam,adamw,rmsprop,momentum,nesterov,nadam,sgd unless given", _SEARCH)] = None,
    lrs: Annotated[str, o.text("a range, as 1e-4..1e-1, or a list; auto: the usual range of each optimizer", _SEARCH)] = "auto",
    batch_sizes: Annotated[str | None, o.text("a list, as 32,128,full; 32,128 unless given", _SEARCH)] = None,
    schedules: Annotated[str | None, o.text("a list; constant,cosine,warmup+cosine unless given", _SEARCH)] = None,
    weight_decay: Annotated[str, o.text("a range, a list, or none", _SEARCH)] = "1e-6..1e-2",
    dropout: Annotated[str | None, o.text("a range, as 0..0.5, a list, or none; 0,0.2,0.4 unless given", _SEARCH)] = None,
    own: Annotated[str, o.text("options of the optimizers that are searched too: of momentum,beta1,beta2,alpha,eps; or none", _SEARCH)] = (
        "momentum,beta1,beta2,alpha,eps"
    ),
    sampler: Annotated[str, o.text("tpe, random or grid", _SEARCH)] = "tpe",
    pruner: Annotated[str, o.text("halving (the best third goes on after E/5 and E/2 epochs), median or none", _SEARCH)] = "halving",
    batch: Annotated[int, o.ranged(Number("batch", 1, usual="32", doc="trials asked for at once"), _SEARCH, whole=True)] = 32,
    best: Annotated[int, o.ranged(Number("best", 1, usual="5", doc="trials trained again in the end"), _SEARCH, whole=True)] = 5,
    clip_norm: o.ClipNorm = None,
    augment: o.Augment = None,
    l1: o.L1 = 0.0,
    l2: o.L2 = 0.0,
    patience: o.Patience = None,
    seeds: Annotated[str, o.text("of the best: how many fresh seeds, or a list, as 0,1,2", o.RUN)] = "5",
    seed: o.Seed = 0,
    metric: Annotated[str, o.text("that is judged, on the validation rows; auto takes accuracy or r2", o.RUN)] = "auto",
    device: o.Device = "cpu",
    out: o.RunFolder = None,
    resume: o.Resume = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Search over optimizer, learning rate, batch size and more; the best are trained again with fresh seeds, and only those are ranked."""
    voice = Voice(quiet=quiet, as_json=json)
    if resume is None and data is None:
        raise FalllineError("there is nothing to search on; name a file, a folder or a set, as in `fallline tune digits --trials 200`.")
    if resume is not None:
        only(("--resume", "--trials", "--json", "--quiet"), "a resumed search keeps its own settings, except for --trials")
    wanted = {
        "model": _models(models),
        "loss": lists.names("losses", losses),
        "optimizer": None if optimizers is None else lists.names("optimizers", optimizers),
        "lr": None if lrs == "auto" else span("lrs", lrs),
        "batch_size": None if batch_sizes is None else lists.batches(batch_sizes),
        "schedule": None if schedules is None else lists.names("schedules", schedules),
        "weight_decay": span("weight_decay", weight_decay),
        "dropout": None if dropout is None else span("dropout", dropout),
    }
    space: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    space |= {name: None for name in ("weight_decay", "dropout") if wanted[name] == ()}
    kept = () if own == "none" else tuple(_own(item) for item in lists.names("own", own))
    space |= {name: None for name in _OWN if name not in kept}
    settings: dict[str, Any] = {
        "epochs": epochs,
        "metric": metric,
        "sampler": sampler,
        "pruner": pruner,
        "batch": batch,
        "best": best,
        "seeds": lists.seeds(seeds),
        "seed": seed,
        "embedding": embedding,
        "class_weight": class_weight,
        "signed_labels": signed_labels,
        "clip_norm": clip_norm,
        "augment": augment,
        "l1": l1,
        "l2": l2,
        "patience": patience,
        "device": device,
    }
    from fallline.api.tune import tune as search
    from fallline.data import load

    if resume is not None:
        more = trials if given("--trials") else None
        return _finish(search(resume=resume, data=data, trials=more, quiet=voice.quiet), voice)
    with claimed(Path(out) if out else default_folder(str(data)), has_record) as folder:
        loaded = load(data, target, seed=0, task=task, scale=scale)
        voice.study(loaded, folder, "tune")
        return _finish(search(wanted["model"], loaded, trials, space, out=folder, quiet=voice.quiet, **settings), voice)


def span(option: str, text: str) -> Any:
    """`"1e-4..1e-1"` as a pair, `"0.1,0.01"` as a list, `"none"` as ().

    >>> span("lrs", "1e-4..0.1"), span("lrs", "0.1,0.01"), span("dropout", "none")
    ((0.0001, 0.1), [0.1, 0.01], ())
    """
    if text == "none":
        return ()
    low, dots, high = text.partition("..")
    if dots:
        return (_number(option, low), _number(option, high))
    return [_number(option, item) for item in lists.names(option, text)]


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        refuse(f"{option} is a range low..high, or numbers with commas between", repr(text), "1e-4..1e-1 is an example")


def _models(text: str) -> list[str]:
    """`"mlp:64,mlp:256,128"` as `["mlp:64", "mlp:256,128"]`: a number belongs to the name before it."""
    items: list[str] = []
    for item in lists.names("models", text):
        if item.isdigit() and items:
            items[-1] += f",{item}"
        else:
            items.append(item)
    return items


def _own(name: str) -> str:
    if name not in _OWN:
        refuse(f"each of own is one of {', '.join(_OWN)}", repr(name), "none searches none of them")
    return name


def _finish(made: Any, voice: Voice) -> int:
    """The best in words, how to train them, where the page is; 1 where nothing can be recommended, 130 where it was interrupted."""
    voice.say(made.text())
    page = made.report() if made.trials else None
    voice.say()
    if made.command:
        voice.say(f"train the first: {made.command}")
    if made.status == "interrupted":
        tell(f"interrupted: what is whole is saved, go on with `fallline tune --resume {made.folder}`.")
    voice.say(f"folder: {made.folder}")
    if page is not None:
        voice.say(f"report: {page}")
    voice.json(
        {
            "status": made.status,
            "headline": made.headline,
            "best": made.best,
            "command": made.command,
            "folder": str(made.folder),
            "report": None if page is None else str(page),
            "table": made.table,
            "counts": made.counts,
            "importances": made.importances,
            "notes": made.notes,
            "trials": made.trials,
        }
    )
    return 130 if made.status == "interrupted" else 0 if made.best is not None else 1
