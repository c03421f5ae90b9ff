"""One forward and backward pass of a copy of the model, with every module's input, output and delta written down.

The copy is float64, on the CPU, in eval mode. A module's input and output are cloned as they pass, so that code which works in place
(`ReLU(inplace=True)`, `F.relu_`) cannot overwrite what was written down; the delta at a clone is the part that passes this module alone.
"""

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fallline._core.errors import FalllineError
from fallline.teach.layers import RULES


@dataclass(eq=False)
class Call:
    """One use of one module: tensors in the graph of the copy."""

    name: str
    module: nn.Module
    given: Tensor
    source: int | None
    input: Tensor
    output: Tensor | None = None
    others: int = 0
    extra: int = 0


def _devices() -> list[int]:
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []


@contextmanager
def untouched() -> Iterator[None]:
    """Leave every random stream as it was, with gradients on, warnings of the model's own code off."""
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(_devices()), torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002


def duplicate(model: nn.Module) -> nn.Module:
    """A float64 copy on the CPU, in eval mode, without the user's hooks."""
    inner = getattr(model, "_orig_mod", model)
    inner = inner.module if isinstance(inner, nn.DataParallel) else inner
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in inner.parameters()):
        raise FalllineError("the model has a lazy layer without weights yet; run it once on an example before tracing it.")
    if not any(p.requires_grad for p in inner.parameters()):
        raise FalllineError("the model has no parameter that needs a gradient; set requires_grad on one, or give a model with weights.")
    try:
        twin = copy.deepcopy(inner)
    except Exception as error:
        raise FalllineError(f"the model cannot be copied, which a trace needs to leave it untouched: {_first(error)}.") from error
    for module in twin.modules():
        for table in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            hooks = getattr(module, table, None)
            for key in [k for k, hook in (hooks or {}).items() if not type(hook).__module__.startswith("torch.")]:
                del hooks[key]  # type: ignore[index]
                for companion in ("_with_kwargs", "_always_called"):
                    getattr(module, table + companion, {}).pop(key, None)
        if getattr(module, "inplace", None) is True:
            module.inplace = False  # type: ignore[assignment]
    twin.zero_grad(set_to_none=True)
    return twin.to("cpu").double().eval()


def _first(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".")


def _opened(module: nn.Module) -> bool:
    """Whether to look inside: only Sequential and the user's own modules with children are."""
    if not any(True for _ in module.children()):
        return False
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) or not type(module).__module__.startswith("torch.")


def units(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that the trace shows, in the order of registration."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def visit(name: str, module: nn.Module) -> None:
        if type(module) in RULES or not _opened(module):
            if id(module) not in seen:
                found.append((name or type(module).__name__, module))
            seen.add(id(module))
            return
        for child, inner in module.named_children():
            visit(f"{name}.{child}" if name else child, inner)

    visit("", model)
    return found


def _floating(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _floating(v)] if isinstance(value, list | tuple) else []


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Call], int | None]:
    """Run the copy; returns its output, the calls in order, and the call whose output the model returned (None where code follows it)."""
    calls: list[Call] = []
    made: dict[int, tuple[int, int, Tensor]] = {}
    handles = []

    def before(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
            if not args or not isinstance(args[0], Tensor):
                return None
            first = args[0]
            source, version, _ = made.get(id(first), (None, 0, None))
            if source is not None and version != first._version:
                source = None
            kept = first.clone()
            if kept.is_floating_point() and not kept.requires_grad:
                kept.requires_grad_()
            calls.append(Call(name, module, first, source, kept, extra=len(_floating(args[1:]))))
            open_calls.append(calls[-1])
            return (kept.clone(), *args[1:])

        return hook

    def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        call = next((c for c in reversed(open_calls) if c.module is module), None)
        if call is None:
            return None
        open_calls.remove(call)
        tensors = _floating(out)
        call.output, call.others = (tensors[0] if tensors else None), max(0, len(tensors) - 1)
        if not isinstance(out, Tensor):
            return None
        passed = out.clone()
        made[id(passed)] = (calls.index(call), passed._version, passed)
        return passed

    open_calls: list[Call] = []
    for name, module in units(model):
        handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after)]
    try:
        out = model(x)
    except FalllineError:
        raise
    except Exception as error:
        text = f"the model could not be run on x of shape {tuple(x.shape)}: {type(error).__name__}: {_first(error)}"
        mixed = "; a trace runs in float64: make tensors inside the model with dtype=x.dtype" if "double" in text.lower() else ""
        raise FalllineError(f"{text}{mixed}.") from error
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(out, Tensor) or not out.is_floating_point():
        raise FalllineError(f"the model must return one tensor of real numbers, but it returned {type(out).__name__}.")
    last, version, _ = made.get(id(out), (None, 0, None))
    return out, [c for c in calls if c.output is not None], last if last is not None and version == out._version else None
