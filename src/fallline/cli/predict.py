"""`fallline predict`: the rows of a new file through a saved model."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fallline.cli import options as o
from fallline.cli.terminal import Voice


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
    from fallline.api.fit import load_run

    voice = Voice(quiet=quiet, as_json=json)
    predictions = load_run(run).predict(data)
    frame = predictions.to_frame()
    if out is not None:
        predictions.write(Path(out))
        voice.say(f"{frame.height} predictions in {out}")
        voice.json({"rows": frame.height, "columns": frame.columns, "out": out})
    elif json:
        voice.json({"rows": frame.height, "columns": frame.columns, "predictions": frame.to_dicts()})
    elif not quiet:
        print(frame.write_csv(), end="")
    return 0
