"""Errors that a user can act on: what must hold, what came, what to do.

Every refusal of fallline is a `FalllineError`, which is a `ValueError`. The command line prints its text as one sentence and exits
with 2; it never shows a traceback for one.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import NoReturn, TypeVar

T = TypeVar("T")


class FalllineError(ValueError):
    """Wrong use or broken input, in one sentence that says what to do next."""


class FalllineTypeError(FalllineError, TypeError):
    """Wrong use that torch and Python report as a TypeError: so `except TypeError` catches it too."""


class FalllineWarning(UserWarning):
    """Something that runs, and that is worth knowing before the result is trusted."""


def refuse(law: str, got: object, advice: str = "", *, where: str = "") -> NoReturn:
    """Raise the error that states the law, the value that broke it, and the way out.

    >>> refuse("margin > 0", -0.2, "0.2 is usual", where="Triplet")
    Traceback (most recent call last):
        ...
    fallline._core.errors.FalllineError: `margin > 0` must hold for Triplet, but got -0.2; 0.2 is usual.
    """
    place = f" for {where}" if where else ""
    tail = f"; {advice}" if advice else ""
    raise FalllineError(f"`{law}` must hold{place}, but got {got}{tail}.")


def must(holds: bool, law: str, got: object, advice: str = "", *, where: str = "") -> None:
    """Refuse unless `holds`; see `refuse`."""
    if not holds:
        refuse(law, got, advice, where=where)


def nearest(name: str, known: Iterable[str], most: int = 3, *, alike: float = 0.5) -> list[str]:
    """The known names that look most like `name`, best first.

    >>> nearest("adma", ["adam", "sgd"])
    ['adam']
    """
    return difflib.get_close_matches(name.lower(), list(known), n=most, cutoff=alike)


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """`table[name]`, or an error that offers the nearest names and lists what there is.

    >>> lookup("optimizer", "adma", {"adam": 1})
    Traceback (most recent call last):
        ...
    fallline._core.errors.FalllineError: there is no optimizer 'adma'; did you mean 'adam'? Known: adam.
    """
    if name in table:
        return table[name]
    close = nearest(name, table)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? Known" if close else "known"
    raise FalllineError(f"there is no {kind} {name!r}; {hint}: {', '.join(sorted(table))}.")
