"""`run.json`: what a run is, in words and settings; read and written whole."""

import datetime
import json
from pathlib import Path
from typing import Any

from fallline._core.errors import FalllineError, must
from fallline._core.files import read_json, write_json
from fallline.record.layout import CHECKPOINT_FILE, FORMAT, KINDS, RUN_FILE, STATUSES, VERSION


def new_info(kind: str = "run", **parts: Any) -> dict[str, Any]:
    """A fresh description: format, version, kind, status "running", time of creation (UTC), and `parts`."""
    must(kind in KINDS, f"kind in {KINDS}", repr(kind), where="a run folder")
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"format": FORMAT, "version": VERSION, "kind": kind, "status": "running", "created": created, **parts}


def read_info(folder: Path | str) -> dict[str, Any]:
    """The description of a run folder.

    Raises:
        FalllineError: the folder is missing, holds no run, or its `run.json` is damaged, foreign or from a newer version.
    """
    place = Path(folder)
    if not place.is_dir():
        what = "is a file, not a run folder" if place.exists() else "does not exist"
        raise FalllineError(f"'{place}' {what}; give the folder that `fallline train --out` or `compare --out` wrote.")
    path = place / RUN_FILE
    if not path.is_file():
        raise FalllineError(f"'{place}' holds no run: there is no {RUN_FILE} in it; give the folder that a run wrote.")
    info = read_json(path, "run description")
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise FalllineError(f"'{path}' was not written by fallline: its format is not '{FORMAT}'.")
    if not isinstance(info.get("version"), int) or info["version"] > VERSION:
        raise FalllineError(f"'{path}' has version {info.get('version')}, but this fallline reads up to {VERSION}; upgrade fallline.")
    if info.get("kind") not in KINDS or info.get("status") not in STATUSES:
        raise FalllineError(f"'{path}' is damaged: kind {info.get('kind')!r} and status {info.get('status')!r} are not known.")
    return info


def write_info(folder: Path | str, info: dict[str, Any]) -> None:
    """Write `run.json` whole, or leave the old one as it was."""
    must(info.get("status") in STATUSES, f"status in {STATUSES}", repr(info.get("status")), where=RUN_FILE)
    json.dumps(info)
    write_json(Path(folder) / RUN_FILE, info)


def holds_run(folder: Path | str) -> bool:
    """Whether the folder already holds a run, whole or not."""
    place = Path(folder)
    return any((place / name).exists() for name in (RUN_FILE, CHECKPOINT_FILE))
