"""CSV files as they come: UTF-8, UTF-16 or Windows text; comma, semicolon, tab or bar; decimal commas; clear words for broken ones."""

import csv
import io
import os
import re
from collections.abc import Collection
from pathlib import Path

import polars as pl

from fallline._core.errors import FalllineError
from fallline._core.files import told

NULLS = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?"]
_SEPARATORS = ",;\t|"
_DECIMAL = r"^\s*[-+]?\d+(,\d+)?\s*$"
_THOUSANDS = r"^\s*[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?\s*$|^\s*[-+]?\d+(\.\d+)?\s*$"
_CHECKED = 200_000
"""Lines that are looked at to name the first broken one."""


def read_csv(path: "str | os.PathLike[str]", *, words: Collection[str] = ()) -> tuple[pl.DataFrame, list[str]]:
    """The table, and notes on how it was read.

    Args:
        path: the file.
        words: columns that stay text as it is written, even where every value could be a number, a date or a truth value.

    Raises:
        FalllineError: no such file, an empty one, no text, no header, or rows of differing lengths (says which line).
    """
    source = Path(path)
    with told("read", source):
        content = source.read_bytes()
    text, notes = decode(content, source)
    if not text.strip():
        raise FalllineError(f"'{source}' is empty.")
    separator = separator_of(text)
    header = _check_header(text, separator, source)
    _check_widths(text, separator, source)
    try:
        frame = pl.read_csv(
            io.BytesIO(text.encode("utf-8")),
            separator=separator,
            null_values=NULLS,
            infer_schema_length=None,
            schema_overrides={name: pl.String for name in header if name.strip() in words},
            try_parse_dates=True,
        )
    except pl.exceptions.PolarsError as error:
        raise FalllineError(f"'{source}' cannot be read as CSV: {str(error).splitlines()[0]}.") from error
    if separator != ",":
        notes.append(f"'{source.name}' is separated by {_say(separator)}")
    frame = frame.rename({name: name.strip() for name in frame.columns if name.strip() and name.strip() not in frame.columns})
    twice = [name for name in frame.columns if "_duplicated_" in name]
    if twice:
        notes.append(f"column names that occur twice were changed: {', '.join(twice)}")
    return _numbers(frame, separator, notes, words), notes


def decode(content: bytes, source: Path) -> tuple[str, list[str]]:
    """Bytes as text, and a note where they are not UTF-8."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16"), ["the file is encoded in UTF-16"]
        except UnicodeDecodeError as error:
            raise FalllineError(f"'{source}' begins like UTF-16 text, but is damaged at byte {error.start}.") from error
    if b"\x00" in content[:65536]:
        raise FalllineError(
            f"'{source}' is not a text file (it holds zero bytes); fallline reads CSV, Parquet, npz, and folders of pictures."
        )
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        note = f"the file is not UTF-8 (byte {error.start}); it was read as Windows-1252 (Western European)"
        return content.decode("cp1252", errors="replace"), [note]


def separator_of(text: str) -> str:
    r"""The separator that cuts the first lines into equal numbers of fields, and into most.

    >>> separator_of("a;b\n1,5;2\n"), separator_of("a\tb\n1\t2\n")
    (';', '\t')
    """
    head = io.StringIO(text[:65536]).readlines()[:30]
    if len(text) > 65536 and len(head) > 1 and len(head) < 30:
        head = head[:-1]

    def score(separator: str) -> tuple[bool, int]:
        widths = [len(row) for row in csv.reader(head, delimiter=separator) if row]
        first = widths[0] if widths else 1
        return (first > 1 and all(w == first for w in widths), first)

    return max(_SEPARATORS, key=score)


def _check_header(text: str, separator: str, source: Path) -> list[str]:
    header = next(csv.reader(io.StringIO(text), delimiter=separator), [])
    if len(header) > 1 and all(_is_number(cell) for cell in header):
        raise FalllineError(
            f"'{source}' seems to have no header: its first line holds only numbers ({', '.join(header[:4])}, ...); "
            "add a line with column names."
        )
    return header


def _is_number(cell: str) -> bool:
    return bool(re.fullmatch(r"\s*[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?\s*", cell))


def _check_widths(text: str, separator: str, source: Path) -> None:
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        width = len(next(reader))
        for _, row in zip(range(_CHECKED), reader, strict=False):
            if len(row) != width and row:
                raise FalllineError(
                    f"'{source}' is broken in line {reader.line_num}: it has {len(row)} field(s), but the header has {width} "
                    f"(they are separated by {_say(separator)})."
                )
    except csv.Error as error:
        raise FalllineError(f"'{source}' is broken in line {reader.line_num}: {error}.") from error


def _numbers(frame: pl.DataFrame, separator: str, notes: list[str], words: Collection[str]) -> pl.DataFrame:
    """Columns of text that hold numbers with a comma in them, as numbers."""
    decimal, thousands = (_DECIMAL, ".", "decimal commas"), (_THOUSANDS, "", "commas between thousands")
    for series in frame.select(pl.col(pl.String)):
        there = series.drop_nulls()
        if series.name in words or not there.str.contains(",", literal=True).any():
            continue
        for pattern, instead, told_as in (thousands, decimal) if separator == "," else (decimal,):
            if there.str.contains(pattern).all():
                plain = series.str.strip_chars().str.replace_all(",", instead, literal=True)
                frame = frame.with_columns(plain.cast(pl.Float64).alias(series.name))
                notes.append(f"`{series.name}` was read as numbers with {told_as}")
                break
    return frame


def _say(separator: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}[separator]
