"""The runs of a study, told apart by their names: "adam/lr=0.001/seed=0" is a member, "adam/search/lr=0.01" a trial of the search.

Members that differ in nothing but their seed belong to one cell. A cell is called as its row in the table says; without such a word by
the optimizer, and by the batch size where a study has several. Where a study has several batch sizes, losses or schedules, each
combination of these has a picture of its own (`Cell.facet`), in which an optimizer (`Cell.series`) has the same colour as in all others.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from fallline.report.figures.shapes import numbers
from fallline.report.figures.source import Source, dicts, dig
from fallline.report.words import number

MOST_FACETS = 8
MANY_SEEDS = 10  # from here on a band leaves the outermost seeds out


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


class Cell(NamedTuple):
    """What is ranked. `series`: whose colour it has and which name of the legend switches it; `facet`: in which picture it stands;
    `short`: its name where there is little room.
    """

    name: str
    series: str
    facet: str
    row: dict[str, Any]
    short: str


FACTORS = ("batch_size", "loss", "schedule")


def cells(reader: Source) -> list[Cell]:
    """The rows of the table as cells, in its order."""
    table = rows(reader)
    names = row_names(table)
    varied = [factor for factor in FACTORS if len({str(row.get(factor)) for row in table if row.get(factor) is not None}) > 1]
    every = varied
    by_facet: dict[str, list[str]] = {}
    for row in table:
        by_facet.setdefault(_facet(row, varied), []).append(str(row.get("optimizer", "?")))
    split = max((len(set(found)) for found in by_facet.values()), default=0) > 1 and len(by_facet) > 1
    if not split:
        varied = [factor for factor in varied if factor == "loss"]  # values of two losses never share an axis
    whole = len({str(row.get("optimizer", "?")) for row in table}) == len(table) or split
    out = [
        Cell(name, str(row.get("optimizer", "?")) if whole else name, _facet(row, varied), row, _short(row, every) if every else name)
        for name, row in zip(names, table, strict=True)
    ]
    return [cell._replace(facet="") for cell in out] if len({cell.facet for cell in out}) == 1 else out


def _short(row: dict[str, Any], varied: list[str]) -> str:
    """An optimizer and what varies, without the words between.

    >>> _short({"optimizer": "adam", "batch_size": 32, "loss": "mse"}, ["batch_size", "loss"])
    'adam · 32 · mse'
    """
    return " · ".join([str(row.get("optimizer", "?")), *(str(row[factor]) for factor in varied if row.get(factor) is not None)])


def stranger(name: str, known: list[Cell]) -> Cell:
    """A cell that the table does not hold (yet): it stands by itself, in the first picture."""
    return Cell(name, name, known[0].facet if known else "", {}, name)


def _facet(row: dict[str, Any], varied: list[str]) -> str:
    words = []
    for factor in varied:
        value = row.get(factor)
        if factor == "batch_size":
            words.append("full batch" if value == "full" else f"batch size {value}")
        elif value is not None:
            words.append(str(value))
    return ", ".join(words)


def facets(found: list[Cell], most: int = MOST_FACETS) -> list[str]:
    """The pictures that cells are spread over: smaller batch sizes first, whole batches last; one loss and schedule after another.

    Of more than `most`, those in which the best cells stand.
    """

    def order(facet: str) -> tuple[Any, ...]:
        row = next(cell.row for cell in found if cell.facet == facet)
        batch = numbers([row.get("batch_size")])[0]
        return (str(row.get("loss", "")), str(row.get("schedule", "")), batch if math.isfinite(batch) else math.inf)

    return sorted(list(dict.fromkeys(cell.facet for cell in found))[:most], key=order)


def members(reader: Source, *, search: bool = False) -> dict[str, list[Member]]:
    """The members of each cell (or the trials of its search), in the order of the table where there is one, else of the record."""
    found = [m for m in map(parse, map(str, reader.runs())) if m.run and m.search is search]
    several = several_batches(batch_of(m.settings) for m in found)
    table = rows(reader)
    names = row_names(table)
    groups: dict[str, list[Member]] = {}
    for m in found:
        name = next((name for name, row in zip(names, table, strict=True) if _belongs(m, row)), None)
        groups.setdefault(name or series_name(m.optimizer, batch_of(m.settings), several), []).append(m)
    order = {name: i for i, name in enumerate(names)}
    return {name: groups[name] for name in sorted(groups, key=lambda name: (order.get(name, len(order)), name))}


def _belongs(member: Member, row: dict[str, Any]) -> bool:
    """Whether a run's name says nothing else than what the row says."""
    if member.optimizer != str(row.get("optimizer", "?")):
        return False
    said = {"batch_size": batch_of(member.settings), "loss": member.settings.get("loss"), "schedule": member.settings.get("schedule")}
    return all(not word or row.get(factor) is None or word == str(row[factor]).replace("/", "|") for factor, word in said.items())


def rows(reader: Source) -> list[dict[str, Any]]:
    """The rows of the study's table, ranked; empty where there is none."""
    return dicts(reader.info, "result", "table")


def row_names(table: list[dict[str, Any]]) -> list[str]:
    """The cell's name of every row."""
    several = several_batches(batch_of(row) for row in table)
    return [str(row.get("cell") or series_name(str(row.get("optimizer", "?")), batch_of(row), several)) for row in table]


def ranked(row: dict[str, Any]) -> bool:
    """Whether a row takes part in the ranking; studies of before there was a rank ranked every row.

    >>> ranked({"rank": 1}), ranked({"rank": None}), ranked({})
    (True, False, True)
    """
    return "rank" not in row or row["rank"] is not None


def seeds_said(n: int) -> str:
    """How a band over seeds is explained, or why there is none.

    >>> seeds_said(1)
    'One seed only: no band can be drawn, and no difference can be shown.'
    """
    if n < 2:
        return "One seed only: no band can be drawn, and no difference can be shown."
    if n < MANY_SEEDS:
        return f"Line: mean of {number(n)} seeds. Band: from the lowest seed to the highest."
    return f"Line: mean of {number(n)} seeds. Band: the middle 80 % of the seeds."
