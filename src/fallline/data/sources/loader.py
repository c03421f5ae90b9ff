"""A torch DataLoader: its batches are gathered into memory once, and its numbers are left as they are."""

from typing import Any

import numpy as np
import torch

from fallline._core.errors import FalllineError
from fallline.data.raw import Raw
from fallline.data.sources.arrays import refuse_gaps


def is_loader(source: Any) -> bool:
    """Whether it is a DataLoader."""
    return isinstance(source, torch.utils.data.DataLoader)


def read_loader(source: Any, name: str = "DataLoader") -> Raw:
    """All rows that one pass over the loader gives; batches must be pairs (x, y).

    Raises:
        FalllineError: no pairs, no rows, or NaN or infinity in x.
    """
    xs, ys = [], []
    for batch in source:
        if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, torch.Tensor) for part in batch)):
            raise FalllineError("the DataLoader must give pairs of tensors (x, y); wrap the data set so that it does.")
        xs.append(batch[0].detach().cpu())
        ys.append(batch[1].detach().cpu())
    if not xs:
        raise FalllineError("the DataLoader is empty: it gave no batch.")
    x, y = torch.cat(xs).float().numpy(), torch.cat(ys)
    if x.ndim < 2:
        x = x[:, None]
    if len(x) != len(y):
        raise FalllineError(f"x and y of the DataLoader must have the same number of rows, but x has {len(x)} and y has {len(y)}.")
    refuse_gaps(x, "x", "rows")
    labels = (y.float() if y.dtype == torch.bfloat16 else y).numpy()
    return Raw(
        name, "tensors", np.ascontiguousarray(x), labels, notes=["the rows of the DataLoader are used as they are, without preprocessing"]
    )
