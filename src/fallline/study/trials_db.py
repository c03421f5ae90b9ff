"""`trials.db`: the finished trials of a search as Optuna keeps them (SQLite), for its dashboard, its plots, and for going on.

Trials are asked and judged in memory and written when their batch is whole, in the order of their numbers, while the next batch trains:
a process that is killed leaves no trial running, and the trials that it lost are asked again with the same values (`sampling.py`). One
process at a time may hold a search: it keeps an exclusive transaction on `trials.lock` open, which ends with the process however it ends.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fallline._core.errors import FalllineError
from fallline.study.sampling import quiet_optuna

if TYPE_CHECKING:
    import optuna

FILE = "trials.db"
LOCK = "trials.lock"
NAME = "fallline"


class TrialsFile:
    """The trials of one search in its folder; in memory (`folder` None) nothing is kept.

    Args:
        folder: of the search.
        direction: "minimize" or "maximize".

    Raises:
        FalllineError: the file is damaged, or foreign.
    """

    def __init__(self, folder: Path | None, direction: Literal["minimize", "maximize"]) -> None:
        self.path = None if folder is None else folder / FILE
        self._study: Any = None
        self._writer = ThreadPoolExecutor(1, "trials")
        self._written: list[Future[None]] = []
        if self.path is None:
            return
        import optuna
        from sqlalchemy import event

        fresh = not self.path.exists()
        with self._told():
            if not fresh:
                with contextlib.closing(sqlite3.connect(self.path)) as raw:
                    sound = raw.execute("PRAGMA quick_check(1)").fetchone()[0]
                if sound != "ok":
                    raise FalllineError(f"the trials '{self.path}' are damaged: {sound}; start a new search with --out.")
            storage = optuna.storages.RDBStorage(f"sqlite:///{self.path.resolve()}")
            event.listen(storage.engine, "connect", _fast)
            storage.engine.dispose()  # connections made before the setting
            self._storage = storage
            with quiet_optuna():
                self._study = optuna.create_study(study_name=NAME, storage=storage, direction=direction, load_if_exists=True)

    def trials(self) -> "list[optuna.trial.FrozenTrial]":
        """What is kept, by number."""
        if self._study is None:
            return []
        with self._told():
            found = self._study.get_trials(deepcopy=False)
        for place, trial in enumerate(found):
            if not trial.state.is_finished() or trial.number != place:
                raise FalllineError(f"'{self.path}' holds trial {trial.number} of another program, which is not finished; remove it first.")
        return found

    def add(self, trials: "Sequence[optuna.trial.FrozenTrial]") -> None:
        """Keep finished trials, in the order of their numbers; they are written in the background."""
        if self._study is not None:
            self._written.append(self._writer.submit(self._write, list(trials)))

    def _write(self, trials: "Sequence[optuna.trial.FrozenTrial]") -> None:
        if any(written.done() and written.exception() is not None for written in self._written):
            return  # a trial after one that was lost would have the wrong number
        with self._told():
            for trial in trials:
                self._study.add_trial(trial)

    def flush(self) -> None:
        """Wait until all is written.

        Raises:
            FalllineError: it could not be.
        """
        for written in self._written:
            written.result()
        self._written.clear()

    def close(self) -> None:
        """Let go of the file; what was added is written before."""
        if self._study is not None:
            self._writer.submit(self._storage.remove_session)
            self._writer.shutdown()
            self._storage.remove_session()
            self._storage.engine.dispose()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, StorageInternalError, sqlite3.Error, RuntimeError) as error:
            words = str(error).splitlines()[0]
            raise FalllineError(f"the trials '{self.path}' cannot be read or written, or are damaged: {words}.") from error


def _fast(connection: Any, _: Any) -> None:
    """Trials come by the batch, and what a loss of power could take is asked again: the disk need not be waited for at each."""
    connection.execute("PRAGMA synchronous=OFF")


@contextlib.contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Hold the search in `folder` alone.

    Raises:
        FalllineError: another process holds it.
    """
    if folder is None:
        yield
        return
    with contextlib.closing(sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise FalllineError(f"the search '{folder}' is held by another process; wait for it to end, or stop it.") from error
        except sqlite3.Error as error:
            raise FalllineError(f"'{folder / LOCK}' is not the lock of a search: {error}; remove it.") from error
        yield
