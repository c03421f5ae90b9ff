"""Reading a record for a figure: a series as plain lists, or None where nothing was recorded; run.json, whatever it lacks."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from fallline._core.errors import FalllineError
from fallline.report.figures.shapes import numbers


class Source(Protocol):
    """What a page needs of a reader: `record.Reader` has it."""

    @property
    def info(self) -> Any:
        """What run.json says."""
        ...

    def runs(self) -> Any:
        """The names of the runs."""
        ...

    def keys(self, run: str = ...) -> Any:
        """The quantities of one run."""
        ...

    def series(self, key: str, split: str = ..., run: str = ...) -> Any:
        """Step, epoch, seconds and value of one quantity, as arrays."""
        ...


class Points(NamedTuple):
    """A recorded series: lists of equal length; `epoch` and `seconds` may hold NaN."""

    step: list[float]
    epoch: list[float]
    seconds: list[float]
    value: list[float]


def points(reader: Source, key: str, split: str, run: str = "") -> Points | None:
    """The series of one key and split, or None where the record has none."""
    try:
        found = reader.series(key, split, run)
    except (FalllineError, KeyError):
        return None
    if found is None or len(found.value) == 0:
        return None
    return Points(numbers(found.step), numbers(found.epoch), numbers(found.seconds), numbers(found.value))


def keys(reader: Source, run: str = "") -> list[str]:
    """The names of the metrics of one run, each once, in the order of the record."""
    try:
        found = list(reader.keys(run))
    except (FalllineError, KeyError):
        return []
    return list(dict.fromkeys(str(k[0]) if isinstance(k, tuple) else str(k) for k in found))


def dig(tree: Any, *path: str, default: Any = None) -> Any:
    """`tree[path[0]][path[1]]...`, or `default` where a step is missing or is no mapping.

    >>> dig({"a": {"b": 1}}, "a", "b"), dig({"a": None}, "a", "b", default=0)
    (1, 0)
    """
    for word in path:
        if not isinstance(tree, Mapping) or word not in tree:
            return default
        tree = tree[word]
    return default if tree is None else tree


def dicts(tree: Any, *path: str) -> list[dict[str, Any]]:
    """The mappings in the list at `path`; [] where there is no list.

    >>> dicts({"a": [{"b": 1}, 3]}, "a"), dicts({"a": 3}, "a")
    ([{'b': 1}], [])
    """
    found = dig(tree, *path)
    return [dict(item) for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def run_name(reader: Source) -> str:
    """The name of the only run of a record ("" unless the writer named it)."""
    try:
        runs = [str(r) for r in reader.runs()]
    except FalllineError:
        return ""
    return "" if "" in runs or not runs else runs[0]
