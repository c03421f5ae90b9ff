"""The options of a loss, declared once: default, range, meaning. Constructor, `functional`, `build` and the negative tests read them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fallline._core.errors import nearest, refuse
from fallline._core.number import Number
from fallline.losses._tracing import readable

# a choice of torch, Keras or pytorch_metric_learning -> what it is called here, the first that is a choice
_CHOSEN: dict[str, tuple[str, ...]] = {
    "hard": ("batch_hard",),
    "hardest": ("batch_hard",),
    "semihard": ("semi_hard",),
    "batchmean": ("mean",),
    "sum_over_batch_size": ("mean",),
    "elementwise_mean": ("mean",),
    "l2": ("euclidean",),
    "log_probs": ("log_probabilities",),
    "probs": ("probabilities",),
}


@dataclass(frozen=True)
class Option:
    """One option of a loss: what may stand there and what it means."""

    default: Any
    doc: str
    number: Number | None = None
    choices: tuple[str, ...] = ()
    kind: type = float
    vector: bool = False
    name: str = field(default="", compare=False)

    def check(self, value: Any, *, where: str) -> Any:
        """`value` as the loss keeps it, or the error that says what may stand there."""
        if self.vector:
            return self._tensor(value, where)
        if self.kind is tuple:
            return self._pair(value, where)
        if self.choices:
            if value not in self.choices:
                refuse(f"{self.name} is one of {', '.join(self.choices)}", repr(value), self._meant(value), where=where)
            return value
        if self._absent(value):
            return None
        if self.number is not None:
            return self.number.check(value, where=where)
        if self.kind is bool and not isinstance(value, bool):
            refuse(f"{self.name} is True or False", repr(value), where=where)
        if self.kind is int and (isinstance(value, bool) or not isinstance(value, int)):
            refuse(f"{self.name} is a whole number", repr(value), where=where)
        return value

    def _meant(self, value: Any) -> str:
        """Which of the choices may be meant."""
        word = str(value).lower().replace("-", "_").replace(" ", "_")
        close = [c for c in _CHOSEN.get(word, ()) if c in self.choices] or nearest(word, self.choices, 1, alike=0.6)
        return f"{close[0]!r} may be meant" if close else ""

    def _absent(self, value: Any) -> bool:
        return value is None and self.default is None

    def _pair(self, value: Any, where: str) -> tuple[float, float] | None:
        if value is None:
            return None
        try:
            numbers = [float(n) for n in (value.tolist() if isinstance(value, Tensor) else value)]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != 2 or isinstance(value, (str, bytes, dict)) or not all(0 <= n < float("inf") for n in numbers):
            refuse(f"{self.name} is two finite numbers >= 0", repr(value), "(0.2, 0.8) is an example", where=where)
        return numbers[0], numbers[1]

    def _tensor(self, value: Any, where: str) -> Tensor | None:
        if value is None:
            return None
        try:
            tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            tensor = None
        if tensor is None or tensor.is_complex() or tensor.ndim == 0:
            refuse(f"{self.name} is numbers, as a list or a tensor", repr(value), "[1.0, 5.0] is an example", where=where)
        if not tensor.is_floating_point():
            tensor = tensor.float()
        if readable(tensor) and not bool((torch.isfinite(tensor) & (tensor >= 0)).all()):
            refuse(f"every {self.name} is finite and >= 0", tensor.tolist(), where=where)
        return tensor

    def parse(self, text: str, *, where: str) -> Any:
        """The value that a spec such as `huber:delta=2` writes."""
        if self.vector or self.kind is tuple:
            try:
                return [float(part) for part in text.split("/")]
            except ValueError:
                refuse(f"{self.name} is numbers with / between them", repr(text), "1/5 is an example", where=where)
        if self.choices:
            return text
        if self.kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)
        try:
            return int(text) if self.kind is int else float(text)
        except ValueError:
            return text


def number(
    default: float | None,
    *,
    low: float = -float("inf"),
    high: float = float("inf"),
    open_low: bool = False,
    open_high: bool = False,
    usual: str = "",
    doc: str,
) -> Any:
    """An option that is a number in a range, or None where that is the default."""
    usual = usual or ("" if default is None else f"{default:g}")
    return Option(default, doc, number=Number("", low, high, open_low, open_high, usual, doc))


def choice(default: str, *others: str, doc: str) -> Any:
    """An option that is one of a few words; the first is the default."""
    return Option(default, doc, choices=(default, *others))


def flag(default: bool, *, doc: str) -> Any:
    """An option that is on or off."""
    return Option(default, doc, kind=bool)


def whole(default: int, *, doc: str) -> Any:
    """An option that is a whole number."""
    return Option(default, doc, kind=int)


def pair(*, doc: str) -> Any:
    """An option that is None or two numbers >= 0."""
    return Option(None, doc, kind=tuple)


def vector(*, doc: str) -> Any:
    """An option that is None, or numbers that move with the module from device to device."""
    return Option(None, doc, vector=True)
