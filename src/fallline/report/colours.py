"""The colours of a report, declared once for the page (light and dark) and for still pictures.

An optimizer keeps its colour in every report. Two series that a colour-blind reader might mix up differ in their dash (tested).
"""

from collections.abc import Iterable
from typing import NamedTuple


class Slot(NamedTuple):
    """How one series is drawn: its colour on light and on dark ground, and its dash."""

    light: str
    dark: str
    dash: str


SLOTS = (
    Slot("#6e7781", "#a3adb8", "solid"),
    Slot("#b07500", "#e0a83a", "solid"),
    Slot("#cf4a12", "#f58b5a", "dashdot"),
    Slot("#0a8a6c", "#3fc9a4", "dash"),
    Slot("#5c8f22", "#a3cf62", "dash"),
    Slot("#0b87c9", "#5bb8f0", "solid"),
    Slot("#3346c4", "#8f9dff", "solid"),
    Slot("#9337b0", "#d48ceb", "dot"),
    Slot("#c42878", "#f582b8", "dot"),
    Slot("#0b6f80", "#52c3d3", "dashdot"),
    Slot("#85572a", "#cb9d6c", "dash"),
    Slot("#1f2937", "#e8ebef", "dash"),
)
_HOME = {
    "sgd": 0, "momentum": 1, "nesterov": 2, "adagrad": 3, "adadelta": 4, "rmsprop": 5, "adam": 6, "nadam": 7, "adamax": 8, "adamw": 9,
}  # fmt: skip

LIGHT = {
    "ground": "#fcfcfb",
    "surface": "#ffffff",
    "sunken": "#f3f4f4",
    "ink": "#16191d",
    "soft": "#565e68",
    "faint": "#7b838d",
    "line": "#e3e5e8",
    "grid": "#eceef0",
    "accent": "#1f5fd0",
    "train": "#8a93a0",
    "batch": "#b9c0c9",
    "validation": "#1f5fd0",
    "test": "#0a8a6c",
    "good": "#0a7d55",
    "warn": "#9a5b00",
    "bad": "#b3261e",
    "heat": "#1f5fd0",
}
DARK = {
    "ground": "#0f1215",
    "surface": "#15191d",
    "sunken": "#1c2126",
    "ink": "#e9ecef",
    "soft": "#a7b0ba",
    "faint": "#818b96",
    "line": "#2a3037",
    "grid": "#22282e",
    "accent": "#7aa8ff",
    "train": "#8b96a3",
    "batch": "#4c5661",
    "validation": "#7aa8ff",
    "test": "#3fc9a4",
    "good": "#4cc493",
    "warn": "#e6a947",
    "bad": "#ff8a80",
    "heat": "#7aa8ff",
}
_ROLES = frozenset({"train", "batch", "validation", "test", "ink", "soft", "faint", "accent"})


def base_name(series: str) -> str:
    """The optimizer in a series' name.

    >>> base_name("rmsprop:like=keras"), base_name("adam, batch 64")
    ('rmsprop', 'adam')
    """
    return series.split(",", maxsplit=1)[0].split(":", maxsplit=1)[0].strip().lower()


def assign(series: Iterable[str]) -> dict[str, str]:
    """A colour token for each series: its own for what fallline knows, the free ones, in order, for the rest.

    >>> assign(["adam", "sgd", "mine"])
    {'adam': 's6', 'sgd': 's0', 'mine': 's10'}
    """
    names = list(dict.fromkeys(series))
    taken: set[int] = set()
    out: dict[str, str] = {}
    for name in names:
        home = _HOME.get(base_name(name))
        if name in _ROLES:
            out[name] = name
        elif home is not None and home not in taken:
            out[name] = f"s{home}"
            taken.add(home)
    free = [i for i in (10, 11, *range(10)) if i not in taken]
    for n, name in enumerate(name for name in names if name not in out):
        slot = free[n % len(free)] if free else n % len(SLOTS)
        out[name] = f"s{slot}"
    return {name: out[name] for name in names}


def dash(token: str) -> str:
    """The dash of a colour token.

    >>> dash("s3"), dash("train")
    ('dash', 'solid')
    """
    return SLOTS[int(token[1:])].dash if token[:1] == "s" and token[1:].isdigit() else "solid"


def light(token: str) -> str:
    """The colour of a token on light ground, for still pictures.

    >>> light("s0"), light("ink")
    ('#6e7781', '#16191d')
    """
    return SLOTS[int(token[1:])].light if token[:1] == "s" and token[1:].isdigit() else LIGHT[token]


def css() -> str:
    """The custom properties of both themes, as CSS; print is always light."""

    def block(table: dict[str, str], index: int) -> str:
        pairs = [*table.items(), *((f"s{n}", slot[index]) for n, slot in enumerate(SLOTS))]
        return ";".join(f"--{name}:{value}" for name, value in pairs)

    day, night = block(LIGHT, 0), block(DARK, 1)
    return (
        f":root{{color-scheme:light;{day}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{night}}}}}"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{night}}}}}"
    )
