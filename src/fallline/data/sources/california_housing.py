"""California housing: 20,640 districts of the census of 1990, their median house value in dollars.

Source: Pace & Barry, "Sparse spatial autoregressions", Statistics & Probability Letters 33 (1997); this copy, with `ocean_proximity` and
missing `total_bedrooms`, is that of https://github.com/ageron/handson-ml2 (Apache-2.0).
"""

import os

from fallline.data.raw import Raw
from fallline.data.sources.csv_ import read_csv
from fallline.data.sources.place import find_or_refuse

_FILE = "california-housing.csv"


def read_california_housing(folder: "str | os.PathLike[str] | None") -> Raw:
    """The table, target `median_house_value`."""
    place = find_or_refuse("california-housing", (_FILE,), folder, "https://github.com/ageron/handson-ml2 (datasets/housing)")
    table, notes = read_csv(place / _FILE)
    notes.append("`median_house_value` is capped at 500001 in the source: 965 districts stand at the cap")
    return Raw(
        "california_housing", "table", table, target="median_house_value", task="regression", recipe="california_housing", notes=notes
    )
