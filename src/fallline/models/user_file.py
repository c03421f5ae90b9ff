"""A model from the user's own file: `file.py:make_model`."""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from fallline._core.errors import FalllineError, nearest


def from_file(spec: str, **arguments: Any) -> nn.Module:
    """Run the file, call the function with as many of `arguments` as it takes, and give the Module that it returns.

    Arguments are handed over by name where the function has such a name, and else in the order input_shape, outputs.

    Raises:
        FalllineError: no such file or function, an exception inside (says which, and its line), or something else than a Module.
    """
    name, _, function = spec.rpartition(":")
    path = Path(name).expanduser()
    if not path.is_file():
        raise FalllineError(f"there is no model file '{path}' (asked for by --model {spec}).")
    make = _function(run_file(path), function, path)
    positional, named = _accepted(make, arguments, spec)
    try:
        model = make(*positional, **named)
    except (Exception, SystemExit) as error:
        told(error, path, f"{function}() of '{path}'")
    if not isinstance(model, nn.Module):
        hint = " (it returns nothing: is `return model` missing?)" if model is None else ""
        raise FalllineError(f"{function}() of '{path}' must return a torch.nn.Module, but it returned {type(model).__name__}{hint}.")
    return model


def told(error: BaseException, path: Path | None, what: str) -> NoReturn:
    """Raise the exception of somebody's code as one sentence with its text and its line."""
    lines = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if path is not None and Path(f.filename).resolve() == path.resolve()
    ]
    if isinstance(error, SyntaxError) and error.lineno is not None:
        lines = [error.lineno]
    place = f" in line {lines[-1]}" if lines else ""
    text = " ".join(str(error).split())[:400] or "no message"
    raise FalllineError(f"{what} raised {type(error).__name__}{place}: {text}.") from error


def run_file(path: Path) -> Any:
    """The module that a user's file makes when it runs, with the files beside it at hand.

    Raises:
        FalllineError: it raised an exception; says which, and its line.
    """
    spec = importlib.util.spec_from_file_location(f"fallline_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FalllineError(f"'{path}' is not a Python file; give --model file.py:make_model.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes can be found by name
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        told(error, path, f"model file '{path}'")
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _function(module: Any, name: str, path: Path) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    own = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_") and getattr(v, "__module__", "") == module.__name__]
    close = nearest(name, own)
    hint = (
        f"; did you mean {' or '.join(repr(c) for c in close)}?"
        if close
        else f"; it has {', '.join(own)}."
        if own
        else "; it has no function."
    )
    raise FalllineError(f"'{path}' has no function {name!r}{hint}")


def _accepted(make: Callable[..., Any], arguments: dict[str, Any], spec: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return [], {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return [], dict(arguments)
    named = {
        name: value
        for name, value in arguments.items()
        if name in parameters and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY
    }
    if named:
        lacking = [
            p.name
            for p in parameters.values()
            if p.default is p.empty and p.name not in named and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        if lacking:
            raise FalllineError(
                f"{spec} takes {', '.join(map(repr, lacking))}, which fallline does not know; it hands over {', '.join(arguments)}."
            )
        return [], named
    needed = [p for p in parameters.values() if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    order = [arguments[name] for name in ("input_shape", "outputs")]
    if len(needed) > len(order):
        raise FalllineError(f"{spec} takes {len(needed)} arguments, but fallline hands over input_shape and outputs.")
    return order[: len(needed)], {}
