"""The whole state of training in one file: safetensors, with the small parts as JSON in its metadata.

Nothing that is loaded can run code. The file is written beside and renamed into place, so a kill leaves the one before it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fallline._core.errors import FalllineError
from fallline._core.files import told, write_bytes

FORMAT = "fallline-checkpoint"
VERSION = 1
_KEY = "fallline"


def save_tensors(path: Path | str, tensors: dict[str, Tensor], meta: dict[str, Any], *, format: str = FORMAT) -> None:
    """Write tensors and a JSON-able `meta` as one whole file."""
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    head = {"format": format, "version": VERSION, "meta": meta}
    write_bytes(path, save(whole, metadata={_KEY: json.dumps(head)}))  # one key: safetensors writes several in an order of chance


def load_tensors(path: Path | str, *, format: str = FORMAT, what: str = "checkpoint") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        FalllineError: the file is missing, truncated, damaged, or was not written by fallline.
    """
    from safetensors import SafetensorError, safe_open

    source = Path(path)
    if not source.is_file():
        raise FalllineError(f"there is no {what} '{source}'.")
    try:
        with told("read", source), safe_open(source, framework="pt") as file:
            head = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if head.get("format") != format:
                raise FalllineError(f"'{source}' is not a {what} of fallline: its format is not '{format}'.")
            if head["version"] > VERSION:
                raise FalllineError(f"'{source}' has version {head['version']}, but this fallline reads up to {VERSION}; upgrade fallline.")
            return {name: file.get_tensor(name) for name in file.keys()}, head["meta"]  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FalllineError):
            raise
        raise FalllineError(f"the {what} '{source}' is damaged or was cut short: {error}.") from error


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`optimizer.state_dict()` cut into named tensors ("optimizer/3/exp_avg") and JSON."""
    whole = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, state in whole["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    rest = {key: value for key, value in whole.items() if key not in ("state", "param_groups")}
    return tensors, {"state": plain, "param_groups": [_plain(group) for group in whole["param_groups"]], "rest": rest}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Put what `pack_optimizer` gave back into a fresh optimizer of the same kind."""
    state: dict[int | str, dict[str, Any]] = {_index(index): dict(values) for index, values in meta["state"].items()}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            state.setdefault(_index(index), {})[key] = tensor
    fresh = optimizer.state_dict()["param_groups"]
    groups = []
    for now, group in zip(fresh, meta["param_groups"], strict=True):
        restored = {key: tuple(value) if isinstance(now.get(key), tuple) else value for key, value in group.items()}
        groups.append(restored)
    optimizer.load_state_dict({"state": state, "param_groups": groups, **meta["rest"]})


def _index(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    return {key: float(value) if isinstance(value, Tensor) else value for key, value in group.items()}
