"""What a command says: words on standard output, progress and warnings on standard error, JSON alone where a program reads.

Colour appears on a terminal only, and never when `NO_COLOR` is set.
"""

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fallline._core.columns import width, wrapped
from fallline._core.errors import FalllineWarning

if TYPE_CHECKING:
    from fallline.data import Data


def colour(text: str, code: str, stream: TextIO) -> str:
    """`text` in an ANSI colour if `stream` is a terminal that wants one."""
    wanted = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{code}m{text}\x1b[0m" if wanted else text


class Voice:
    """What one command may print: everything, nothing (`quiet`), or one JSON document at the end (`as_json`)."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet or as_json
        self.as_json = as_json

    def say(self, text: str = "") -> None:
        """Text for a person; on a terminal long lines are broken between words."""
        if not self.quiet:
            if sys.stdout.isatty():
                most = width()
                text = "\n".join(wrapped(line, most) for line in text.split("\n"))
            print(text, flush=True)

    def study(self, loaded: "Data", folder: Path, command: str) -> None:
        """What a study begins with: its rows, what was done to them, and the folder that `command` goes on with where it is stopped."""
        tested = f", {len(loaded.test)} test rows" if not len(loaded.validation) else ""
        self.head(f"{loaded.name}: {loaded.task}, {len(loaded.train)} training rows{tested}")
        for note in loaded.notes:
            self.say(f"  {note}")
        self.say(f"folder: {folder} (if it is stopped: `fallline {command} --resume {folder}`)")

    def head(self, text: str) -> None:
        """A line that opens a section."""
        self.say(colour(text, "1", sys.stdout))

    def epochs(self, total: int) -> Callable[[int, dict[str, float]], None] | None:
        """What to call after each epoch: a short line where no bar is shown (no terminal), on standard error; at most about 20 lines."""
        if self.quiet or sys.stderr.isatty():
            return None
        every = -(-total // 20)

        def tell(epoch: int, measured: dict[str, float]) -> None:
            if epoch % every and epoch != total:
                return
            shown = [
                f"{split} loss {number(measured[f'{split}/loss'])}" for split in ("train", "validation") if f"{split}/loss" in measured
            ]
            best = next((name for name in ("accuracy", "r2") if f"validation/{name}" in measured), None)
            shown += [f"{best} {number(measured[f'validation/{best}'])}"] if best else []
            print(f"epoch {epoch}/{total}: {', '.join(shown)}", file=sys.stderr, flush=True)

        return tell

    def json(self, document: Any) -> None:
        """The one document for a program, if it asked; NaN and infinity become null."""
        if self.as_json:
            print(json.dumps(plain(document), indent=2, ensure_ascii=False), flush=True)

    def table(self, head: list[str], rows: list[list[str]]) -> None:
        """Columns of text: the first to the left, the others to the right."""
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        for index, row in enumerate([head, *rows]):
            cells = [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
            line = "  ".join(cells).rstrip()
            (self.head if index == 0 else self.say)(line)


def plain(value: Any) -> Any:
    """`value` as strict JSON can hold it.

    >>> plain({"a": float("nan"), "b": (1, 2.5)})
    {'a': None, 'b': [1, 2.5]}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def number(value: Any, digits: int = 4) -> str:
    """A number as a person reads it: `digits` significant digits.

    >>> number(0.98765432), number(None), number(1234567.0), number(0.00001)
    ('0.9877', '-', '1.235e+06', '1e-05')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show fallline's warnings as one line each, without a file name; those of other libraries only where Python was asked to."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, FalllineWarning) or sys.warnoptions:
            print(colour("warning:", "33", sys.stderr), message, file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", FalllineWarning)
        warnings.showwarning = show
        yield
