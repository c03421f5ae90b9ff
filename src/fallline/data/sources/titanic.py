"""Titanic: 891 passengers, who of them survived. The companion test file has no labels, so it is not used.

Source: https://github.com/ageron/handson-ml2 (datasets/titanic, Apache-2.0), after Kaggle's "Titanic: machine learning from disaster".
"""

import os

from fallline.data.raw import Raw
from fallline.data.sources.csv_ import read_csv
from fallline.data.sources.place import find_or_refuse

_FILE = "titanic-train.csv"


def read_titanic(folder: "str | os.PathLike[str] | None") -> Raw:
    """The labelled table, target `Survived`."""
    place = find_or_refuse("titanic", (_FILE,), folder, "https://github.com/ageron/handson-ml2 (datasets/titanic)")
    table, notes = read_csv(place / _FILE)
    return Raw("titanic", "table", table, target="Survived", recipe="titanic", notes=notes)
