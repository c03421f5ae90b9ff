"""Where a function leaves the graph: each call that cuts it, with the line that makes it."""

import linecache
import sys
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CUTS = {"detach", "detach_", "numpy", "__array__", "item", "tolist", "__float__", "__int__", "__bool__", "data"}
_MASKS = {"nan_to_num", "nan_to_num_", "nansum", "nanmean", "isnan", "isfinite", "isinf"}
_MAKERS = {"tensor", "as_tensor", "from_numpy", "zeros", "ones", "full", "empty", "arange", "linspace", "logspace", "eye", "rand", "randn"}
_NUMPY = {"numpy", "__array__"}
_PASSED = {"torch", "numpy", "contextlib"}
_OURS = __name__.rpartition(".")[0]


class Spy(TorchFunctionMode):
    """Record calls that cut the graph, hide NaN or make tensors of no said device, while a function runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []
        self.made: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the call, and make it."""
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name == "_set_grad_enabled" and args and args[0] is False:
            self._note("no_grad")
        elif name in _CUTS or name in _MASKS:
            self._note(name)
        elif func is torch.tensor:
            self._note("torch.tensor")
        result = func(*args, **(kwargs or {}))
        if name in _MAKERS and (kwargs or {}).get("device") is None and isinstance(result, torch.Tensor) and result.ndim:
            self.made.append(self._place())
        return result

    def _note(self, name: str) -> None:
        place = self._place()
        if place:
            self.calls.append((name, place))

    def _place(self) -> str:
        frame = sys._getframe(1)
        while frame is not None and (frame.f_globals is globals() or _module(frame).partition(".")[0] in _PASSED):
            frame = frame.f_back
        if frame is None or _module(frame).startswith(_OURS):
            return ""
        file, line = frame.f_code.co_filename, frame.f_lineno
        text = linecache.getline(file, line).strip()
        return f"line {line}: `{text}`" if text else f"line {line}"

    @property
    def numpy(self) -> str:
        """The line that goes through numpy, or ''."""
        return next((place for name, place in self.calls if name in _NUMPY), "")

    @property
    def cut(self) -> str:
        """The first line that cuts the graph, or ''."""
        return next((place for name, place in self.calls if name not in _MASKS), "")

    @property
    def mask(self) -> str:
        """The first line that looks for NaN, or ''."""
        return next((place for name, place in self.calls if name in _MASKS), "")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
