"""A trained model with all that is known of it: settings, record, metrics, and what it says of new rows."""

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fallline._core.errors import FalllineError, FalllineWarning, must
from fallline._core.files import make_folder
from fallline.api.predict import Predictions
from fallline.record import Reader
from fallline.training import Goal, Settings
from fallline.training.evaluate import outputs
from fallline.training.metrics import labels

if TYPE_CHECKING:
    from fallline.data import Data, Pipeline


class History(dict[str, NDArray[np.float64]]):
    """From "split/key" to one value an epoch, the first epoch first."""

    def table(self) -> list[dict[str, float]]:
        """One row an epoch: {"epoch": 1, "train/loss": ..., ...}; NaN where a quantity has no value then."""
        length = max((len(values) for values in self.values()), default=0)
        return [
            {"epoch": at + 1, **{key: float(values[at]) if at < len(values) else float("nan") for key, values in self.items()}}
            for at in range(length)
        ]


@dataclass
class Run:
    """The result of `fallline.fit`, or a run folder that was loaded.

    Args:
        model: the trained module, on the run's device, with its best weights.
        data: the rows it was trained on; None for a run loaded from its folder.
        settings: all settings, `lr` as the number that was used.
        status: "finished", "interrupted", "diverged" (or what a folder says).
        metrics: split to {name: value} for "train", "validation", "test".
        reader: the record.
        goal: loss, classes, target scale.
        folder: the run folder, or None.
        choices: every default that was chosen, "name: value (why)".
        message: one sentence where the run did not simply finish.
        findings: what the checks found; none are run yet.
        residuals: 5 % and 95 % quantile of the validation residuals, for a regression.
    """

    model: nn.Module
    data: "Data | None"
    settings: Settings
    status: str
    metrics: dict[str, dict[str, float]]
    reader: Reader
    goal: Goal
    folder: Path | None = None
    choices: list[str] = field(default_factory=list)
    message: str = ""
    findings: list[Any] = field(default_factory=list)
    residuals: tuple[float, float] | None = None
    pipeline: "Pipeline | None" = None
    target: str = "target"

    @property
    def history(self) -> History:
        """From "split/key" to one value an epoch, for "train" and "validation"."""
        found = History()
        for key in self.reader.keys():  # noqa: SIM118
            for split in self.reader.splits(key):
                if split not in ("train", "validation"):
                    continue
                series = self.reader.series(key, split)
                whole = (series.epoch > 0) & (series.epoch == np.floor(series.epoch))
                found[f"{split}/{key}"] = series.value[whole]
        return found

    def predict(self, source: Any) -> Predictions:
        """Predictions for new rows.

        Args:
            source: what `fallline.data.load` reads (file, DataFrame, array in the columns of the training rows), run through the
                preprocessing of the training; or a tensor (N, ...) that is ready for the model, as `run.data.test.x` is. A tensor of
                another origin brings a warning where the training prepared an array: rows as they were given to `fit` go in as an array.

        Raises:
            FalllineError: missing columns, or a shape that the model does not take.
        """
        if isinstance(source, Tensor) and self._prepared_arrays() and not self._owns(source):
            warnings.warn(
                "a tensor is taken as rows that are prepared already, as run.data.test.x is; for rows as they were given to fit, "
                "write predict(x.numpy()), which prepares them as in training (predict_ready says that a tensor is prepared).",
                FalllineWarning,
                stacklevel=2,
            )
        return self.predict_ready(self._ready(source))

    def predict_ready(self, rows: Tensor) -> Predictions:
        """Predictions for rows (N, ...) that are ready for the model."""
        made = predictions(self.model, rows, self.goal, target=self.target, residuals=self.residuals)
        known = self.pipeline.raw_labels if self.pipeline is not None else ()
        if (
            known and all(type(label) is int for label in known) and self.goal.classes == tuple(map(str, known))
        ):  # whole numbers come back as they went in
            numbers = dict(zip(self.goal.classes, known, strict=True))
            return replace(made, label=np.array([numbers[name] for name in made.label.tolist()], dtype=np.int64))
        return made

    def _prepared_arrays(self) -> bool:
        """Whether training prepared an array or pictures, so that a tensor may be rows as they were before."""
        return self.pipeline is not None and bool(getattr(self.pipeline.prepare, "plain", True))

    def _owns(self, rows: Tensor) -> bool:
        """Whether these rows are (part of) a split of this run's own data."""
        splits = () if self.data is None else (self.data.train, self.data.validation, self.data.test)
        return any(rows.untyped_storage().data_ptr() == split.x.untyped_storage().data_ptr() for split in splits)

    def _ready(self, source: Any) -> Tensor:
        if isinstance(source, Tensor):
            return source.float()
        if self.pipeline is not None:
            from fallline.data import read

            return read(source, self.pipeline)[0]
        if isinstance(source, (str, Path)):
            raise FalllineError("this run was trained on rows in memory, without preprocessing; give predict an array in place of a file.")
        return torch.as_tensor(np.asarray(source)).float()

    def report(self, path: Path | str | None = None) -> Path:
        """Write the report page; `report.html` in the run folder unless a path is given."""
        must(path is not None or self.folder is not None, "a report has a path", "none", "pass report(path), or fit with out=FOLDER")
        from fallline.report import run_page, write

        target = Path(path) if path is not None else Path(self.folder or ".") / "report.html"
        make_folder(target.parent)
        write(run_page(self.reader), target)
        return target

    def __repr__(self) -> str:
        shown = self.metrics.get("test") or self.metrics.get("validation") or {}
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
        return f"Run({self.status}, {numbers or 'no metrics'}{f', {self.folder}' if self.folder else ''})"


def predictions(
    model: nn.Module, x: Tensor, goal: Goal, *, target: str = "target", residuals: tuple[float, float] | None = None
) -> Predictions:
    """What `model` says of x (N, ...), read by `goal`."""
    try:
        raw = outputs(model, x).cpu()
    except (RuntimeError, TypeError, ValueError) as error:
        raise FalllineError(f"the model does not take rows of shape {tuple(x.shape[1:])}: {error}.") from error
    seen = goal.predict(raw)
    value = None if seen.ndim == 2 else seen.double().numpy()
    if goal.task == "regression":
        assert value is not None
        interval = None if residuals is None else value[:, None] + np.asarray(residuals)[None, :]
        return Predictions(value, None, value, interval, (), target)
    names = np.asarray(goal.classes)
    label = names[labels(goal, seen).numpy()] if len(seen) else names[:0]
    probability = None
    if seen.ndim == 2:
        probability = seen.double().numpy()
    elif goal.loss.output != "score":
        assert value is not None
        probability = np.stack([1 - value, value], axis=1)
    return Predictions(label, probability, value, None, goal.classes, target)


def residual_quantiles(model: nn.Module, data: "Data", goal: Goal) -> tuple[float, float] | None:
    """5 % and 95 % quantile of target minus prediction over the validation rows, for a regression with at least 2 of them.

    Rank k of n stands at k / (n + 1): then 90 % of new rows are expected between them, from 19 validation rows on.
    """
    if goal.task != "regression" or len(data.validation) < 2:
        return None
    left = data.validation.y.double().cpu().numpy() - goal.predict(outputs(model, data.validation.x).cpu()).double().numpy()
    low, high = np.quantile(left, (0.05, 0.95), method="weibull")
    return float(low), float(high)
