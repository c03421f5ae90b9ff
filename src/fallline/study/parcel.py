"""What is sent to the workers of a cluster: rows once as plain bytes, models and losses of one's own with the code that they are made of.

Installed packages are sent by name. Functions and classes of the user's own modules, of scripts and notebooks are sent by value, so that
another machine needs no copy of them; a model file (`model.py:make_model`) is sent whole, with the files beside it that it imports, and
runs there from a folder of its own.

Source: Python's pickle protocol 5 with buffers out of band (PEP 574), and cloudpickle, as Ray brings it, for code by value.
"""

import io
import pickle
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fallline._core.errors import FalllineError

if TYPE_CHECKING:
    from fallline.data import Data

_MOST = 64 << 20  # bytes of code that are sent with a model file


class File(NamedTuple):
    """A model file and the modules beside it that it imports.

    Args:
        spec: as the user gave it.
        entry: the file's path inside the folder.
        function: what makes the model.
        content: by path inside the folder.
        modules: the names under which the files beside it are imported.
    """

    spec: str
    entry: str
    function: str
    content: dict[str, bytes]
    modules: tuple[str, ...]


class Parcel(NamedTuple):
    """Something pickled, and the model files that it names."""

    content: bytes
    files: tuple[File, ...]


# -- sending ---------------------------------------------------------------------------------------------------------------------------


def pack_rows(data: "Data") -> list[Any]:
    """A header and flat byte arrays, one a tensor: nothing that has to be copied to be read.

    >>> from fallline.data import load
    >>> data = load("iris")
    >>> unpack_rows(pack_rows(data)).fingerprint == data.fingerprint
    True
    """
    import numpy as np

    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    _rows_pickler(file, buffers).dump(data)
    return [file.getvalue(), *(np.frombuffer(b.raw(), dtype=np.uint8) for b in buffers)]


def pack(thing: Any, data: "Data | None" = None) -> Parcel:
    """Anything with models, losses and functions in it; `data`, wherever it is met inside, is left out.

    Args:
        thing: what is sent.
        data: rows that the workers have already.

    Raises:
        FalllineError: something in it cannot be sent.
    """
    file = io.BytesIO()
    pickler = _pickler(file, data)
    try:
        pickler.dump(thing)
    except FalllineError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise FalllineError(
            f"the model or the loss cannot be sent to the workers of a cluster ({type(error).__name__}: {text}); "
            "keep open files, locks and connections out of it, or leave the cluster out."
        ) from error
    finally:
        pickler.forget()
    return Parcel(file.getvalue(), tuple(pickler.files.values()))


def _rows_pickler(file: io.BytesIO, buffers: list[pickle.PickleBuffer]) -> Any:
    class Rows(pickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is Tensor and obj.device.type == "cpu" and obj.layout is torch.strided and not obj.requires_grad:
                try:
                    return _tensor, (obj.contiguous().numpy(),)
                except (TypeError, RuntimeError):  # a dtype or a view that NumPy does not have
                    pass
            return NotImplemented

    return Rows(file, protocol=5, buffer_callback=buffers.append)


def _pickler(file: io.BytesIO, data: "Data | None") -> Any:
    from ray import cloudpickle

    class Code(cloudpickle.Pickler):
        def __init__(self) -> None:
            super().__init__(file, protocol=5)
            self.files: dict[str, File] = {}
            self.modules: list[ModuleType] = []

        def persistent_id(self, obj: Any) -> Any:
            if data is not None and obj is data:
                return -1
            if type(obj) is str and _names_file(obj):
                if obj not in self.files:
                    self.files[obj] = _read(obj)
                return list(self.files).index(obj)  # not the text itself, which would be looked at again
            return None

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, (FunctionType, ModuleType, type)):
                module = obj if isinstance(obj, ModuleType) else sys.modules.get(getattr(obj, "__module__", None) or "")
                if module is not None and _own(module) and module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                    cloudpickle.register_pickle_by_value(module)
                    self.modules.append(module)
            return super().reducer_override(obj)

        def forget(self) -> None:
            for module in self.modules:
                cloudpickle.unregister_pickle_by_value(module)

    return Code()


def _own(module: ModuleType) -> bool:
    """Whether a module is the user's: one with a file, which no package manager put there."""
    file = getattr(module, "__file__", None)
    if not file or module.__name__ == "__main__" or module.__name__.partition(".")[0] == "fallline" or module.__name__ not in sys.modules:
        return False
    path = Path(file).resolve()
    return not any(part in ("site-packages", "dist-packages") for part in path.parts) and not any(path.is_relative_to(p) for p in _stdlib())


@cache
def _stdlib() -> tuple[Path, ...]:
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")})


def _names_file(text: str) -> bool:
    name, _, function = text.rpartition(":")
    return name.endswith(".py") and len(text) < 4096 and function.isidentifier() and Path(name).expanduser().is_file()


def _read(spec: str) -> File:
    """The file, and of the modules in its folder those that are imported once it has run."""
    from fallline.models.user_file import run_file

    name, _, function = spec.rpartition(":")
    path = Path(name).expanduser().resolve()
    run_file(path)
    content, modules = {path.name: path.read_bytes()}, []
    for title, module in sorted(sys.modules.items()):
        found = getattr(module, "__file__", None)
        if not found or title == "__main__" or not found.endswith(".py"):
            continue
        other = Path(found).resolve()
        if other != path and other.is_relative_to(path.parent) and _own(module) and other.is_file():
            content[other.relative_to(path.parent).as_posix()] = other.read_bytes()
            modules.append(title)
    size = sum(map(len, content.values()))
    if size > _MOST:
        raise FalllineError(f"the model file '{name}' and what it imports beside it hold {size >> 20} MB; move it to a folder of its own.")
    return File(spec, path.name, function, content, tuple(modules))


# -- receiving -------------------------------------------------------------------------------------------------------------------------


def unpack_rows(parts: list[Any]) -> "Data":
    """What `pack_rows` gave, in memory of its own: a model that writes to its input harms nobody else."""
    return pickle.loads(parts[0], buffers=[bytearray(part) for part in parts[1:]])


def unpack(parcel: Parcel, data: "Data | None" = None, places: dict[str, str] | None = None) -> Any:
    """What `pack` was given.

    Args:
        parcel: from `pack`.
        data: put where `pack` left it out.
        places: by the user's spec of a model file the spec of its copy here; see `place`.
    """
    found = places or {}

    class Reader(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            return data if pid < 0 else found[parcel.files[pid].spec]

    return Reader(io.BytesIO(parcel.content)).load()


def place(file: File) -> tuple[tempfile.TemporaryDirectory[str], str]:
    """Write a model file and its modules into a new folder: the folder, and the spec of the copy."""
    folder = tempfile.TemporaryDirectory(prefix="fallline-model-")
    for name, content in file.content.items():
        path = Path(folder.name) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in file.modules:  # of an older copy
        sys.modules.pop(name, None)
    return folder, f"{Path(folder.name) / file.entry}:{file.function}"


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(values)
