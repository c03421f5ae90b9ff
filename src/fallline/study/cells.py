"""What a cell of a study (an optimizer at a batch size, a loss, a schedule) is called, and the columns that it fills."""

from collections.abc import Hashable
from typing import Any

from fallline.study.plan import Plan, label


def cell_name(plan: Plan, cell: Hashable) -> str:
    """The name of a cell: its optimizer, and what else tells it from the other cells of the study."""
    named = getattr(plan, "cell_name", None)
    if named is not None:
        return str(named(cell))
    optimizer, batch, *_ = cell  # pyright: ignore[reportGeneralTypeIssues]
    if len(plan.batch_sizes) == 1:
        return label(optimizer)
    return f"{label(optimizer)} at {'full batch' if batch == 'full' else f'batch size {batch}'}"


def cell_columns(cell: Hashable) -> dict[str, Any]:
    """The columns of the table that a cell fills: optimizer and batch size, and where it has them loss and schedule."""
    optimizer, batch, *_ = cell  # pyright: ignore[reportGeneralTypeIssues]
    more = {name: getattr(cell, name) for name in ("loss", "schedule") if hasattr(cell, name)}
    return {"optimizer": label(optimizer), "batch_size": batch, **more}
