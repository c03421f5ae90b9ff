"""Constant: the base learning rate, all the way.

    η(t) = η

When to use: to compare optimizers, and for short runs.
When not: the last percent of accuracy; let the rate fall at the end.
Source: Robbins & Monro, "A Stochastic Approximation Method", Annals of Mathematical Statistics, 1951 (why it must fall in the end).
"""

from fallline.optim.schedules._schedule import Schedule


def constant() -> Schedule:
    """Multiplier 1 at every step.

    >>> constant()(100)
    1.0
    """
    return Schedule("constant", lambda _: 1.0)
