"""What run.json tells of the data, the model, the settings and the machine, as rows of words; whatever is absent is left out."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fallline.report.figures.shapes import Table
from fallline.report.figures.source import Source, dig
from fallline.report.words import count, number, seconds

Pairs = list[tuple[str, str]]
_SPLITS = ("train", "validation", "test")
_MOST_CLASSES = 30
_PER_MEMBER = frozenset({"optimizer", "lr", "batch_size", "seed"})
_OFF = frozenset({"l1", "l2", "dropout", "min_change"})


class Class(NamedTuple):
    """One class of the data: its rows and its share of them; `percent` of the largest class, for a bar."""

    name: str
    rows: str
    share: str
    percent: float


class About(NamedTuple):
    """Data and model as the page shows them."""

    data: Pairs
    notes: list[str]
    classes: list[Class]
    columns: Table | None
    model: Pairs
    layers: Table | None
    layer_text: str = ""


class Repeat(NamedTuple):
    """How to do it again."""

    words: str
    command_label: str
    command: str
    python: str
    settings: Pairs
    choices: list[str]
    environment: Pairs


def first(tree: Any, *paths: str, default: Any = None) -> Any:
    """The first of several dotted paths that leads to something.

    >>> first({"a": {"b": 2}}, "x", "a.b")
    2
    """
    for path in paths:
        found = dig(tree, *path.split("."))
        if found is not None:
            return found
    return default


def say(value: Any, depth: int = 0) -> str:
    """Any JSON value in words.

    >>> say(True), say([1, 2]), say({"a": 1}), say(None)
    ('yes', '1, 2', 'a: 1', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value, 6)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {say(v, depth + 1)}" for k, v in list(value.items())[:40])
    if isinstance(value, Sequence) and not isinstance(value, str):
        text = ", ".join(say(v, depth + 1) for v in list(value)[:40])
        return text + (", …" if len(value) > 40 else "")
    return str(value)


def rows_of(info: Any) -> dict[str, int]:
    """Rows of each split, as far as they are told."""
    raw = first(info, "data.summary.rows", "data.rows", default={})
    return {s: int(raw[s]) for s in _SPLITS if isinstance(raw, Mapping) and isinstance(raw.get(s), int | float)}


def data_name(info: Any) -> str:
    """What the data is called."""
    return str(first(info, "data.name", "data.source.source", "config.data", default="the data"))


def class_counts(info: Any) -> dict[str, int]:
    """Rows of each class over all splits; empty where they are not told, or where there are no classes."""
    raw = first(info, "data.summary.class_counts", "data.summary.classes", "data.class_counts", default={})
    if not isinstance(raw, Mapping):
        return {}
    if all(isinstance(v, int | float) for v in raw.values()):
        return {str(k): int(v) for k, v in raw.items()}
    total: dict[str, int] = {}
    for per_split in raw.values():
        if isinstance(per_split, Mapping):
            for name, rows in per_split.items():
                if isinstance(rows, int | float):
                    total[str(name)] = total.get(str(name), 0) + int(rows)
    return total


def about(reader: Source) -> About:
    """Data and model of a run or a study."""
    info = reader.info
    return About(_data(info), _notes(info), _classes(info), _columns(info), _model(info), _layers(info), _layer_text(info))


def _data(info: Any) -> Pairs:
    out: Pairs = [("Name", data_name(info))]
    task = first(info, "data.task", "data.summary.task")
    target = first(info, "data.target", "data.summary.target")
    if task:
        words = {"binary": "two classes", "multiclass": "several classes", "regression": "a number (regression)"}
        out.append(("Task", f"{words.get(str(task), str(task))}{f', target {target}' if target else ''}"))
    rows = rows_of(info)
    if rows:
        out.append(("Rows", ", ".join(f"{number(n)} {'training' if s == 'train' else s}" for s, n in rows.items())))
    counts = class_counts(info)
    if len(counts) > _MOST_CLASSES:
        out.append(("Classes", f"{number(len(counts))}, of {number(min(counts.values()))} to {number(max(counts.values()))} rows each"))
    shape = first(info, "data.input_shape", "data.summary.input_shape", "data.summary.shape")
    if isinstance(shape, list | tuple):
        out.append(("Input", " × ".join(str(v) for v in shape) + (" features" if len(shape) == 1 else "")))
    for key, words in (("target_quantiles", "Target, quantiles"), ("target", "Target"), ("missing", "Missing values")):
        value = first(info, f"data.summary.{key}")
        if isinstance(value, Mapping) and value:
            out.append((words, say(value)))
    mark = first(info, "data.fingerprint", "data.summary.fingerprint")
    if mark:
        out.append(("Fingerprint", str(mark)[:16]))
    return out


