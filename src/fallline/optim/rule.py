"""An update rule, written once: scalar arithmetic for one element, and what the arithmetic needs.

    text(p, g, state..., scalars..., *, flags...) -> (p, state...)

`p` is the parameter, `g` its gradient. State names are torch.optim's, so that its checkpoints load. Scalars are numbers that do not
depend on the element (bias corrections, scheduled rates): `prepare` computes them once a step, in double precision. Flags are
structure, not numbers: each combination in use is a kernel of its own, with the other branches gone.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

Group = Mapping[str, Any]
Scalars = tuple[float, ...]


@dataclass(frozen=True)
class State:
    """One tensor of state per parameter: its name, the flag that it needs, the group's key of its first value."""

    name: str
    when: str | None = None
    initial: str | None = None


@dataclass(frozen=True, eq=False)
class Rule:
    """The text of a rule with its signature taken apart."""

    text: FunctionType
    state: tuple[State, ...]
    prepare: Callable[[Group, int], Scalars]
    flags_of: Callable[[Group], dict[str, bool]]
    derived: Mapping[str, Callable[[Group, int], float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The rule's name: that of its function."""
        return self.text.__name__

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the numbers that `prepare` returns, in order."""
        return signature(self.text)[0][2 + len(self.state) :]

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the structural switches."""
        return signature(self.text)[1]

    def active(self, flags: Mapping[str, bool]) -> tuple[State, ...]:
        """The state that exists under these flags."""
        return tuple(s for s in self.state if s.when is None or flags[s.when])


def signature(text: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Positional and keyword-only parameter names of a text."""
    parameters = inspect.signature(text).parameters.values()
    positional = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    return positional, tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def no_flags(group: Group) -> dict[str, bool]:
    """For rules of one structure only."""
    del group
    return {}


def rule(
    *,
    state: tuple[State | str, ...] = (),
    prepare: Callable[[Group, int], Scalars],
    flags: Callable[[Group], dict[str, bool]] = no_flags,
    derived: Mapping[str, Callable[[Group, int], float]] | None = None,
) -> Callable[[Callable[..., Any]], Rule]:
    """Declare a function as the text of an update rule."""

    def declare(text: Callable[..., Any]) -> Rule:
        assert isinstance(text, FunctionType)
        states = tuple(State(s) if isinstance(s, str) else s for s in state)
        made = Rule(text, states, prepare, flags, dict(derived or {}))
        named = signature(text)[0][2 : 2 + len(states)]
        if named != tuple(s.name for s in states):
            raise TypeError(f"the state of {made.name} is declared as {[s.name for s in states]}, but its text takes {list(named)}")
        clash = set(signature(prelude)[0]) & set(made.scalars)
        if clash:
            raise TypeError(f"{made.name} uses names of the prelude for numbers of its own: {sorted(clash)}")
        return made

    return declare


def prelude(p, g, scale, l2, keep, *, maximize, clips, decays, shrinks):
    """What may come before any rule: ascent, clipping by the global norm, L2 in the gradient, decoupled decay."""
    if maximize:
        g = -g
    if clips:
        g = scale * g
    if decays:
        g = g + l2 * p
    if shrinks:
        p = keep * p
    return p, g
