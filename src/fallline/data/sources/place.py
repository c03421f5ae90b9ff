"""Where the files of a named set are looked for, in this order.

1. the folder that the user names (`folder=`); 2. the folder in the environment variable FALLLINE_DATA; 3. `../shared/data` beside the
checkout; 4. `~/.cache/fallline`.
"""

import os
from pathlib import Path

from fallline._core.errors import FalllineError

VARIABLE = "FALLLINE_DATA"


def cache_folder() -> Path:
    """Where downloads are kept."""
    return Path.home() / ".cache" / "fallline"


def places(folder: "str | os.PathLike[str] | None") -> list[Path]:
    """The folders to look in, best first."""
    if folder is not None:
        return [Path(folder)]
    named = [Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
    checkout = Path(__file__).resolve().parents[4]
    return [*named, checkout.parent / "shared" / "data", cache_folder()]


def find(name: str, files: tuple[str, ...], folder: "str | os.PathLike[str] | None") -> Path | None:
    """The first place that has all `files`, directly or in a sub-folder called `name`; None where none has."""
    for place in places(folder):
        for candidate in (place / name, place):
            if all((candidate / file).is_file() for file in files):
                return candidate
    return None


def find_or_refuse(name: str, files: tuple[str, ...], folder: "str | os.PathLike[str] | None", origin: str) -> Path:
    """The folder that has `files`, or the error that lists where they were looked for and what to set.

    Raises:
        FalllineError: they are nowhere.
    """
    found = find(name, files, folder)
    if found is not None:
        return found
    looked = ", ".join(f"'{place / name}'" for place in places(folder))
    raise FalllineError(
        f"the files of {name} ({', '.join(files)}) were not found in {looked}; get them from {origin}, put them in a folder called {name}, "
        f"and name the folder above it with folder= or the environment variable {VARIABLE}."
    )
