"""Read what a run measured, from its folder or from a writer that is still open."""

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fallline._core.errors import FalllineError
from fallline.record.info import read_info
from fallline.record.layout import APPLICATION_ID, RECORD_FILE
from fallline.record.series import Series
from fallline.record.writer import Writer


class Reader:
    """The record of one run or study.

    Args:
        source: a run folder, or an open `Writer` (also one in memory).

    Raises:
        FalllineError: the folder or a file in it is missing, foreign, truncated or damaged; the sentence names it.

    >>> w = Writer(None)
    >>> w.scalar("loss", 0.5, step=1, epoch=0.1)
    >>> Reader(w).series("loss").value
    array([0.5])
    """

    def __init__(self, source: Path | str | Writer) -> None:
        self._writer = source if isinstance(source, Writer) else None
        self.folder = source.folder if isinstance(source, Writer) else Path(source)
        self._own = not (isinstance(source, Writer) and not (source.closed and source.folder))
        if isinstance(source, Writer) and not self._own:
            self._connection = source.connection
            return
        assert self.folder is not None
        self._info = read_info(self.folder)
        self._connection = _connect(self.folder / RECORD_FILE)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; a writer that was read from stays open."""
        if self._own:
            self._connection.close()

    @property
    def info(self) -> dict[str, Any]:
        """What `run.json` says."""
        return self._writer.info if self._writer is not None else self._info

    def runs(self) -> list[str]:
        """The names of the runs recorded here; a single run is called ""."""
        return [row[0] for row in self._ask("SELECT DISTINCT run FROM scalars ORDER BY run")]

    def keys(self, run: str = "") -> list[str]:
        """The quantities recorded for `run`."""
        return [row[0] for row in self._ask("SELECT DISTINCT key FROM scalars WHERE run = ? ORDER BY key", run)]

    def splits(self, key: str, run: str = "") -> list[str]:
        """The splits ("train", "validation", "test") for which `key` was recorded."""
        return [row[0] for row in self._ask("SELECT DISTINCT split FROM scalars WHERE run = ? AND key = ? ORDER BY split", run, key)]

    def series(self, key: str, split: str = "train", run: str = "") -> Series:
        """All points of one quantity in the order of their steps; empty arrays where there is none."""
        rows = self._ask(
            "SELECT step, epoch, seconds, value FROM scalars WHERE run = ? AND key = ? AND split = ? ORDER BY step, rowid", run, key, split
        )
        table = np.array([[np.nan if cell is None else cell for cell in row[1:]] for row in rows], dtype=np.float64).reshape(-1, 3)
        return Series(np.array([row[0] for row in rows], dtype=np.int64), table[:, 0], table[:, 1], table[:, 2])

    def texts(self, key: str, run: str = "") -> list[tuple[int, str]]:
        """All texts recorded under `key`, as (step, text)."""
        return self._ask("SELECT step, value FROM texts WHERE run = ? AND key = ? ORDER BY step, rowid", run, key)

    def _ask(self, query: str, *values: object) -> list[Any]:
        if self._writer is not None and not self._writer.closed:
            self._writer.flush()
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise FalllineError(f"the record '{self.folder}/{RECORD_FILE}' is damaged: {error}.") from error


def open_run(path: Path | str) -> Reader:
    """Open a run folder for reading.

    Raises:
        FalllineError: the folder is missing, foreign, truncated or damaged; the sentence names the file.
    """
    return Reader(path)


def _connect(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise FalllineError(f"there is no record '{path}'; the run folder is not whole.")
    last: Exception | None = None
    for mode in ("ro", "rw"):  # "rw" lets SQLite roll back what a killed process left in its journal
        try:
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=30, check_same_thread=False)
            written_by = connection.execute("PRAGMA application_id").fetchone()[0]
            if written_by != APPLICATION_ID:
                raise FalllineError(f"'{path}' was not written by fallline.")
            sound = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if sound != "ok":
                raise FalllineError(f"the record '{path}' is damaged or was cut short: {sound}.")
            return connection
        except sqlite3.OperationalError as error:
            last = error
        except sqlite3.DatabaseError as error:
            raise FalllineError(f"'{path}' is not a record, or it is damaged: {error}.") from error
    raise FalllineError(f"cannot read the record '{path}': {last}.")
