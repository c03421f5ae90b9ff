"""The runs of a study, told apart by their names: "adam/lr=0.001/seed=0" is a member, "adam/search/lr=0.01" a trial of the search.

Members that differ in nothing but their seed belong to one series, called by the optimizer, and by the batch size where a study
has several.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from fallline.report.figures.source import Source, dig
from fallline.report.words import number


class Member(NamedTuple):
    """One run of a study. `settings` holds whatever its name says besides, such as lr and batch_size, as text."""

    run: str
    optimizer: str
    settings: dict[str, str]
    seed: str
    search: bool


def parse(run: str) -> Member:
    """A member from the name of its run.

    >>> parse("adam/lr=0.001/seed=0")
    Member(run='adam/lr=0.001/seed=0', optimizer='adam', settings={'lr': '0.001'}, seed='0', search=False)
    >>> parse("adam/search/lr=0.01").search
    True
    """
    optimizer, *rest = run.split("/")
    settings = dict(word.split("=", 1) for word in rest if "=" in word)
    seed = settings.pop("seed", "")
    return Member(run, optimizer, settings, seed, "search" in rest)


def batch_of(settings: Any) -> str:
    """The batch size in the settings of a member or in a row of the table, as text; "" where it is not said."""
    for name in ("batch_size", "batch"):
        value = dig(settings, name)
        if value is not None:
            return str(value)
    return ""


def series_name(optimizer: str, batch: str, several: bool) -> str:
    """What a series is called.

    >>> series_name("adam", "64", True), series_name("adam", "64", False)
    ('adam, batch 64', 'adam')
    """
    return f"{optimizer}, batch {batch}" if several and batch else optimizer


def several_batches(batches: Iterable[str]) -> bool:
    """Whether a study has more than one batch size."""
    return len({b for b in batches if b}) > 1


def members(reader: Source) -> dict[str, list[Member]]:
    """The members of each series (search runs left out), in the order of the table where there is one, else of the record."""
    found = [m for m in map(parse, map(str, reader.runs())) if m.run and not m.search]
    several = several_batches(batch_of(m.settings) for m in found)
    groups: dict[str, list[Member]] = {}
    for m in found:
        groups.setdefault(series_name(m.optimizer, batch_of(m.settings), several), []).append(m)
    order = {name: i for i, name in enumerate(row_names(rows(reader)))}
    return {name: groups[name] for name in sorted(groups, key=lambda name: (order.get(name, len(order)), name))}


def rows(reader: Source) -> list[dict[str, Any]]:
    """The rows of the study's table, ranked; empty where there is none."""
    table = dig(reader.info, "result", "table", default=[])
    return [dict(row) for row in table if isinstance(row, dict)] if isinstance(table, list) else []


def row_names(table: list[dict[str, Any]]) -> list[str]:
    """The series' name of every row."""
    several = several_batches(batch_of(row) for row in table)
    return [series_name(str(row.get("optimizer", "?")), batch_of(row), several) for row in table]


def seeds_said(n: int) -> str:
    """How a band over seeds is explained, or why there is none.

    >>> seeds_said(1)
    'One seed only: no band can be drawn, and no difference can be shown.'
    """
    if n < 2:
        return "One seed only: no band can be drawn, and no difference can be shown."
    return f"Line: mean of {number(n)} seeds. Band: from the lowest seed to the highest."
