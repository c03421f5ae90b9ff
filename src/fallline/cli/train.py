"""`fallline train`: from a table or pictures to a trained model, its metrics on rows it never saw, and a folder that holds both."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from fallline._core.errors import FalllineError
from fallline.cli import options as o
from fallline.cli.given import given, only
from fallline.cli.outcome import exit_code, finish
from fallline.cli.place import claimed, default_folder
from fallline.cli.terminal import Voice


def train(
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
    optimizer: o.OptimizerName = "adam",
    lr: o.LearningRate = "auto",
    batch_size: o.BatchSize = 32,
    epochs: o.Epochs = 10,
    schedule: o.Schedule = "constant",
    clip_norm: o.ClipNorm = None,
    weight_decay: o.WeightDecay = None,
    dropout: o.Dropout = 0.0,
    augment: o.Augment = None,
    l1: o.L1 = 0.0,
    l2: o.L2 = 0.0,
    patience: o.Patience = None,
    seed: o.Seed = 0,
    device: o.Device = "cpu",
    out: o.RunFolder = None,
    resume: o.Resume = None,
    track: o.Track = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Train a model on a table, pictures or a named set, and say how well it does on rows it never saw."""
    voice = Voice(quiet=quiet, as_json=json)
    if resume is not None:
        only(("--resume", "--epochs", "--json", "--quiet"), "a resumed run keeps its own settings, except for --epochs")
        return _resume(resume, data, epochs if given("--epochs") else None, voice)
    if data is None:
        raise FalllineError("there is nothing to train on; name a file, a folder or a set, as in `fallline train digits`.")
    settings: dict[str, Any] = {
        "loss": loss,
        "embedding": embedding,
        "class_weight": class_weight,
        "signed_labels": signed_labels,
        "optimizer": optimizer,
        "lr": lr,
        "batch_size": batch_size,
        "epochs": epochs,
        "schedule": schedule,
        "clip_norm": clip_norm,
        "weight_decay": weight_decay,
        "dropout": dropout,
        "augment": augment,
        "l1": l1,
        "l2": l2,
        "patience": patience,
        "seed": seed,
        "device": device,
        "track": track,
    }
    with claimed(Path(out) if out else default_folder(data)) as folder:
        from fallline.api.fit import fit
        from fallline.api.names import check_names
        from fallline.data import load
        from fallline.optim import split_rate

        check_names(loss, [optimizer])
        loaded = load(data, target, seed=seed, task=task, scale=scale)
        voice.head(f"{loaded.name}: {loaded.task}, {len(loaded.train)} training rows")
        for note in loaded.notes:
            voice.say(f"  {note}")
        voice.say(f"  model {model}, optimizer {optimizer}, batch size {batch_size}, epochs {epochs}, seed {seed}, device {device}")
        rest = ("schedule", "dropout", "clip_norm", "weight_decay", "l1", "l2", "patience", "class_weight", "augment")
        own = {"class_weight": "of the loss"} if "class_weight=" in loss.replace(" ", "") else {}
        shown = {**settings, **own}
        said = (f"{name.replace('_', ' ')} {'none' if shown[name] is None else shown[name]}" for name in rest)
        voice.say(f"  scale {scale}, {', '.join(said)}")
        if lr == "auto" and split_rate(optimizer)[1] is None:
            voice.say("  looking for a learning rate (name one with --lr to skip the search)")
        run = fit(
            model,
            loaded,
            out=folder,
            quiet=voice.quiet,
            say=lambda line: voice.say(f"  {line}"),
            each_epoch=voice.epochs(epochs),
            **settings,
        )
        finish(run, voice)
        return exit_code(run)


def _resume(folder: str, data: str | None, epochs: int | None, voice: Voice) -> int:
    from fallline.api.fit import resume
    from fallline.record import read_info

    total = epochs or int(read_info(folder)["config"].get("epochs", 1))
    run = resume(folder, data=data, epochs=epochs, quiet=voice.quiet, each_epoch=voice.epochs(total))
    finish(run, voice)
    return exit_code(run)