def _notes(info: Any) -> list[str]:
    notes = first(info, "data.notes", "data.summary.notes", default=[])
    return [str(n) for n in notes] if isinstance(notes, list) else []


def _classes(info: Any) -> list[Class]:
    counts = class_counts(info)
    if not counts or len(counts) > _MOST_CLASSES:
        return []
    total, most = max(1, sum(counts.values())), max(1, *counts.values())
    return [Class(name, number(n), f"{100 * n / total:.1f} %", round(100 * n / most, 1)) for name, n in counts.items()]


def _columns(info: Any) -> Table | None:
    kinds = first(info, "data.summary.columns", "data.summary.kinds", "data.columns")
    if isinstance(kinds, Mapping) and kinds:
        return Table(["column", "what it is"], [[str(k), say(v)] for k, v in kinds.items()])
    if isinstance(kinds, list) and kinds and isinstance(kinds[0], Mapping):
        heads = list(kinds[0])
        return Table(heads, [[say(row.get(h)) for h in heads] for row in kinds if isinstance(row, Mapping)])
    return None


def model_name(info: Any) -> str:
    """What the model is called."""
    return str(first(info, "model.spec", "model.name", "model.class", "config.model", default="a model"))


def _model(info: Any) -> Pairs:
    out: Pairs = [("Model", model_name(info))]
    n = first(info, "model.parameters", "model.n_parameters")
    if isinstance(n, int | float):
        out.append(("Parameters", number(n)))
    loss = first(info, "loss.name", "loss", "config.loss")
    if loss:
        out.append(("Loss", say(loss)))
    return out


def _layers(info: Any) -> Table | None:
    layers = first(info, "model.layers", default=[])
    if not isinstance(layers, list) or not layers or not all(isinstance(la, Mapping) for la in layers):
        return None
    heads = [h for h in ("name", "type", "kind", "output", "shape", "parameters") if any(h in la for la in layers)]
    return Table(heads, [[say(la.get(h)) if h in la else "" for h in heads] for la in layers])


def _layer_text(info: Any) -> str:
    layers = first(info, "model.layers", default=[])
    return "\n".join(layers) if isinstance(layers, list) and all(isinstance(line, str) for line in layers) else ""


def repeat(info: Any, function: str, words: str) -> Repeat:
    """How to repeat a run ("fit") or a study ("compare")."""
    typed, what = command_of(info)
    chosen = first(info, "choices", default=[])
    choices = [str(c) for c in chosen] if isinstance(chosen, list) else []
    return Repeat(words, what, typed, python_call(info, function), settings(info), choices, environment(info))


def environment(info: Any) -> Pairs:
    """Versions and machine."""
    raw = first(info, "environment", default={})
    out: Pairs = []
    for key, value in raw.items() if isinstance(raw, Mapping) else ():
        if isinstance(value, Mapping):
            out += [(str(k), say(v)) for k, v in value.items()]
        else:
            out.append((str(key).replace("_", " "), say(value)))
    return out


def settings(info: Any) -> Pairs:
    """Everything that was set, defaults included; of a study, the settings that hold for every member."""
    raw = first(info, "config", default={})
    out: Pairs = []
    for key, value in raw.items() if isinstance(raw, Mapping) else ():
        if key == "settings" and isinstance(value, Mapping):
            out += [(str(k).replace("_", " "), say(v)) for k, v in value.items() if k not in _PER_MEMBER]
        elif key == "rates" and isinstance(value, Mapping):
            out += [(f"rates tried first, {k}", say(v)) for k, v in value.items()]
        elif not (key == "auto" and isinstance(value, Mapping)):
            out.append((str(key).replace("_", " "), say(value)))
    return out


