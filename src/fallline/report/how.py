"""What is known, in the study's own sentence, and how the study came to it: tuning, seeds, blocks, what chooses and what reports."""

import math
import re
from typing import Any, NamedTuple

from fallline import record
from fallline.report.about import first
from fallline.report.figures.intervals import main_metric
from fallline.report.figures.members import rows
from fallline.report.figures.shapes import numbers
from fallline.report.figures.source import Source, dicts, dig
from fallline.report.words import count, label, listed, number, seconds

LONGEST = 3000
ROOM = 900  # letters of all lines there
LONG = 360  # letters of the sentence that stand in the head of the page; what is beyond is folded
_RESTS = re.compile(r"^(?P<shown>.*\S) \((?P<rests>[^()]*paired by seed.*)\)\.?$", re.DOTALL)


class Known(NamedTuple):
    """The sentence of a study: what is shown, line by line, on what that rests, and what else it says where it is long."""

    shown: list[str]
    rests: str
    more: list[str]


def known(info: Any) -> Known:
    """The verdict of a study: run.json's `result.headline`, `.shown` and `.basis`; of older studies the headline alone, taken apart.

    >>> known({"result": {"headline": "in this order: adam, then sgd", "shown": ["steps: sgd needs more"], "basis": "seed by seed"}})
    Known(shown=['In this order: adam, then sgd.', 'Steps: sgd needs more.'], rests='Seed by seed.', more=[])
    >>> known({"result": {"headline": "in this order: adam, then sgd. Steps: sgd needs more (validation accuracy, paired by seed)"}})
    Known(shown=['In this order: adam, then sgd.', 'Steps: sgd needs more.'], rests='Validation accuracy, paired by seed.', more=[])
    """
    text = dig(info, "result", "headline", default="")
    if not isinstance(text, str) or not text.strip():
        return Known([], "", [])
    found = _RESTS.match(text.strip())
    shown, rests = (found["shown"], found["rests"]) if found else (text.strip(), str(dig(info, "result", "basis", default="")))
    parts = shown.split(". Steps: ", 1)
    lines, more = [], []
    for head, part in zip(("", "Steps: "), parts, strict=False):
        said = part.split("; ")
        kept = max((n for n in range(1, len(said) + 1) if sum(map(len, said[:n])) <= LONG), default=1)
        lines.append(f"{head}{'; '.join(said[:kept])}{_stop(said[kept - 1]) if kept == len(said) else ' …'}")
        more += [f"{head}{words}{_stop(words)}" for words in said[kept:]]
    told = [_whole(line) for line in _strings(dig(info, "result", "shown"))]
    room = max((n for n in range(len(told) + 1) if sum(map(len, [*lines, *told[:n]])) <= ROOM), default=0)
    lines, more = [*lines, *told[:room]], [*more, *told[room:]]
    whole = max((n for n in range(len(more) + 1) if sum(map(len, more[:n])) <= LONGEST), default=0)
    if whole < len(more):
        more = [*more[:whole], f"… and {len(more) - whole} more; run.json holds the whole sentence."]
    names = [str(row.get("cell") or row.get("optimizer")) for row in dicts(info, "result", "table")]
    if not any(lines[0].startswith(name) for name in names):
        lines[0] = f"{lines[0][:1].upper()}{lines[0][1:]}"
    return Known(lines, _whole(rests), more)


def merged(info: Any) -> list[str]:
    """What was changed in what was asked (`config.notes`): duplicates merged, epochs cut; as sentences."""
    return [_whole(note) for note in _strings(first(info, "config.notes"))]


def how(reader: Source) -> list[str]:
    """How the study was run, a sentence a line; what run.json does not say is left out."""
    info, table = reader.info, rows(reader)
    out = [line for line in (_budget(info, table), _trials(reader), _seeds(info), _judged(reader), _blocks(info)) if line]
    asked = set(_strings(first(info, "config.notes")))
    out += [_whole(note) for note in _strings(dig(info, "result", "notes")) if note not in asked]
    budget = numbers([first(info, "config.budget")])[0]
    if math.isfinite(budget):
        out.append(f"The study was given {seconds(budget)}.")
    return list(dict.fromkeys(out))


