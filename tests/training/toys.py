"""Small data that a small model can learn, made in a moment."""

import torch

from fallline.data import Data, Split


def toy(task="multiclass", rows=400, features=6, seed=0, raw_labels=None, noise=0.0, shift=0.0):
    """`Data` with 70 / 15 / 15 % of the rows; regression targets lie round 100 with a deviation of about 12."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=g)
    w = torch.randn(features, 3, generator=g)
    score = x @ w + noise * torch.randn(rows, 3, generator=g)
    if task == "regression":
        y, classes = score[:, 0] * 5 + 100 + shift, ()
    elif task == "binary":
        y, classes = (score[:, 0] > 0).long(), ("no", "yes")
    else:
        y, classes = score.argmax(1), ("ant", "bee", "cat")
    a, b = int(rows * 0.7), int(rows * 0.85)
    splits = [Split(x[s], y[s]) for s in (slice(a), slice(a, b), slice(b, None))]
    return Data(
        "toy",
        *splits,
        task,
        classes,
        classes if raw_labels is None else raw_labels,
        (features,),
        tuple(f"f{i}" for i in range(features)),
        "y",
    )


def net(outputs=3, features=6, hidden=16, seed=0, dropout=0.0):
    """A small network, the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(features, hidden), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(hidden, outputs)
        )
