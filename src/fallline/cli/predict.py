"""`fallline predict`: the rows of a new file through a saved model."""

import io
import json as json_
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from fallline._core.errors import FalllineError, refuse
from fallline._core.files import write_bytes
from fallline.cli import options as o
from fallline.cli.terminal import Voice, plain


def predict(
    run: Annotated[str, Parameter(help="folder of a run, as `fallline train` printed it")],
    data: Annotated[str, Parameter(help="file with the columns that the model was trained on; the target may be missing")],
    /,
    *,
    out: Annotated[str | None, o.text("CSV, Parquet or JSON by its suffix; printed as CSV unless given", o.RUN)] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Predict the rows of a file: classes with their probabilities, or numbers with an interval that held 90 % of the validation rows."""
    if out is not None and Path(out).suffix.lower() not in _WRITERS:
        refuse(f"--out ends in one of {', '.join(_WRITERS)}", repr(out), "predictions.csv is usual")
    from fallline.api.fit import load_run
    from fallline.data import read

    voice = Voice(quiet=quiet, as_json=json)
    trained = load_run(run)
    if trained.pipeline is None:
        raise FalllineError(f"the run '{run}' was trained on rows in memory, without preprocessing; predict with it from Python.")
    x, _, table = read(data, trained.pipeline)
    frame = beside(_identifiers(trained.pipeline, table), trained.predict_ready(x).to_frame())
    if out is not None:
        write_bytes(out, _WRITERS[Path(out).suffix.lower()](frame))
        voice.say(f"{frame.height} predictions in {out}")
        voice.json({"rows": frame.height, "columns": frame.columns, "out": out})
    elif json:
        voice.json({"rows": frame.height, "columns": frame.columns, "predictions": frame.to_dicts()})
    elif not quiet:
        print(frame.write_csv(), end="")
    return 0


def _identifiers(pipeline: Any, table: Any) -> Any:
    """The columns that tell rows apart: those that were left out of the training as identifiers, or the names of picture files."""
    if table is None:
        return None
    left_out = getattr(pipeline.prepare, "left_out", {})
    names = [name for name in table.columns if "identifier" in left_out.get(name, "")]
    return table.select(names or [name for name in table.columns if name == "file" and not left_out])


def beside(left: Any, right: Any) -> Any:
    """Two tables side by side; a name that both have is called `NAME (input)` on the left."""
    import polars as pl

    if left is None or not left.width:
        return right
    return pl.concat([left.rename({name: f"{name} (input)" for name in left.columns if name in right.columns}), right], how="horizontal")


def _csv(frame: Any) -> bytes:
    return frame.write_csv().encode()


def _json(frame: Any) -> bytes:
    return (json_.dumps(plain(frame.to_dicts()), indent=1, ensure_ascii=False) + "\n").encode()


def _parquet(frame: Any) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


_WRITERS = {".csv": _csv, ".parquet": _parquet, ".json": _json}
