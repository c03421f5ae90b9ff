"""`fallline lr`: the range of useful learning rates, found in seconds before any training."""

from typing import Annotated

from cyclopts import Parameter

from fallline.cli import options as o
from fallline.cli.terminal import Voice, number


def lr(
    data: Annotated[str, Parameter(help="CSV, Parquet or npz file, folder of pictures by class, or a named set")],
    /,
    *,
    target: o.Target = None,
    task: o.Task = None,
    scale: o.Scale = "zscore",
    model: o.Model = "mlp:128",
    loss: o.Loss = "auto",
    optimizer: o.OptimizerName = "adam",
    batch_size: o.BatchSize = 32,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Find the range of useful learning rates: the rate grows step by step, and the loss tells where it helps and where it breaks."""
    from fallline.api.lr import find_lr
    from fallline.data import load

    voice = Voice(quiet=quiet, as_json=json)
    loaded = load(data, target, seed=seed, task=task, scale=scale)
    for note in loaded.notes:
        voice.say(f"  {note}")
    found = find_lr(model, loaded, loss, optimizer, batch_size=batch_size, seed=seed)
    low, high = found.useful
    voice.say(f"useful learning rates for {optimizer}: {number(low)} to {number(high)}; {number(found.suggested)} is suggested")
    if found.edge:
        voice.say(f"  {found.edge}")
    voice.json(
        {
            "optimizer": optimizer,
            "suggested": found.suggested,
            "useful": [low, high],
            "edge": found.edge,
            "confidence": found.confidence,
            "lrs": found.lrs,
            "losses": found.losses,
        }
    )
    return 0
