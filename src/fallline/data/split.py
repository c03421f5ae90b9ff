"""Which rows train, which validate, which test: drawn by seed, in exact numbers, class by class."""

import numpy as np
import torch

from fallline._core.errors import FalllineError, must
from fallline._core.seeds import stream

PARTS = ("train", "validation", "test")


def split_rows(
    n: int,
    labels: np.ndarray | None,
    *,
    seed: int,
    validation: float,
    test: float,
    assigned: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Row indices of each part, sorted; together they are all rows, and no row is in two parts.

    Args:
        n: number of rows.
        labels: class indices of shape (n,) for a stratified split, or None.
        seed: same seed, same split.
        validation: share of all rows (of the training rows, where the source has a test part of its own).
        test: share of all rows; not used where the source has a test part of its own.
        assigned: parts that the source defines; what it lacks is drawn from its training rows.

    Raises:
        FalllineError: a share is not in [0, 1), the shares leave no training row, or there are too few rows.
    """
    for name, share in (("validation", validation), ("test", test)):
        must(isinstance(share, int | float) and 0 <= share < 1, f"0 <= {name} < 1", share, "0.15 is usual", where="load")
    must(validation + test < 1, "validation + test < 1", f"{validation + test:g}", "nothing is left to train on", where="load")
    parts = {name: np.sort(np.asarray(rows, dtype=np.int64)) for name, rows in (assigned or {}).items()}
    left = parts.pop("train", np.arange(n))
    wanted = {"test": test if "test" not in parts else 0.0, "validation": validation if "validation" not in parts else 0.0}
    least = 1 + sum(share > 0 for share in wanted.values())
    if len(left) < max(least, 2):
        use = ", ".join(["train", *("validate" for _ in range(wanted["validation"] > 0)), *("test" for _ in range(wanted["test"] > 0))])
        raise FalllineError(f"the data has {len(left)} row(s), too few to {use}; give more rows, or set validation=0 and test=0.")
    total = len(left)
    for name, share in wanted.items():
        count = min(max(1, round(total * share)), len(left) - 1) if share > 0 else 0
        if name == "test" and wanted["validation"] > 0:
            count = min(count, len(left) - 2)
        picked = draw(left, None if labels is None else labels[left], count, stream(seed, "split", name))
        parts.setdefault(name, picked)
        left = np.setdiff1d(left, picked, assume_unique=True)
    return {"train": left, "validation": parts["validation"], "test": parts["test"]}


def draw(rows: np.ndarray, labels: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """`count` of `rows`, sorted; with `labels`, each class gives its share, and keeps a row where it can."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=generator).numpy()
    if labels is None or count == 0:
        return np.sort(rows[order[:count]])
    kinds, sizes = np.unique(labels, return_counts=True)
    share = sizes * count / len(rows)
    quota = np.minimum(np.floor(share).astype(np.int64), sizes - 1)
    while quota.sum() < count:
        room = sizes - 1 - quota
        gain = np.where(room > 0, share - quota, -np.inf)
        best = int(gain.argmax())
        if not np.isfinite(gain[best]):
            break
        quota[best] += 1
    shuffled = labels[order]
    picked = [order[shuffled == kind][:k] for kind, k in zip(kinds, quota, strict=True)]
    chosen = np.concatenate(picked)
    if len(chosen) < count:
        chosen = np.concatenate([chosen, np.setdiff1d(order, chosen)[: count - len(chosen)]])
    return np.sort(rows[chosen])
