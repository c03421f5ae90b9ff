"""Why a command could not go on, as one sentence; anything that is not the user's to mend stays an exception."""

import errno
import re
import sys

from cyclopts import CycloptsError, UnusedCliTokensError

from fallline._core.errors import FalllineError
from fallline.cli.terminal import colour

_DISK = {
    errno.ENOSPC: "the disk is full; free some space, or choose another folder with --out",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another folder with --out",
    errno.EROFS: "the file system is read-only; choose another folder with --out",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
}


def sentence_of(error: BaseException) -> str | None:
    """The sentence for a failure that a user can mend, or None for a bug.

    >>> sentence_of(FalllineError("there is no file 'x.csv'."))
    "there is no file 'x.csv'."
    >>> sentence_of(ZeroDivisionError()) is None
    True
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, FalllineError):
            return one_line(str(seen))
        seen = seen.__cause__
    if isinstance(error, UnusedCliTokensError):
        rest = " ".join(error.unused_tokens or [])
        return f"there is one word too many: {rest!r}; a name with spaces wants quotes, and a value its option in front."
    if isinstance(error, CycloptsError):
        error.verbose = False
        return one_line(_joined(str(error)))
    if isinstance(error, OSError) and error.errno in _DISK:
        place = f" '{error.filename}'" if error.filename else ""
        return f"cannot read or write{place}: {_DISK[error.errno]}."
    if _is_memory(error):
        return "there is not enough memory for this model and batch; a smaller --batch-size or --model needs less."
    if type(error).__module__ == "sqlite3" and re.search("disk is full|readonly|unable to open|disk I/O", str(error)):
        return f"the record of the run cannot be written: {error}; choose another folder with --out."
    return None


def tell(line: str) -> None:
    """`error: ...` on standard error, its first word in red where colour is wanted."""
    kind, _, rest = line.partition(" ")
    print(colour(kind, "31;1", sys.stderr), rest, file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """`text` without line breaks, ending in a full stop."""
    flat = " ".join(text.split())
    return flat if flat.endswith((".", "?", "!")) else f"{flat}."


def _joined(text: str) -> str:
    """The parser's two sentences as one: `Unknown option: --epoch; did you mean --epochs?`."""
    text = re.sub(r"\. (Did you mean|Choose from|Available|Must)", lambda m: f"; {m[1][0].lower()}{m[1][1:]}", text.strip())
    return text[:1].lower() + text[1:]


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "can't allocate memory" in str(error)
