"""What a run is asked to do: every setting of training, with its default, checked once, as JSON."""

import dataclasses
import numbers
from dataclasses import dataclass
from typing import Any, Literal

from fallline._core.errors import FalllineError, must
from fallline._core.number import Number

_NUMBERS = {
    "lr": Number("lr", 0, open_low=True, usual="0.001"),
    "clip_norm": Number("clip_norm", 0, open_low=True, usual="1.0"),
    "weight_decay": Number("weight_decay", 0, usual="0.0001"),
    "l1": Number("l1", 0, usual="1e-5"),
    "l2": Number("l2", 0, usual="1e-4"),
    "dropout": Number("dropout", 0, 1, open_high=True, usual="0.2"),
    "min_change": Number("min_change", 0, usual="0.0001"),
    "checkpoint_seconds": Number("checkpoint_seconds", 0, open_low=True, usual="30"),
}
_TRACKERS = ("tensorboard",)


@dataclass(frozen=True)
class Settings:
    """How to train. Immutable and JSON-able; change one with `dataclasses.replace`.

    Args:
        loss: name and options ("huber:delta=2"), or "auto": the loss that fits the task.
        optimizer: name and options ("rmsprop:alpha=0.9,like=keras").
        lr: base learning rate, or "auto", which `fit` replaces by a number before training.
        batch_size: rows in a batch, or "full" for all of them.
        epochs: passes over the training rows, at least 1.
        schedule: name and options ("cosine", "warmup+cosine:end=0.01", "plateau").
        clip_norm: largest norm of the whole gradient; None does not clip.
        weight_decay: as the optimizer has it; None is the optimizer's own default.
        l1, l2: penalties added to the loss: l1 * sum |w|, l2 * sum w^2, biases and norm layers left out.
        patience: stop after this many epochs without a better validation loss; None never stops early.
        min_change: the smallest fall of the validation loss that counts as better.
        keep: "best": at the end restore the weights of the best validation loss; "last": leave the last.
        seed: start of every stream of random numbers.
        device: "cpu", "cuda", "auto" (cuda where there is one).
        class_weight: None, "balanced", or "name:2,other:1" by class name.
        signed_labels: read a two-class target as -1/+1 for a loss that needs it.
        augment: changes of training pictures ("shift:2,flip").
        dropout: share of units left out, for models that fallline builds.
        embedding: numbers of an embedding, for losses of embeddings (triplet, arc_face); None is 64, or what a given module has.
        engine: "auto", "torch" or "numba": who computes the optimizer's step.
        track: "tensorboard" mirrors the record there, or None.
        checkpoint_seconds: a long epoch saves a checkpoint about this often, in seconds.

    Raises:
        FalllineError: a value out of its range.

    >>> Settings(epochs=0)
    Traceback (most recent call last):
        ...
    fallline._core.errors.FalllineError: `epochs >= 1` must hold, but got 0.
    """

    loss: str = "auto"
    optimizer: str = "adam"
    lr: float | Literal["auto"] = "auto"
    batch_size: int | Literal["full"] = 32
    epochs: int = 10
    schedule: str = "constant"
    clip_norm: float | None = None
    weight_decay: float | None = None
    l1: float = 0.0
    l2: float = 0.0
    patience: int | None = None
    min_change: float = 0.0
    keep: Literal["best", "last"] = "best"
    seed: int = 0
    device: str = "cpu"
    class_weight: str | None = None
    signed_labels: bool = False
    augment: str | None = None
    dropout: float = 0.0
    embedding: int | None = None
    engine: str = "auto"
    track: str | None = None
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, number in _NUMBERS.items():
            value = getattr(self, name)
            if value is not None and value != "auto":
                object.__setattr__(self, name, number.check(value))
        for name in ("batch_size", "epochs", "patience", "seed", "embedding"):
            value = getattr(self, name)
            if isinstance(value, numbers.Integral) and not isinstance(value, bool):  # NumPy's too
                object.__setattr__(self, name, int(value))
        full = self.batch_size == "full"
        must(full or _whole(self.batch_size, 1), "batch_size is a whole number >= 1, or 'full'", repr(self.batch_size), "32 is usual")
        must(_whole(self.epochs, 1), "epochs >= 1", repr(self.epochs))
        must(self.patience is None or _whole(self.patience, 1), "patience >= 1", repr(self.patience), "leave it out to train all epochs")
        must(self.embedding is None or _whole(self.embedding, 2), "embedding is a whole number >= 2", repr(self.embedding), "64 is usual")
        must(_whole(self.seed, None), "seed is a whole number", repr(self.seed))
        must(self.keep in ("best", "last"), "keep in ('best', 'last')", repr(self.keep))
        must(self.track is None or self.track in _TRACKERS, f"track in {_TRACKERS}", repr(self.track))

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Settings":
        """The settings that `to_json` wrote; a field that this version does not know is refused by name."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise FalllineError(f"settings {unknown} are not known to this fallline; it may be older than the run.")
        return cls(**fields)


def _whole(value: object, low: int | None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (low is None or value >= low)
