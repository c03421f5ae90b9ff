"""Write what a run measures: SQLite in the run folder, or in memory.

Rows are gathered and written in one transaction; a process killed in the middle leaves the transactions before it whole (SQLite's
rollback journal, no write-ahead log, so that the one file is the whole record).
"""

import math
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fallline._core.errors import FalllineError, must
from fallline._core.files import make_folder, told
from fallline.record.info import new_info, read_info, write_info
from fallline.record.layout import APPLICATION_ID, RECORD_FILE, RUN_FILE, SCHEMA

_GATHER = 4096


class Writer:
    """The record of one run, or of all runs of a study (told apart by `run`).

    Args:
        folder: an existing or new folder, or None for a record in memory. A folder that holds a record is continued.
        kind: "run" or "study", for a new record.

    >>> with Writer(None) as w:
    ...     w.scalar("loss", 0.5, step=1, epoch=0.1)
    ...     w.rows()
    1
    """

    def __init__(self, folder: Path | str | None = None, *, kind: str = "run") -> None:
        self.folder = None if folder is None else make_folder(folder)
        self._started = time.monotonic()
        self._scalars: list[tuple[str, str, str, int, float, float, float | None]] = []
        self._texts: list[tuple[str, str, int, str]] = []
        self.closed = self.holds = False
        known = self.folder is not None and (self.folder / RUN_FILE).exists()
        self.info: dict[str, Any] = read_info(self.folder) if known and self.folder else new_info(kind)
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        target = ":memory:" if self.folder is None else str(self.folder / RECORD_FILE)
        try:
            connection = sqlite3.connect(target, timeout=30, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA synchronous=NORMAL")
            written_by = connection.execute("PRAGMA application_id").fetchone()[0]
            empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            if not empty and written_by != APPLICATION_ID:
                raise FalllineError(f"'{target}' is a database that fallline did not write; choose another folder with --out.")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise FalllineError(f"cannot write the record '{target}': {error}; choose another folder with --out.") from error
        return connection

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """The open database, for a `Reader` of a record in memory."""
        return self._connection

    def describe(self, **parts: Any) -> None:
        """Change parts of `run.json` (status, config, result, ...) and write it whole."""
        self.info.update(parts)
        if self.folder is not None:
            write_info(self.folder, self.info)

    def scalar(
        self, key: str, value: float, *, step: int, epoch: float, split: str = "train", run: str = "", seconds: float | None = None
    ) -> None:
        """Record one number; NaN is kept as such. `seconds` is since the run began: by default, since the writer opened."""
        when = time.monotonic() - self._started if seconds is None else seconds
        number = float(value)
        self._scalars.append((run, key, split, int(step), float(epoch), when, None if math.isnan(number) else number))
        if len(self._scalars) >= _GATHER:
            self.flush()

    def scalars(self, values: Mapping[str, float], *, step: int, epoch: float, split: str = "train", run: str = "", seconds: float) -> None:
        """Record numbers of one moment, by key."""
        self._scalars.extend((run, key, split, step, epoch, seconds, None if v != v else v) for key, v in values.items())  # noqa: PLR0124
        if len(self._scalars) >= _GATHER:
            self.flush()

    def series(
        self,
        key: str,
        values: Sequence[float],
        *,
        steps: Sequence[int],
        epochs: Sequence[float],
        seconds: Iterable[float],
        split: str = "train",
        run: str = "",
    ) -> None:
        """Record many points of one quantity at once; all sequences have the same length."""
        must(len(values) == len(steps) == len(epochs), "len(values) == len(steps) == len(epochs)", (len(values), len(steps), len(epochs)))
        self._scalars.extend(
            (run, key, split, int(s), float(e), float(t), None if math.isnan(v) else float(v))
            for v, s, e, t in zip(values, steps, epochs, seconds, strict=True)
        )

    def text(self, key: str, value: str, *, step: int = 0, run: str = "") -> None:
        """Record one piece of text."""
        self._texts.append((run, key, int(step), str(value)))

    def flush(self) -> None:
        """Write all that was gathered, in one transaction; nothing while the writer `holds` it for `replace`."""
        if not self.holds and (self._scalars or self._texts):
            self._write(())

    def replace(self, *runs: str) -> None:
        """Write all that was gathered in the place of every row of these runs, in one transaction."""
        self._write(runs)

    def forget(self) -> None:
        """Write nothing of what was gathered."""
        self._scalars.clear()
        self._texts.clear()

    def _write(self, instead_of: Sequence[str]) -> None:
        named = [(run,) for run in instead_of]
        self._run(
            lambda c: (
                *(c.executemany(f"DELETE FROM {table} WHERE run = ?", named) for table in ("scalars", "texts")),
                c.executemany("INSERT INTO scalars VALUES (?, ?, ?, ?, ?, ?, ?)", self._scalars),
                c.executemany("INSERT INTO texts VALUES (?, ?, ?, ?)", self._texts),
            )
        )
        self.forget()

    def cut(self, after_step: int, run: str = "") -> None:
        """Drop what a resume will measure again: the rows of `run` later than a checkpoint's step, and those of the test split."""
        self.flush()
        self._run(
            lambda c: (
                c.execute("DELETE FROM scalars WHERE run = ? AND (step > ? OR split = 'test')", (run, after_step)),
                c.execute("DELETE FROM texts WHERE run = ? AND step > ?", (run, after_step)),
            )
        )

    def drop(self, *runs: str) -> None:
        """Drop all rows of these runs."""
        self.flush()
        named = [(run,) for run in runs]
        self._run(lambda c: [c.executemany(f"DELETE FROM {table} WHERE run = ?", named) for table in ("scalars", "texts")])

    def rows(self) -> int:
        """Numbers recorded so far."""
        self.flush()
        return int(self._connection.execute("SELECT count(*) FROM scalars").fetchone()[0])

    def close(self) -> None:
        """Write what was gathered and close; a record in memory stays readable."""
        if self.closed:
            return
        self.flush()
        self.closed = True
        if self.folder is not None:
            self._connection.close()

    def _run(self, work: Any) -> None:
        try:
            with told("write", self.folder or ":memory:"), self._connection:
                work(self._connection)
        except sqlite3.Error as error:
            raise FalllineError(
                f"cannot write the record in '{self.folder}': {error}; free some space, or choose another folder with --out."
            ) from error
