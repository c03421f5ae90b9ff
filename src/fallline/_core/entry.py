"""What a concept says of itself: name, formula, source, when to use it. Read from its module's docstring, by everyone.

A loss, a rule, an activation, a schedule is one file, whose docstring opens with one sentence, then the formula (indented), then
paragraphs that begin with `When to use:`, `When not:`, `Source:`, `Departs from the source:`. `fallline explain`, the docs and
the report read it here, so that none of them can say anything else.
"""

import re
from dataclasses import dataclass

_HEADS = ("When to use", "When not", "Source", "Departs from the source")


@dataclass(frozen=True)
class Entry:
    """One concept as `explain` shows it."""

    name: str
    family: str
    summary: str
    formula: str
    when: str
    when_not: str
    source: str
    departs: str
    more: str


def entry(name: str, family: str, docstring: str | None) -> Entry:
    """Cut a module's docstring into the parts that `explain` shows.

    >>> entry("mse", "loss", '''Squares.
    ...
    ...     (y - x)^2
    ...
    ... When to use: always.
    ... Source: Gauss, 1809.''').formula
    '(y - x)^2'
    """
    lines = (docstring or "").strip().splitlines()
    parts: dict[str, list[str]] = {"summary": [], "formula": [], "more": [], **{h: [] for h in _HEADS}}
    current = "summary"
    for line in lines:
        head = next((h for h in _HEADS if line.strip().startswith(f"{h}:")), None)
        if head:
            current = head
            parts[head].append(line.strip()[len(head) + 1 :].strip())
        elif not line.strip():
            current = "more" if current in {"summary", "formula", *_HEADS} and current != "formula" else current
            if current == "formula":
                parts["formula"].append("")
        elif re.match(r" {4}", line) and current in {"summary", "more", "formula"} and not parts["Source"] and not parts["When to use"]:
            current = "formula"
            parts["formula"].append(line[4:].rstrip())
        else:
            current = "more" if current == "formula" else current
            parts[current].append(line.strip())
    text = {key: " ".join(value).strip() for key, value in parts.items() if key != "formula"}
    formula = "\n".join(parts["formula"]).strip("\n")
    return Entry(
        name,
        family,
        text["summary"],
        formula,
        text["When to use"],
        text["When not"],
        text["Source"],
        text["Departs from the source"],
        text["more"],
    )
