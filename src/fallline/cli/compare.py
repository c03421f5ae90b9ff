"""`fallline compare`: optimizers, learning rates and batch sizes against one another, over seeds, on rows none of them saw."""

import math
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from fallline._core.errors import FalllineError, refuse
from fallline._core.number import Number
from fallline.cli import options as o
from fallline.cli.failure import tell
from fallline.cli.given import only
from fallline.cli.lists import batches, names, positive
from fallline.cli.lists import seeds as number_of_seeds
from fallline.cli.live import LiveTable
from fallline.cli.place import claimed, default_folder, has_record
from fallline.cli.terminal import Voice

_ALL = "sgd,momentum,nesterov,adagrad,adadelta,rmsprop,adam,nadam,adamax"


def compare(
    data: Annotated[str | None, Parameter(help="CSV, Parquet or npz file, folder of pictures by class, or a named set")] = None,
    /,
    *,
    target: o.Target = None,
    task: o.Task = None,
    scale: o.Scale = "zscore",
    model: o.Model = "mlp:128",
    loss: o.Loss = "auto",
    embedding: o.Embedding = None,
    class_weight: o.ClassWeight = None,
    signed_labels: o.SignedLabels = False,
    optimizers: Annotated[str, o.text("names with commas between", o.DESCENT)] = _ALL,
    lrs: Annotated[str, o.text("auto finds one for each optimizer; or a list, as 0.1,0.01", o.DESCENT)] = "auto",
    batch_sizes: Annotated[str, o.text("a list, as 32,128,full", o.DESCENT)] = "32",
    losses: Annotated[str | None, o.text("a list in the place of --loss, as mse,huber", o.DESCENT)] = None,
    epochs: o.Epochs = 10,
    schedule: o.Schedule = "constant",
    schedules: Annotated[str | None, o.text("a list in the place of --schedule, as constant,cosine", o.DESCENT)] = None,
    clip_norm: o.ClipNorm = None,
    weight_decay: o.WeightDecay = None,
    dropout: o.Dropout = 0.0,
    augment: o.Augment = None,
    l1: o.L1 = 0.0,
    l2: o.L2 = 0.0,
    patience: o.Patience = None,
    seeds: Annotated[str, o.text("how many seeds, or a list, as 0,1,2", o.RUN)] = "5",
    metric: Annotated[str, o.text("that ranks, on the validation rows; auto takes accuracy or r2", o.RUN)] = "auto",
    goal: Annotated[str, o.text("metric to count steps to; auto: what every run of three in four cells reaches", o.RUN)] = "auto",
    budget: Annotated[str | None, o.text("time it may take, as 10m: epochs are cut for all alike until it fits", o.RUN)] = None,
    device: o.Device = "cpu",
    cluster: Annotated[str | None, o.text("ray trains on a Ray cluster; or its address", o.RUN)] = None,
    out: o.RunFolder = None,
    resume: o.Resume = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Compare optimizers over seeds: a ranking with intervals, time, steps to a goal, diverged runs, and a page with the curves."""
    voice = Voice(quiet=quiet, as_json=json)
    if resume is None and data is None:
        raise FalllineError("there is nothing to compare on; name a file, a folder or a set, as in `fallline compare digits`.")
    if resume is not None:
        only(("--resume", "--cluster", "--json", "--quiet"), "a resumed comparison keeps its own settings")
    settings: dict[str, Any] = {
        "optimizers": names("optimizers", optimizers),
        "lrs": "auto" if lrs == "auto" else [positive("lrs", item) for item in names("lrs", lrs)],
        "batch_sizes": batches(batch_sizes),
        "seeds": number_of_seeds(seeds),
        "epochs": epochs,
        **({"schedule": schedule} if schedules is None else {"schedules": names("schedules", schedules)}),
        "target": goal if goal == "auto" else _finite("goal", goal),
        "metric": metric,
        "loss": loss,
        "losses": None if losses is None else names("losses", losses),
        "budget": budget,
        "cluster": cluster,
        "embedding": embedding,
        "class_weight": class_weight,
        "signed_labels": signed_labels,
        "clip_norm": clip_norm,
        "weight_decay": weight_decay,
        "dropout": dropout,
        "augment": augment,
        "l1": l1,
        "l2": l2,
        "patience": patience,
        "device": device,
    }
    from fallline.api.compare import compare as compare_settings
    from fallline.api.names import check_names
    from fallline.data import load
    from fallline.study.verdict import warning_of_few

    if resume is not None:
        with LiveTable(quiet=voice.quiet) as live:
            study = compare_settings(resume=resume, data=data, cluster=cluster, quiet=voice.quiet or live.shown, show=live.follow)
        return _finish(study, voice)
    with claimed(Path(out) if out else default_folder(str(data)), has_record) as folder:
        check_names(loss, settings["optimizers"])
        loaded = load(data, target, seed=0, task=task, scale=scale)
        voice.study(loaded, folder, "compare")
        few = warning_of_few(*_sizes(settings))
        if few:
            voice.say(f"note: {few}")
        with LiveTable(quiet=voice.quiet) as live:
            quiet = voice.quiet or live.shown  # the table stands in the place of the bar
            study = compare_settings(model, loaded, out=folder, quiet=quiet, show=live.follow, **settings)
        return _finish(study, voice)


def _sizes(settings: dict[str, Any]) -> tuple[int, int]:
    """How many seeds, and how many cells, are asked for."""
    factors = (settings["optimizers"], settings["batch_sizes"], settings["losses"] or [""], settings.get("schedules") or [""])
    seeds = settings["seeds"]
    return (seeds if isinstance(seeds, int) else len(set(seeds))), math.prod(len(set(factor)) for factor in factors)


def _finite(option: str, text: str) -> float:
    try:
        return Number(option).check(float(text))
    except ValueError:
        refuse(f"{option} is a number or auto", repr(text))


def _finish(study: Any, voice: Voice) -> int:
    """The ranking in words, where the page is, and how to go on; 1 where nothing could be ranked, 130 where it was interrupted."""
    voice.say(study.text())
    page = study.report() if study.table else None
    voice.say()
    if study.status == "out of time":
        tell(f"the budget was spent before the end: what is whole is ranked, go on with `fallline compare --resume {study.folder}`.")
    if study.status == "interrupted":
        tell(f"interrupted: what is whole is saved, go on with `fallline compare --resume {study.folder}`.")
    voice.say(f"folder: {study.folder}")
    if page is not None:
        voice.say(f"report: {page}")
    voice.json(
        {
            "status": study.status,
            "headline": study.headline,
            "shown": study.shown,
            "basis": study.basis,
            "folder": str(study.folder),
            "report": None if page is None else str(page),
            "target": study.target,
            "table": study.table,
        }
    )
    ranked = any(row["rank"] is not None and row["mean"] is not None for row in study.table)
    return 130 if study.status == "interrupted" else 0 if ranked else 1
