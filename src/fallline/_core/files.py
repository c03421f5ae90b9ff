"""Files that are whole or absent: written beside, flushed, and renamed into place.

A reader never sees half a file, whatever kills the writer. Errors of the file system become one sentence that names the path.
"""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fallline._core.errors import FalllineError

_MEANING = {
    errno.ENOSPC: "the disk is full; free some space, or choose another folder with --out",
    errno.EROFS: "the file system is read-only; choose another folder with --out",
    errno.EACCES: "permission is denied; choose another folder with --out",
    errno.EPERM: "permission is denied; choose another folder with --out",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another folder with --out",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder with --out",
    errno.EEXIST: "a file of that name is in the way; choose another folder with --out",
}


@contextlib.contextmanager
def told(action: str, path: Path | str) -> Iterator[None]:
    """Turn an `OSError` inside into a `FalllineError` that says which path and why."""
    try:
        yield
    except OSError as error:
        why = _MEANING.get(error.errno or 0, error.strerror or str(error))
        raise FalllineError(f"cannot {action} '{path}': {why}.") from error


def make_folder(path: Path | str) -> Path:
    """Create a folder (and its parents) in which files can be written; refuse where that cannot be."""
    folder = Path(path)
    with told("write to folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(dir=folder, prefix=".probe-")
        os.close(handle)
        os.unlink(probe)
    return folder


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a whole file or leave the old one as it was."""
    target = Path(path)
    with told("write", target):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def write_text(path: Path | str, content: str) -> None:
    """Write a whole UTF-8 text file or leave the old one as it was."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path | str, content: Any) -> None:
    """Write a whole JSON file or leave the old one as it was."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=True) + "\n")


def read_json(path: Path | str, what: str) -> Any:
    """Read a JSON file, or say in one sentence why it is not one."""
    source = Path(path)
    if not source.is_file():
        raise FalllineError(f"there is no {what} '{source}'.")
    with told("read", source):
        text = source.read_bytes()
    try:
        return json.loads(text)
    except (ValueError, UnicodeDecodeError) as error:
        raise FalllineError(f"'{source}' is not a {what}, or it was cut short: {error}.") from error
