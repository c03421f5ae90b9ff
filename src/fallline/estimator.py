"""fallline inside scikit-learn: `Classifier` and `Regressor`, which pass scikit-learn's own `check_estimator`.

They train the same models with the same loop as `fl.fit`, in memory: no folder is written, nothing is printed, and no row is held back
unless `patience` asks for early stopping. Columns are numbers, as scikit-learn wants them; a DataFrame may also hold text, categories,
dates and missing values, which then go through fallline's preprocessing, fitted on the rows given to `fit` and kept with the estimator.
There is no `sample_weight`: rows are weighed by class only (`class_weight`).

Built-in models predict in float64, so that the answer for a row does not depend on which rows are asked for beside it.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    check_array,
    check_consistent_length,
    check_is_fitted,
    check_random_state,
    column_or_1d,
    validate_data,
)

from fallline._core.errors import FalllineError, must
from fallline._core.number import Number

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fallline.data import Data
    from fallline.losses import Loss

_SHARE = Number("validation_fraction", 0, 1, open_low=True, open_high=True, usual="0.15")


class _Trained(BaseEstimator):
    """What both estimators share: parameters, preparation of the columns, training, raw outputs."""

    def __init__(
        self,
        model: "str | nn.Module | Callable[..., nn.Module]" = "mlp:128",
        *,
        loss: "str | Loss | Callable[..., Tensor]" = "auto",
        optimizer: str = "adam",
        lr: float | Literal["auto"] | None = None,
        batch_size: int | Literal["full"] = 32,
        epochs: int = 50,
        schedule: str = "constant",
        patience: int | None = None,
        validation_fraction: float = 0.15,
        scale: Literal["zscore", "minmax", "none"] = "zscore",
        dropout: float = 0.0,
        clip_norm: float | None = None,
        weight_decay: float | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        device: str = "cpu",
        random_state: "int | np.random.RandomState | None" = None,
    ) -> None:
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.lr = lr
        self.batch_size = batch_size
        self.epochs = epochs
        self.schedule = schedule
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.scale = scale
        self.dropout = dropout
        self.clip_norm = clip_norm
        self.weight_decay = weight_decay
        self.l1 = l1
        self.l2 = l2
        self.device = device
        self.random_state = random_state

    # -- training ----------------------------------------------------------------------------------------------------------------------

    def _train(self, x: NDArray[np.float64], y: "Tensor", task: str, classes: tuple[str, ...], class_weight: str | None) -> None:
        """Train on x (N, features) and y (N,), and set every fitted attribute."""
        import torch

        from fallline.api.fit import fit

        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        data = self._data(torch.from_numpy(x).float(), y, task, classes, seed)
        rows = len(data.train)
        batch = self.batch_size
        run = fit(
            self.model if isinstance(self.model, str) or not hasattr(self.model, "parameters") else copy.deepcopy(self.model),
            data,
            loss=self.loss if isinstance(self.loss, str) else copy.deepcopy(self.loss),
            optimizer=self.optimizer,
            lr=cast(Any, _usual_lr(self.optimizer) if self.lr is None else self.lr),
            batch_size=cast(Any, rows if isinstance(batch, (int, np.integer)) and batch > rows else batch),
            epochs=self.epochs,
            schedule=self.schedule,
            patience=self.patience,
            keep="last" if self.patience is None else "best",
            dropout=self.dropout,
            clip_norm=self.clip_norm,
            weight_decay=self.weight_decay,
            l1=self.l1,
            l2=self.l2,
            embedding=getattr(self, "embedding", None),
            device=self.device,
            seed=seed,
            class_weight=class_weight,
            signed_labels=task == "binary",
            quiet=True,
        )
        if run.status == "interrupted":
            raise KeyboardInterrupt
        if run.status == "diverged":
            raise FalllineError(f"the training diverged: {run.message} A smaller lr usually mends it.")
        module = run.model.cpu().eval()
        self.model_ = module.double() if isinstance(self.model, str) and ".py:" not in self.model else module
        self.goal_ = run.goal
        self.lr_ = run.settings.lr
        self.history_ = dict(run.history)
        self.n_iter_ = len(next(iter(self.history_.values()), ()))

    def _data(self, x: "Tensor", y: "Tensor", task: Any, classes: tuple[str, ...], seed: int) -> "Data":
        """All rows to train on; a share held back, evenly over the classes, where early stopping needs it."""
        import torch

        from fallline.data import Data, Split

        spots = np.arange(len(x))
        held = spots[:0]
        if self.patience is not None:
            from sklearn.model_selection import train_test_split

            share = _SHARE.check(self.validation_fraction, where=type(self).__name__)
            even = y.numpy() if classes and int(torch.bincount(y).min()) > 1 and len(y) * min(share, 1 - share) >= len(classes) else None
            spots, held = train_test_split(spots, test_size=share, random_state=seed, stratify=even)
        train, validation = Split(x[spots], y[spots]), Split(x[held], y[held])
        return Data(
            name=type(self).__name__,
            train=train,
            validation=validation,
            test=Split(x[:0], y[:0]),
            task=task,
            classes=classes,
            raw_labels=tuple(range(len(classes))),
            input_shape=tuple(x.shape[1:]),
            feature_names=tuple(map(str, getattr(self, "feature_names_in_", range(x.shape[1])))),
            target="y",
        )

    # -- columns -----------------------------------------------------------------------------------------------------------------------

    def _learn_columns(self, X: Any, y: Any, *, numeric_y: bool = False) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Columns as scaled numbers (N, features) and y (N,), checked as scikit-learn checks them; learns the scaling."""
        self.pipeline_ = None
        must(self.scale in ("zscore", "minmax", "none"), "scale in ('zscore', 'minmax', 'none')", repr(self.scale))
        frame = _mixed_frame(X)
        if frame is None:
            x, y = cast(Any, validate_data(self, X, y, dtype=np.float64, y_numeric=numeric_y))
            if self.scale == "zscore":
                shift, width = x.mean(axis=0), x.std(axis=0)
            elif self.scale == "minmax":
                shift, width = x.min(axis=0), np.ptp(x, axis=0)
            else:
                shift, width = np.zeros(x.shape[1]), np.ones(x.shape[1])
            self.shift_, self.width_ = shift, np.where(width > 0, width, 1.0)
            return (x - self.shift_) / self.width_, y
        from fallline.data import Pipeline

        _check_feature_names(self, X, reset=True)
        _check_n_features(self, X, reset=True)
        y = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=cast(Any, np.float64 if numeric_y else None))
        check_consistent_length(X, y)
        self.pipeline_ = Pipeline.fit(frame, scale=self.scale)
        return self.pipeline_.transform(frame).double().numpy(), y

    def _columns(self, X: Any) -> NDArray[np.float64]:
        """Columns as the model takes them, (N, features)."""
        check_is_fitted(self)
        if self.pipeline_ is None:
            x = cast(Any, validate_data(self, X, dtype=np.float64, reset=False))
            return (x - self.shift_) / self.width_
        frame = _as_polars(X)
        must(frame is not None, "X is a DataFrame with the columns of fit", type(X).__name__, where=type(self).__name__)
        return self.pipeline_.transform(cast(Any, frame)).double().numpy()

    # -- using -------------------------------------------------------------------------------------------------------------------------

    def _raw(self, X: Any) -> "Tensor":
        """The model's outputs (N, outputs) or (N,), in float64."""
        import torch

        from fallline.training import outputs

        x = torch.from_numpy(self._columns(X))
        weight = next(self.model_.parameters(), torch.empty(0))
        return self.goal_.squeeze(outputs(self.model_, x.to(weight.dtype)).double())