def command_of(info: Any) -> tuple[str, str]:
    """The command as it can be typed again, and what it is: a command line of fallline, or the script that called it.

    >>> command_of({"command": "/usr/bin/fallline train iris"})
    ('fallline train iris', 'Command line')
    >>> command_of({"command": "study.py --fast"})
    ('python study.py --fast', 'Script that made this')
    """
    raw = first(info, "command", "config.command", default="")
    words = [str(w) for w in raw] if isinstance(raw, list) else str(raw).split(" ", 1)
    if not words or not words[0]:
        return "", ""
    name, rest = words[0].strip("'").replace("\\", "/").rsplit("/", 1)[-1], words[1:]
    tail = shlex.join(rest) if isinstance(raw, list) else " ".join(rest)
    if name in ("fallline", "fallline.exe"):
        return f"fallline {tail}".strip(), "Command line"
    if name in ("", "-c", "ipykernel_launcher.py", "__main__.py"):
        return "", ""
    return f"{'python ' if name.endswith('.py') else ''}{name} {tail}".strip(), "Script that made this"


def when(info: Any) -> str:
    """When the run was made, to the minute."""
    return str(first(info, "created", default="")).replace("T", " ").replace("+00:00", " UTC").replace(":00 UTC", " UTC")


def took(info: Any) -> str:
    """How long it took, in words; "" where it is not told."""
    span = first(info, "result.seconds", "result.time")
    return seconds(span) if span is not None else ""


def findings(info: Any) -> list[dict[str, str]] | None:
    """The findings of the record: name, severity, words; None where no check was run."""
    raw = first(info, "result.findings", "findings")
    if raw is None:
        return None
    out = []
    for item in raw if isinstance(raw, list) else []:
        if isinstance(item, Mapping):
            severity = str(item.get("severity") or item.get("level") or "")
            tone = {"error": "bad", "warning": "warn"}.get(severity, "")
            words = ". ".join(str(item[k]).rstrip(".") for k in ("where", "evidence", "why", "fix") if item.get(k))
            out.append(
                {"name": " ".join(str(item[k]) for k in ("id", "name") if item.get(k)), "tag": severity, "tone": tone, "words": words}
            )
        else:
            out.append({"name": str(item), "tag": "", "tone": "", "words": ""})
    return out


def python_call(info: Any, function: str) -> str:
    """The Python call that does the same, from the settings that are told; "" where the data has no name to load it by."""
    told = first(info, "python", "result.python")
    if told:
        return str(told)
    source = first(info, "data.source", default={})
    config = first(info, "config", default={})
    if not isinstance(source, Mapping) or not source or not isinstance(config, Mapping):
        return ""
    load = ", ".join([repr(source.get("source", "")), *(f"{k}={v!r}" for k, v in source.items() if k != "source" and v is not None)])
    flat = {**dig(config, "settings", default={}), **{k: v for k, v in config.items() if not isinstance(v, Mapping)}}
    flat.pop("data", None)
    model = flat.pop("model", None) or model_name(info)
    options = [repr(model), "data", *(f"{k}={v!r}" for k, v in flat.items() if not (v is None or v is False or (v == 0 and k in _OFF)))]
    inside = ", ".join(options)
    if len(inside) > 90:
        inside = "\n    " + ",\n    ".join(options) + ",\n"
    return f"import fallline as fl\n\ndata = fl.data.load({load})\nresult = fl.{function}({inside})"


def class_words(grid_classes: Sequence[tuple[str, float]]) -> str:
    r"""Which classes are found worst, in one sentence.

    >>> class_words([("no", 0.9), ("yes", 0.5)]).replace("\N{NO-BREAK SPACE}", " ")
    'yes is found least often (50.0 % of its rows).'
    """
    known = [(recall, name) for name, recall in grid_classes if math.isfinite(recall)]
    if not known:
        return ""
    recall, name = min(known)
    if recall == max(known)[0]:
        return f"Every class is found equally often ({100 * recall:.1f}\N{NO-BREAK SPACE}% of its rows)."
    return f"{name} is found least often ({100 * recall:.1f}\N{NO-BREAK SPACE}% of its rows)."


def data_sentence(info: Any) -> str:
    """The data in half a sentence.

    >>> data_sentence({"data": {"name": "iris", "summary": {"rows": {"train": 105}}}})
    'iris (105 rows to train on)'
    """
    rows = rows_of(info).get("train")
    return data_name(info) + (f" ({count(rows, 'row')} to train on)" if rows else "")
