"""`fallline report`: the interactive page of a run, of a comparison, of a table or of a search."""

from typing import Annotated

from cyclopts import Parameter

from fallline.cli import options as o
from fallline.cli.terminal import Voice


def report(
    run: Annotated[str, Parameter(help="folder of a run, of a comparison, of a table or of a search")],
    /,
    *,
    out: Annotated[str | None, o.text("file to write; RUN/report.html unless given", o.RUN)] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Write one self-contained page: curves, table, data and model summary, and the settings to repeat it."""
    from pathlib import Path

    from fallline import record
    from fallline.report import run_page, study_page, table_page, tune_page, write

    voice = Voice(quiet=quiet, as_json=json)
    reader = record.open_run(run)
    page = {"study": study_page, "table": table_page, "search": tune_page}.get(str(reader.info.get("kind")), run_page)(reader)
    path = Path(out) if out else Path(run) / "report.html"
    write(page, path)
    voice.say(f"report: {path}")
    voice.json({"report": str(path)})
    return 0
