"""`fallline table`: batch size against epochs over seeds, with intervals, beside the published cells where there are some."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from fallline._core.errors import FalllineError
from fallline._core.number import Number
from fallline.cli import lists
from fallline.cli import options as o
from fallline.cli.failure import tell
from fallline.cli.given import only
from fallline.cli.place import claimed, default_folder, has_record
from fallline.cli.terminal import Voice

_LR = Number("lr", 0, open_low=True, usual="0.001", doc="learning rate, the same in every cell")


def table(
    data: Annotated[str | None, Parameter(help="CSV, Parquet or npz file, folder of pictures by class, or a named set")] = None,
    /,
    *,
    target: o.Target = None,
    task: o.Task = None,
    scale: o.Scale = "minmax",
    model: o.Model = "mlp:256",
    loss: o.Loss = "auto",
    embedding: o.Embedding = None,
    class_weight: o.ClassWeight = None,
    signed_labels: o.SignedLabels = False,
    optimizer: o.OptimizerName = "rmsprop:like=keras",
    lr: Annotated[float, o.ranged(_LR, o.DESCENT)] = 0.001,
    batch_sizes: Annotated[str, o.text("rows of the table: a list, as 32,128,full", o.DESCENT)] = "32,64,128,full",
    epochs: Annotated[str, o.text("columns of the table: a list, as 5,10,15", o.DESCENT)] = "5,10,15",
    schedule: o.Schedule = "constant",
    clip_norm: o.ClipNorm = None,
    weight_decay: o.WeightDecay = None,
    dropout: o.Dropout = 0.0,
    augment: o.Augment = None,
    l1: o.L1 = 0.0,
    l2: o.L2 = 0.0,
    seeds: Annotated[str, o.text("how many seeds, or a list, as 0,1,2", o.RUN)] = "5",
    metric: Annotated[str, o.text("in the cells, on the test rows; auto takes accuracy or r2", o.RUN)] = "auto",
    device: o.Device = "cpu",
    cluster: Annotated[str | None, o.text("ray trains on a Ray cluster; or its address", o.RUN)] = None,
    out: o.RunFolder = None,
    resume: o.Resume = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Fill a table of batch size against epochs over several seeds: means with intervals, and which differences are real."""
    voice = Voice(quiet=quiet, as_json=json)
    if resume is None and data is None:
        raise FalllineError("there is nothing to make a table of; name a file, a folder or a set, as in `fallline table fashion_mnist`.")
    if resume is not None:
        only(("--resume", "--cluster", "--json", "--quiet"), "a resumed table keeps its own settings")
    settings: dict[str, Any] = {
        "optimizer": optimizer,
        "lr": lr,
        "batch_sizes": lists.batches(batch_sizes),
        "epochs": [lists.whole("epochs", item, 1) for item in lists.names("epochs", epochs)],
        "seeds": lists.seeds(seeds),
        "metric": metric,
        "loss": loss,
        "embedding": embedding,
        "class_weight": class_weight,
        "signed_labels": signed_labels,
        "schedule": schedule,
        "clip_norm": clip_norm,
        "weight_decay": weight_decay,
        "dropout": dropout,
        "augment": augment,
        "l1": l1,
        "l2": l2,
        "device": device,
    }
    from fallline.api.names import check_names
    from fallline.api.table import table as make_table
    from fallline.data import load

    if resume is not None:
        return _finish(make_table(data, resume=resume, cluster=cluster, quiet=voice.quiet), voice)
    with claimed(Path(out) if out else default_folder(str(data)), has_record) as folder:
        check_names(loss, [optimizer])
        loaded = load(data, target, seed=0, task=task, scale=scale, validation=0.0)
        voice.study(loaded, folder, "table")
        return _finish(make_table(loaded, model, out=folder, cluster=cluster, quiet=voice.quiet, **settings), voice)


def _finish(made: Any, voice: Voice) -> int:
    """The table in words, where the page is, and how to go on; 1 where no cell has a value, 130 where it was interrupted."""
    voice.say(made.text())
    whole = any(cell["mean"] is not None for cell in made.cells)
    page = made.report() if made.members else None
    voice.say()
    if made.status == "interrupted":
        tell(f"interrupted: what is whole is saved, go on with `fallline table --resume {made.folder}`.")
    voice.say(f"folder: {made.folder}")
    if page is not None:
        voice.say(f"report: {page}")
    voice.json(
        {
            "status": made.status,
            "headline": made.headline,
            "folder": str(made.folder),
            "report": None if page is None else str(page),
            "cells": made.cells,
            "differences": made.differences,
            "notes": made.notes,
            "seconds": made.seconds,
        }
    )
    return 130 if made.status == "interrupted" else 0 if whole else 1
