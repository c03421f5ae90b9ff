"""Batch size against epochs on Fashion-MNIST as it was published: test accuracy of one run a cell, without intervals.

784-256-10 with ReLU and softmax, cross-entropy, RMSprop in Keras' form at a rate of 0.001, all 60,000 training pictures scaled to 0..1,
the 10,000 official test pictures. A single run a cell: what it says of a difference is shown by a table over seeds only.
"""

import math
from typing import TYPE_CHECKING, Any

from fallline.training import Settings

if TYPE_CHECKING:
    from fallline.data import Data

PUBLISHED: dict[Any, dict[int, float]] = {
    32: {5: 0.877, 10: 0.874, 15: 0.879},
    64: {5: 0.877, 10: 0.864, 15: 0.877},
    128: {5: 0.864, 10: 0.885, 15: 0.882},
    "full": {5: 0.596, 10: 0.6875, 15: 0.6985},
}
ROOM = 0.01  # a published run lies beside an interval of a mean: so much is added at both ends before it is held against it
_FREE = frozenset(
    {"batch_size", "epochs", "seed", "keep", "engine", "device", "checkpoint_seconds", "min_change", "loss", "optimizer", "lr"}
)


def published(data: "Data", model: Any, settings: Settings, metric: str) -> dict[Any, dict[int, float]]:
    """The published cells, by batch size and epochs; {} where set, network, optimizer or anything else is another.

    Args:
        data: rows.
        model: what the user gave.
        settings: of every member.
        metric: of the table.
    """
    rows = (len(data.train), len(data.test)) == (60_000, 10_000)
    same_set = data.name == "fashion_mnist" and rows and (float(data.train.x.min()), float(data.train.x.max())) == (0.0, 1.0)
    usual = Settings(lr=0.001).to_json()
    plain = all(usual[name] == value for name, value in settings.to_json().items() if name not in _FREE)
    network = isinstance(model, str) and model.strip() == "mlp:256"
    loss = settings.loss in ("auto", "cross_entropy")
    return PUBLISHED if same_set and plain and network and loss and metric == "accuracy" and _keras(settings) else {}


def within(value: float, low: float | None, high: float | None) -> bool | None:
    """Whether a published value lies in the interval, widened by one point at both ends; None where there is no interval.

    >>> within(0.877, 0.880, 0.885), within(0.864, 0.880, 0.885), within(0.864, None, None)
    (True, False, None)
    """
    return None if low is None or high is None else low - ROOM <= value <= high + ROOM


def _keras(settings: Settings) -> bool:
    name, _, tail = settings.optimizer.partition(":")
    options: dict[str, str] = {}
    for part in filter(str.strip, tail.split(",")):
        key, _, value = part.strip().partition("=")
        options[key] = value
    usual = {"alpha": 0.9, "eps": 1e-7, "lr": 0.001}
    try:
        same = all(math.isclose(float(value), usual[key]) for key, value in options.items() if key != "like")
    except (KeyError, ValueError):
        return False
    return name.strip() == "rmsprop" and options.get("like") == "keras" and same and settings.lr == 0.001