class Classifier(ClassifierMixin, _Trained):
    """A neural network that tells classes apart, for scikit-learn.

    Args:
        model: "linear", "mlp:256,128", "file.py:function", a module (copied), or a function that makes one.
        loss: name and options, or a function or module of (input, target); "auto" takes binary_cross_entropy or cross_entropy.
        optimizer: name and options, as "rmsprop:alpha=0.9".
        lr: learning rate; None is the optimizer's usual one, "auto" finds one by a range test on the rows of `fit`.
        batch_size: rows a step (at most all), or "full".
        epochs: passes over the rows.
        schedule: of the learning rate, as "cosine".
        patience: stop after so many epochs without a better validation loss; None trains all epochs on all rows.
        validation_fraction: share of rows held back where `patience` is set.
        scale: of the columns: "zscore", "minmax" or "none".
        dropout, clip_norm, weight_decay, l1, l2, device: as in `fallline.fit`.
        embedding: numbers of the embedding, for losses of embeddings such as triplet; None is 64. The probability of a class is then
            the softmax of minus the squared distance to the mean embedding of its rows (arc_face: of the scaled cosine with its vector).
        class_weight: None, "balanced", or {label: weight}.
        random_state: an integer makes `fit` repeatable, bit for bit.

    Attributes:
        classes_: the labels, sorted.
        n_features_in_, feature_names_in_: the columns that `fit` saw.
        n_iter_: epochs trained.
        lr_: the learning rate that was used.
        history_: from "train/loss" and the like to one number an epoch.
        model_: the trained module.

    Raises:
        FalllineError: a parameter out of its range, one class only, or a training that diverged.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = Classifier("mlp:16", lr=0.01, random_state=0).fit(X, y)
    >>> model.predict_proba(X[:2]).shape, model.score(X, y) > 0.9
    ((2, 3), True)
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        model: "str | nn.Module | Callable[..., nn.Module]" = "mlp:128",
        *,
        loss: "str | Loss | Callable[..., Tensor]" = "auto",
        optimizer: str = "adam",
        lr: float | Literal["auto"] | None = None,
        batch_size: int | Literal["full"] = 32,
        epochs: int = 50,
        schedule: str = "constant",
        patience: int | None = None,
        validation_fraction: float = 0.15,
        scale: Literal["zscore", "minmax", "none"] = "zscore",
        dropout: float = 0.0,
        clip_norm: float | None = None,
        weight_decay: float | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        embedding: int | None = None,
        device: str = "cpu",
        class_weight: "Literal['balanced'] | dict[Any, float] | None" = None,
        random_state: "int | np.random.RandomState | None" = None,
    ) -> None:
        super().__init__(
            model,
            loss=loss,
            optimizer=optimizer,
            lr=lr,
            batch_size=batch_size,
            epochs=epochs,
            schedule=schedule,
            patience=patience,
            validation_fraction=validation_fraction,
            scale=scale,
            dropout=dropout,
            clip_norm=clip_norm,
            weight_decay=weight_decay,
            l1=l1,
            l2=l2,
            device=device,
            random_state=random_state,
        )
        self.embedding = embedding
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        kind = self._loss_kind()
        tags.classifier_tags.multi_class = kind is None or "multiclass" in kind.tasks
        return tags

    def fit(self, X: Any, y: ArrayLike) -> "Classifier":
        """Train on X (N, features) and labels y (N,) of any kind."""
        import torch

        x, y = self._learn_columns(X, y)
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        count = len(self.classes_)
        if count > 2 and not self.__sklearn_tags__().classifier_tags.multi_class:
            raise FalllineError(
                f"Only binary classification is supported by the loss {self.loss}, but y has {count} classes; use cross_entropy."
            )
        must(count > 1, "y has two classes or more", f"1 class, {self.classes_[0]!r}", where="Classifier")
        names = tuple(map(str, range(count)))
        self._train(x, torch.from_numpy(index).long(), "binary" if count == 2 else "multiclass", names, self._weights())
        return self

    def _weights(self) -> str | None:
        """Class weights as `fallline.fit` reads them, by number of class."""
        if not isinstance(self.class_weight, dict):
            return self.class_weight
        labels = self.classes_.tolist()
        for label in self.class_weight:
            must(label in labels, f"class_weight names labels among {labels}", repr(label), where="Classifier")
        return ",".join(f"{labels.index(label)}:{weight}" for label, weight in self.class_weight.items())

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Scores: (N,) for two classes, positive for the second; (N, classes) for more."""
        raw = self._raw(X)
        if self.goal_.reading is not None:
            raw = self.goal_.reading.scores(raw)
        elif self.goal_.loss.output == "ordinal":
            raw = self.goal_.predict(raw)
        if len(self.classes_) == 2 and raw.ndim == 2:
            raw = raw[:, 1] - raw[:, 0]
        return (raw.logit() if self.goal_.loss.output == "probability" else raw).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """The label of each row, (N,)."""
        check_is_fitted(self)
        if self.goal_.loss.output == "ordinal":
            from fallline.training.metrics import labels

            return self.classes_[labels(self.goal_, self.goal_.predict(self._raw(X))).numpy()]
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    @available_if(lambda self: self._has_probabilities())
    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities (N, classes), in the order of `classes_`; not there for losses that give scores only (hinge)."""
        raw = self._raw(X)
        seen = self.goal_.predict(raw).numpy()
        return seen if seen.ndim == 2 else np.stack([1 - seen, seen], axis=1)

    @available_if(lambda self: self._has_probabilities())
    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Logarithms of `predict_proba`, (N, classes)."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def _has_probabilities(self) -> bool:
        if hasattr(self, "goal_"):
            return self.goal_.loss.output not in ("score", "scores")
        kind = self._loss_kind()
        return kind is None or kind.output not in ("score", "scores")

    def _loss_kind(self) -> Any:
        """The class of the loss that is named, None for "auto" and unknown names."""
        if self.loss == "auto" or not isinstance(self.loss, str):
            return None
        from fallline.losses import find

        try:
            return find(self.loss.partition(":")[0])
        except FalllineError:
            return None


class Regressor(RegressorMixin, _Trained):
    """A neural network that predicts numbers, for scikit-learn; the target is standardised while training.

    The parameters are those of `Classifier`, without `class_weight`; `loss` "auto" takes mse. `loss="huber"` cares less about outliers,
    `loss="quantile:q=0.9"` predicts a quantile.

    Attributes:
        n_features_in_, feature_names_in_, n_iter_, lr_, history_, model_: as in `Classifier`.

    Raises:
        FalllineError: a parameter out of its range, a constant target, or a training that diverged.

    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> Regressor("linear", lr=0.01, random_state=0).fit(X, y).score(X, y) > 0.45
    True
    """

    def fit(self, X: Any, y: ArrayLike) -> "Regressor":
        """Train on X (N, features) and numbers y (N,)."""
        import torch

        kind = np.asarray(y).dtype
        must(kind.kind not in "US", "y is numbers", f"text ({kind})", "Classifier learns classes", where="Regressor")
        x, y = self._learn_columns(X, y, numeric_y=True)
        must(len(x) > 1, "there are two rows or more", "n_samples = 1", where="Regressor")
        self._train(x, torch.tensor(y, dtype=torch.float32), "regression", (), None)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The predicted number of each row, (N,), in the units of the target."""
        from fallline.losses import predict_from

        raw = self._raw(X)
        seen = predict_from(self.goal_.loss.output, raw)
        scale = self.goal_.scale
        return (seen if scale is None else seen * scale.std + scale.mean).numpy()


def _usual_lr(spec: Any) -> float:
    """The optimizer's own default, the one that its spec names, or the refusal of an unknown optimizer."""
    from fallline.optim import parse

    preset, options = parse(str(spec))
    return float(options.get("lr", preset.default_lr))


def _as_polars(X: Any) -> Any:
    """A pandas or polars DataFrame as polars, None for anything else."""
    if not hasattr(X, "columns"):
        return None
    from fallline.data.sources.frames import is_frame, to_polars

    return to_polars(X) if is_frame(X) else None


def _mixed_frame(X: Any) -> Any:
    """A DataFrame that holds more than numbers, or lacks some, as polars; None for anything that scikit-learn's way can read."""
    frame = _as_polars(X)
    if frame is None or not len(frame):
        return None
    numbers = all(column.dtype.is_numeric() and not column.null_count() and not column.is_nan().any() for column in frame)
    return None if numbers else frame
