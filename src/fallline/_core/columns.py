"""Columns of text that fit the terminal: empty ones go, then those that can be spared, then the longest names are shortened.

The width is that of the terminal; where the text goes into a file or a pipe, 100 columns. Nothing is broken inside a word.
"""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple, TextIO

PIPED = 100  # columns where there is no terminal
_GAP = "  "
_SHORTEST = 12  # letters that a shortened name keeps


class Column(NamedTuple):
    """A column: its head, its cells, whether it stands to the left, and how soon it may be spared (0: never; higher goes first)."""

    head: str
    cells: Sequence[str]
    left: bool = False
    spare: int = 0


def width(stream: TextIO | None = None) -> int:
    """How many columns the terminal has; `PIPED` where there is none."""
    stream = stream or sys.stdout
    return shutil.get_terminal_size((PIPED, 24)).columns if stream is not None and stream.isatty() else PIPED


def columns_text(columns: Sequence[Column], most: int | None = None) -> list[str]:
    """The columns as lines: heads, a rule, a line for each row; a last line names what was left out for lack of room.

    Args:
        columns: in their order, with as many cells each.
        most: width; by default that of the terminal.

    >>> for line in columns_text([Column("name", ["adam", "sgd"], left=True), Column("note", ["", ""]), Column("mean", ["0.9", "0.85"])]):
    ...     print(line)
    name  mean
    ----  ----
    adam   0.9
    sgd   0.85
    """
    most = width() if most is None else most
    kept = [c for c in columns if any(cell.strip() for cell in c.cells)]
    spared: list[Column] = []
    while _total(kept) > most and any(c.spare for c in kept):
        spared.append(max(kept, key=lambda c: c.spare))
        kept.remove(spared[-1])
    over = _total(kept) - most
    if over > 0:
        longest = max((c for c in kept if c.left), key=_wide, default=None)
        if longest is not None:
            room = max(_SHORTEST, _wide(longest) - over)
            kept[kept.index(longest)] = longest._replace(cells=[_short(cell, room) for cell in longest.cells])
    lines = [[c.head for c in kept], ["-" * _wide(c) for c in kept], *([c.cells[i] for c in kept] for i in range(len(columns[0].cells)))]
    out = [_GAP.join(_padded(c, text) for c, text in zip(kept, line, strict=True)).rstrip() for line in lines]
    names = [c.head for c in columns if c in spared]
    return [*out, f"(no room for {', '.join(names)}: see the report, or a wider terminal)"] if names else out


def wrapped(line: str, most: int) -> str:
    r"""A line broken between words where it is longer; one that is indented stays so.

    >>> wrapped("  one two three", 10)
    '  one two\n  three'
    """
    if len(line) <= most:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    folded = textwrap.TextWrapper(most, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return folded.fill(line.strip())


def _wide(column: Column) -> int:
    return max(len(text) for text in (column.head, *column.cells))


def _padded(column: Column, text: str) -> str:
    return text.ljust(_wide(column)) if column.left else text.rjust(_wide(column))


def _total(columns: Sequence[Column]) -> int:
    return sum(map(_wide, columns)) + len(_GAP) * (len(columns) - 1)


def _short(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 3]}..."
