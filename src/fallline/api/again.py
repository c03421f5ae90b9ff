"""Go on with what a folder holds: the same model, loss and rows as before, read from it or given again; and say how a sitting ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fallline._core.errors import FalllineError, must
from fallline.api.fit import interruptible, load_data
from fallline.record import Writer

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.study.runner import Runner

    Read = Callable[[Any, str | None], Data]


def _read(data: Any, target: str | None) -> "Data":
    return load_data(data, target, 0)


def same_model(info: dict[str, Any], what: str, model: Any, *, usual: Any, option: str) -> Any:
    """The model's spec where the folder knows it, else the model that is given again.

    Args:
        info: what `run.json` holds.
        what: the folder's kind, in a sentence: "study", "table".
        model: as the call has it.
        usual: the call's default, which says nothing.
        option: the name of the call's argument.

    Raises:
        FalllineError: another model than before, or none where the first was an object in memory.
    """
    spec = info["model"].get("spec")
    must(spec is None or model in (usual, spec), f"the model is that of the {what}, {spec}", repr(model), "leave it out", where="resume")
    if spec is None and isinstance(model, str):
        raise FalllineError(f"this {what} was given a model in memory ({info['model'].get('class')}); pass the same again: {option}=...")
    return model if spec is None else spec


def check_loss_given(info: dict[str, Any], what: str, loss: Any) -> None:
    """Refuse a loss object that the folder does not ask for, and the lack of one that it does."""
    held = bool(info["loss"].get("in_memory"))
    must(loss is None or held, f"the loss is that of the {what}", "a loss object", "leave it out", where="resume")
    if loss is None and held:
        raise FalllineError(f"this {what} was given a loss object ({info['loss']['name']}); pass the same again: loss=...")


def same_rows(info: dict[str, Any], what: str, data: Any, folder: Path, read: "Read" = _read) -> "Data":
    """The rows of the folder, loaded again where they have a source; rows that are given must be the same.

    Args:
        info: what `run.json` holds.
        what: the folder's kind, in a sentence.
        data: as the call has it; None: those of the source.
        folder: in a sentence.
        read: makes rows of an object and the name of its target column.

    Raises:
        FalllineError: other rows, or none where the first were in memory.
    """
    source = info["data"].get("source") or {}
    if data is None or (isinstance(data, str) and source):
        from fallline.data import load

        must(bool(source), f"data is given where the {what} had it in memory", "none", "pass the same again: data=...", where="resume")
        try:
            rows = load(**(source if data is None else {**source, "source": data}))
        except FalllineError as error:
            if data in (None, source["source"]):
                raise
            raise FalllineError(
                f"the {what} '{folder}' was run on {source['source']}, and {data} cannot take its place: {error}"
            ) from error
    else:
        rows = read(data, info["data"].get("target"))
    if rows.fingerprint != info["data"].get("fingerprint"):
        raise FalllineError(f"the {what} '{folder}' was run on other rows; load the same data with the same seed and options.")
    return rows


@contextmanager
def sitting(writer: Writer, stop: Callable[[], bool] | None, runner: "Runner | None" = None) -> Iterator[Callable[[], bool]]:
    """Within: what tells whether the user asked to stop. An error marks the record as failed and closes it; a runner is closed always."""
    with interruptible(stop) as asked:
        try:
            yield asked
        except Exception:
            writer.describe(status="failed")
            writer.close()
            raise
        finally:
            if runner is not None:
                runner.close()
