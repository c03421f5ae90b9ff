"""`fallline report`: the interactive page of a run or of a comparison."""

from typing import Annotated

from cyclopts import Parameter

from fallline.cli import options as o
from fallline.cli.terminal import Voice


def report(
    run: Annotated[str, Parameter(help="folder of a run or of a comparison")],
    /,
    *,
    out: Annotated[str | None, o.text("file to write; RUN/report.html unless given", o.RUN)] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Write one self-contained page: curves, table, data and model summary, and the settings to repeat it."""
    from pathlib import Path

    from fallline import record
    from fallline.report import run_page, study_page, write

    voice = Voice(quiet=quiet, as_json=json)
    reader = record.open_run(run)
    page = study_page(reader) if reader.info.get("kind") == "study" else run_page(reader)
    path = Path(out) if out else Path(run) / "report.html"
    write(page, path)
    voice.say(f"report: {path}")
    voice.json({"report": str(path)})
    return 0
