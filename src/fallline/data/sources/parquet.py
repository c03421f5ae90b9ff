"""Parquet files, by polars."""

import os
from pathlib import Path

import polars as pl

from fallline._core.errors import FalllineError
from fallline._core.files import told


def read_parquet(path: "str | os.PathLike[str]") -> pl.DataFrame:
    """The table.

    Raises:
        FalllineError: no such file, or it is no Parquet.
    """
    with told("read", Path(path)):
        content = Path(path).read_bytes()
    if content[:4] != b"PAR1" or content[-4:] != b"PAR1":
        raise FalllineError(f"'{path}' is not a Parquet file, or it was cut short.")
    try:
        return pl.read_parquet(content)
    except pl.exceptions.PolarsError as error:
        raise FalllineError(f"'{path}' cannot be read as Parquet: {str(error).splitlines()[0]}.") from error
