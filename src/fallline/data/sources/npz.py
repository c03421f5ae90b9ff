"""Arrays in an npz file: X and y, or x_train, y_train, x_test, y_test (and x_validation, y_validation)."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fallline._core.errors import FalllineError
from fallline._core.files import told

PAIRS = (("X", "y"), ("x", "y"), ("data", "target"), ("data", "labels"), ("features", "labels"), ("images", "labels"))
_PARTS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


def read_npz(path: "str | os.PathLike[str]") -> dict[str, Any]:
    """{"all": (X, y or None)} or {"train": (X, y), "test": ...}; nothing in the file is run.

    Raises:
        FalllineError: no such file, no npz, Python objects inside, or names that say nothing.
    """
    source = Path(path)
    with told("read", source):
        try:
            with source.open("rb") as file, np.load(file, allow_pickle=False) as found:
                if not isinstance(found, np.lib.npyio.NpzFile):
                    raise FalllineError(f"'{source}' holds one array; save X and y together with numpy.savez.")
                arrays = {name: found[name] for name in found.files}
        except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
            if isinstance(error, FalllineError):
                raise
            if "pickle" in str(error).lower() and zipfile.is_zipfile(source):
                raise FalllineError(
                    f"'{source}' holds Python objects, which could run code when loaded; save plain numbers or text."
                ) from error
            raise FalllineError(f"'{source}' is not an npz file, or it was cut short.") from error
    return pairs_of(arrays, str(source))


def pairs_of(arrays: dict[str, np.ndarray], where: str) -> dict[str, Any]:
    """Arrays paired by their names."""
    lower = {name.lower(): array for name, array in arrays.items()}
    parts: dict[str, Any] = {}
    for part, words in _PARTS.items():
        for word in words:
            if f"x_{word}" in lower:
                parts[part] = (lower[f"x_{word}"], lower.get(f"y_{word}"))
    if "train" in parts:
        return parts
    for x, y in PAIRS:
        if x in arrays and y in arrays:
            return {"all": (arrays[x], arrays[y])}
    for x in ("X", "x", "data", "features", "images"):
        if x in arrays:
            return {"all": (arrays[x], None)}
    listed = ", ".join(arrays) or "none"
    raise FalllineError(f"'{where}' must hold arrays X and y, or x_train, y_train, x_test and y_test, but it holds {listed}.")
