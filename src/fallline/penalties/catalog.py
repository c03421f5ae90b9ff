"""The penalties by name."""

import sys
from collections.abc import Callable

from torch import Tensor

from fallline._core.entry import Entry, entry
from fallline._core.errors import lookup
from fallline.penalties.elastic import elastic
from fallline.penalties.l1 import l1
from fallline.penalties.l2 import l2

PENALTIES: dict[str, Callable[..., Tensor]] = {"l1": l1, "l2": l2, "elastic": elastic}


def describe(name: str) -> Entry:
    """What a penalty says of itself: formula, when to use it, source.

    >>> describe("l2").formula
    'l2 = Σ w²          slope 2 w'
    """
    function = lookup("penalty", name, PENALTIES)
    return entry(name, "penalty", sys.modules[function.__module__].__doc__)