def _budget(info: Any, table: list[dict[str, Any]]) -> str:
    spent = [int(v) for v in numbers(row.get("trials") for row in table) if math.isfinite(v)]
    if not spent:
        return ""
    if not any(spent):
        return "No learning rate was searched for: each was given."
    few, more = min(spent), max(spent) - min(spent)
    if any("learning rate" in note for note in _strings(dig(info, "result", "notes"))):
        return ""
    if not more:
        return f"The same budget of tuning for each: {count(few, 'trial')} of the learning rate, each a whole training."
    grown = count(sum(v > few for v in spent), "cell")
    words = f"The same plan of tuning for each: {few} trials of the learning rate, each a whole training, and up to {more} more"
    return f"{words} outward while the best stood at the edge of what was tried ({grown} took some)."


def _trials(reader: Source) -> str:
    search = dig(reader.info, "result", "search")
    tried = sum(len(v) for v in search.values() if isinstance(v, list)) if isinstance(search, dict) else 0
    members = numbers([dig(reader.info, "result", "members")])[0]
    parts = [count(tried, "trial")] if tried else []
    parts += [count(members, "member") + " that are compared"] if math.isfinite(members) and members else []
    return f"{listed(parts)} were trained." if parts else ""


def _seeds(info: Any) -> str:
    seeds = first(info, "config.seeds")
    if not isinstance(seeds, list) or not seeds:
        return ""
    search = first(info, "config.search_seed")
    apart = f" The search used seed {number(search)}, which is not compared." if isinstance(search, int) else ""
    one = len(seeds) == 1
    named = f"{'Seed' if one else 'Seeds'} {listed([str(s) for s in seeds])}"
    return f"{named}: each gives every cell the same initial weights and order of rows.{apart}"


def _judged(reader: Source) -> str:
    if not rows(reader):
        return ""
    split, key = main_metric(reader)
    kept = "the last epoch" if first(reader.info, "config.settings.keep", "config.keep") == "last" else "the epoch of least validation loss"
    better = "higher" if record.key(key).better != "lower" else "lower"
    tested = any(math.isfinite(v) for v in numbers(row.get("test_mean") for row in rows(reader)))
    report = " Test rows were looked at once and only report." if tested else ""
    return f"{split.capitalize()} {label(key)} ({better} is better) chooses and ranks, at the weights of {kept}.{report}"


def _blocks(info: Any) -> str:
    """How many blocks members were trained in, from a number, sizes, or blocks as mappings.

    >>> _blocks({"result": {"blocks": [64, 64, 7]}})
    'The trainings were run as 3 populations of 7 to 64 members, each as one program.'
    """
    raw = dig(info, "result", "blocks")
    if isinstance(raw, dict):
        raw = list(raw.values())
    if not isinstance(raw, list) or not raw:
        return ""
    sizes = []
    for block in raw:
        held = next((block[k] for k in ("members", "size", "runs") if k in block), None) if isinstance(block, dict) else block
        size = float(len(held)) if isinstance(held, list) else numbers([held])[0]
        if math.isfinite(size):
            sizes.append(int(size))
    if not sizes or max(sizes) < 2:
        return ""
    span = f"{max(sizes)} members" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)} members"
    return f"The trainings were run as {count(len(sizes), 'population')} of {span}, each as one program."


def _strings(raw: Any) -> list[str]:
    return [str(item) for item in raw if isinstance(item, str) and item.strip()] if isinstance(raw, list | tuple) else []


def _stop(text: str) -> str:
    return "" if not text or text[-1] in ".!?" else "."


def _whole(text: str) -> str:
    """A sentence with a capital and a full stop; names at its beginning keep their letters only where they stand later."""
    return f"{text[:1].upper()}{text[1:]}{_stop(text)}"
