"""`fallline lr`: the range of useful learning rates, found in seconds before any training."""

import dataclasses
from typing import Annotated

from cyclopts import Parameter

from fallline.cli import options as o
from fallline.cli.terminal import Voice


def lr(
    data: Annotated[str, Parameter(help="CSV, Parquet or npz file, folder of pictures by class, or a named set")],
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
    batch_size: o.BatchSize = 32,
    epochs: o.Epochs = 10,
    dropout: o.Dropout = 0.0,
    clip_norm: o.ClipNorm = None,
    weight_decay: o.WeightDecay = None,
    seed: o.Seed = 0,
    device: o.Device = "cpu",
    plot: Annotated[str | None, o.text("draw the range test into this file (html, png, svg, pdf)", o.RUN, metavar="FILE")] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Find the useful learning rates: the rate grows step by step, then fixed rates train; the loss tells what helps and what breaks."""
    from fallline.api.lr import find_lr
    from fallline.api.names import check_names
    from fallline.data import load

    voice = Voice(quiet=quiet, as_json=json)
    check_names(loss, [optimizer])
    loaded = load(data, target, seed=seed, task=task, scale=scale)
    for note in loaded.notes:
        voice.say(f"  {note}")
    found = find_lr(
        model,
        loaded,
        loss,
        optimizer,
        batch_size=batch_size,
        epochs=epochs,
        embedding=embedding,
        class_weight=class_weight,
        signed_labels=signed_labels,
        dropout=dropout,
        clip_norm=clip_norm,
        weight_decay=weight_decay,
        seed=seed,
        device=device,
        plot=plot,
    )
    if found.found:
        voice.head(f"{optimizer}: {found.suggested:.3g}")
        voice.say(f"  useful  {found.useful[0]:.3g} to {found.useful[1]:.3g}")
        voice.say(f"  edge    {found.edge:.3g}" if found.edge is not None else "  edge    not reached: the loss never rose")
    voice.say(f"{optimizer}: {found.text()}")
    if plot is not None:
        voice.say(f"picture: {plot}")
    voice.json({"optimizer": optimizer, "plot": plot, **dataclasses.asdict(found)})
    return 0 if found.found else 1
