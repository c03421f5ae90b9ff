"""Which options a person typed: a default and the same value given by hand mean different things where a run is resumed."""

from collections.abc import Collection, Sequence
from contextvars import ContextVar

from fallline._core.errors import FalllineError

_GIVEN: ContextVar[frozenset[str]] = ContextVar("given", default=frozenset())


def remember(tokens: Sequence[str]) -> None:
    """Take in the words of a command line."""
    _GIVEN.set(frozenset(token.partition("=")[0] for token in tokens if token.startswith("--")))


def given(option: str) -> bool:
    """Whether the option was typed.

    >>> remember(["train", "--epochs=3"])
    >>> given("--epochs"), given("--lr")
    (True, False)
    """
    return option in _GIVEN.get()


def only(allowed: Collection[str], why: str) -> None:
    """Refuse any option beyond those allowed."""
    if extra := sorted(_GIVEN.get() - set(allowed)):
        raise FalllineError(f"{why}; leave out {', '.join(extra)}.")
