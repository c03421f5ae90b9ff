"""Every name that a run may record: what it means, in which unit, and which way is better.

A chart, a table and a check read the label and the unit here, so that none of them can say anything else.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Key:
    """One measurable quantity.

    `better` is the direction that a user wants, or None where neither direction is better in itself.
    """

    name: str
    label: str
    unit: str
    better: Literal["lower", "higher"] | None
    doc: str


_ALL = (
    Key("loss", "loss", "the loss's own unit", "lower", "mean loss over the examples, penalties left out"),
    Key("accuracy", "accuracy", "fraction", "higher", "fraction of examples whose most likely class is right"),
    Key(
        "precision",
        "precision",
        "fraction",
        "higher",
        "of the examples called positive, the fraction that are; mean over classes if there are more than two",
    ),
    Key(
        "recall",
        "recall",
        "fraction",
        "higher",
        "of the positive examples, the fraction that was found; mean over classes if there are more than two",
    ),
    Key("f1", "F1", "fraction", "higher", "harmonic mean of precision and recall; mean over classes if there are more than two"),
    Key(
        "roc_auc",
        "ROC AUC",
        "fraction",
        "higher",
        "chance that a positive example scores above a negative one; one class against the rest, averaged",
    ),
    Key("r2", "R²", "fraction of variance", "higher", "1 minus the squared error over the variance of the target"),
    Key("mae", "mean absolute error", "units of the target", "lower", "mean distance between target and prediction"),
    Key(
        "rmse", "root mean squared error", "units of the target", "lower", "root of the mean squared distance between target and prediction"
    ),
    Key("lr", "learning rate", "1", None, "step size of the optimizer at this step, after the schedule"),
    Key("grad_norm", "gradient norm", "loss per unit of parameter", None, "Euclidean norm of the whole gradient, before clipping"),
    Key("seconds_per_step", "time per step", "seconds", "lower", "wall-clock time of an epoch over its steps, validation left out"),
    Key(
        "examples_per_second",
        "speed",
        "examples per second",
        "higher",
        "training examples per second of wall-clock time, validation left out",
    ),
)
KEYS: dict[str, Key] = {key.name: key for key in _ALL}


def key(name: str) -> Key:
    """The `Key` of that name; an unknown name is its own label, without unit or direction.

    >>> key("rmse").better, key("my_score").label
    ('lower', 'my_score')
    """
    return KEYS.get(name, Key(name, name, "1", None, ""))
