"""What a multi-task loss came to, task by task: what each costs, what it weighs, what it puts into the total."""

from typing import NamedTuple

from torch import Tensor


class Parts(NamedTuple):
    """The total and what it is made of; `print(parts)` shows a table, `parts.numbers()` gives plain numbers for a log.

    total = Σ weighted + Σ added. Compare tasks, runs and epochs by `raw`: the total moves with the weights.

    Attributes:
        total: what to call `backward` on, 0-d.
        raw: task to its own loss, unweighted.
        weighted: task to weight times raw: what it puts into the total.
        weights: task to its weight now, without a graph.
        added: task to what the weighting itself adds: the log of the noise for "uncertainty" (negative by nature), else 0.
        present: task to whether any example of this batch counts for it.
        without: the tasks that this batch brought no target for.
    """

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    weights: dict[str, Tensor]
    added: dict[str, Tensor]
    present: dict[str, Tensor]
    without: tuple[str, ...] = ()

    def numbers(self) -> dict[str, float]:
        """Everything as numbers, named `total`, `raw/class`, `weighted/class`, `weight/class` ...; reads the tensors."""
        found = {"total": self.total.detach().item()}
        for what, table in (("raw", self.raw), ("weighted", self.weighted), ("weight", self.weights), ("added", self.added)):
            found |= {f"{what}/{task}": value.detach().item() for task, value in table.items()}
        return found

    def __str__(self) -> str:
        wide = max(map(len, ["total", *self.raw]))
        lines = [f"{'task':{wide}}  {'raw':>11}  {'weight':>11}  {'weighted':>11}  {'added':>11}"]
        for task in self.raw:
            if not self.present[task]:
                lines.append(f"{task:{wide}}  {'(no example in this batch)':>11}")
                continue
            row = (self.raw[task], self.weights[task], self.weighted[task], self.added[task])
            lines.append(f"{task:{wide}}  " + "  ".join(f"{value.detach().item():11.5g}" for value in row))
        return "\n".join([*lines, f"{'total':{wide}}  {self.total.detach().item():37.5g}"])
