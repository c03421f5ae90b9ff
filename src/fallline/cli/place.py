"""Where a command writes, and that nothing half-written stays where it could not go on."""

import contextlib
import datetime
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fallline._core.errors import FalllineError


def default_folder(data: str, root: str = "runs") -> Path:
    """`runs/<data>-<date-time>`, with a number behind it where that is taken.

    >>> default_folder("tables/my houses.csv").name.startswith("my-houses-")
    True
    """
    name = re.sub(r"[^A-Za-z0-9_]+", "-", Path(data).stem or Path(data).name).strip("-") or "run"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(root) / f"{name}-{stamp}"
    count = 2
    while folder.exists():
        folder = Path(root) / f"{name}-{stamp}-{count}"
        count += 1
    return folder


def has_checkpoint(folder: Path) -> bool:
    """Whether a run left something to go on with."""
    return (folder / "checkpoint.safetensors").exists()


def has_record(folder: Path) -> bool:
    """Whether a comparison measured anything."""
    import sqlite3

    if not (folder / "record.sqlite").exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(folder / "record.sqlite")) as record:
            return record.execute("SELECT 1 FROM scalars LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return False


@contextlib.contextmanager
def claimed(folder: Path, worth: Callable[[Path], bool] = has_checkpoint) -> Iterator[Path]:
    """A new folder for a command: refused where something lies in it, removed where the command fails before it is `worth` keeping."""
    if folder.is_dir() and any(folder.iterdir()):
        raise FalllineError(f"'{folder}' is not empty; choose another folder with --out, or go on with --resume {folder}.")
    created = _missing(folder)
    try:
        yield folder
    except BaseException as error:  # an interruption included: without a record there is nothing to go on with
        if not worth(folder):
            _remove(folder, created)
        elif isinstance(error, FalllineError):
            mended = str(error).rstrip(".").replace(", or choose another folder with --out", "")
            raise FalllineError(f"{mended}; then go on with --resume {folder}.") from error
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"what was saved is in {folder}, go on with --resume {folder}.") from error
        raise


def _missing(folder: Path) -> list[Path]:
    """The folder and those of its parents that do not exist yet, innermost first."""
    missing = []
    for path in [folder, *folder.parents]:
        if path.exists():
            break
        missing.append(path)
    return missing


def _remove(folder: Path, created: list[Path]) -> None:
    """Put the place back as it was: the folder gone, or empty where it had been there."""
    if folder in created:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in created[1:]:
            with contextlib.suppress(OSError):
                parent.rmdir()  # only where it is empty
        return
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
