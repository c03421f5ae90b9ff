"""True against predicted classes, and what follows for each class: precision, recall, F1."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fallline.report.figures.shapes import Grid, Table
from fallline.report.words import count, metric, number

MOST_IN_TABLE = 40  # classes; of more, the most frequent mistakes are listed


class PerClass(NamedTuple):
    """One class: rows that are it, share of its predictions that are right, share of its rows found. NaN: nothing to divide by."""

    name: str
    rows: int
    precision: float
    recall: float
    f1: float


def per_class(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[PerClass]:
    """Precision, recall and F1 of every class from counts[true][predicted].

    >>> [(c.precision, c.recall) for c in per_class([[8, 2], [0, 10]], ["no", "yes"])]
    [(1.0, 0.8), (0.8333333333333334, 1.0)]
    """
    out = []
    for i, name in enumerate(labels):
        hit, rows, called = counts[i][i], sum(counts[i]), sum(row[i] for row in counts)
        nan = float("nan")
        out.append(
            PerClass(
                name,
                rows,
                hit / called if called else nan,
                hit / rows if rows else nan,
                2 * hit / (rows + called) if rows + called else nan,
            )
        )
    return out


def confusion(raw: Any, classes: Sequence[str], split: str = "test") -> Grid | None:
    """The confusion table of `raw` (a square of counts: rows true, columns predicted); None where it is absent or not square."""
    if isinstance(raw, dict):
        split = str(raw.get("split", split))
        classes = list(raw.get("labels") or raw.get("classes") or classes)
        raw = raw.get("counts") or raw.get("matrix")
    try:
        counts = [[int(v) for v in row] for row in raw]
    except (TypeError, ValueError):
        return None
    n = len(counts)
    if n < 2 or any(len(row) != n for row in counts):
        return None
    labels = [str(c) for c in classes] if len(classes) == n else [str(i) for i in range(n)]
    total, right = sum(map(sum, counts)), sum(counts[i][i] for i in range(n))
    wrong = max(((counts[i][j], labels[i], labels[j]) for i in range(n) for j in range(n) if i != j), key=lambda w: w[0])
    says = f"{number(right)} of {count(total, f'{split} row')} are on the diagonal: named correctly."
    if wrong[0]:
        says += f" The most frequent mistake: {wrong[1]} taken for {wrong[2]} ({count(wrong[0], 'time')})."
    if n <= MOST_IN_TABLE:
        table = Table(["true \\ predicted", *labels], [[labels[i], *(number(v) for v in counts[i])] for i in range(n)])
    else:
        mistakes = sorted(((counts[i][j], labels[i], labels[j]) for i in range(n) for j in range(n) if i != j), key=lambda m: -m[0])
        table = Table(["true", "predicted", "rows"], [[a, b, number(c)] for c, a, b in mistakes[:MOST_IN_TABLE] if c])
    return Grid("confusion", "Confusion table", "predicted class", "true class", labels, counts, says, f"Table of counts. {says}", table)


def class_table(grid: Grid) -> Table:
    """Precision, recall and F1 of each class, as text."""
    rows = [
        [c.name, number(c.rows), metric("precision", c.precision), metric("recall", c.recall), metric("f1", c.f1)]
        for c in per_class(grid.counts, grid.labels)
    ]
    return Table(["class", "rows", "precision", "recall", "F1"], [[("–" if v == "not finite" else v) for v in row] for row in rows])
