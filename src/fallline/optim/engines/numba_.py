"""The CPU engine: one compiled pass over all parameters of all groups, at the speed of memory.

A plan holds a bucket of parameters that share a kernel (same flags, same dtype): a row of pointers a parameter, a table of chunks that
cuts large parameters so that threads share them evenly, and one row of numbers for each pair of group and step count. The plan stays as
long as the tensors do; each step checks the addresses (moved tensors only change their entry) and fills in the numbers.

Kernels are generated modules in a cache folder (`FALLLINE_CACHE`, else the user's cache): numba keeps the machine code beside them, so
a kernel is compiled once on a machine, and only if it is used.
"""

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline._core.errors import FalllineError
from fallline._core.files import write_text
from fallline.optim.rule import Group, Rule

CHUNK = 16_384  # elements: 64 KiB of float32, so that the arrays of a chunk fit a core's second-level cache together
PARALLEL_FROM = 65_536  # elements in a plan; below it, waking a second thread costs more than it saves

_grad, _address, _contiguous = attrgetter("grad"), torch.Tensor.data_ptr, torch.Tensor.is_contiguous
_size = torch.Tensor.numel
_forked = False  # a forked process must not touch the thread pool of its parent: OpenMP ends the process that does


def _fork_seen() -> None:
    global _forked  # noqa: PLW0603
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork_seen)


@cache
def _folder() -> Path:
    """Where kernels are kept: the first of the candidates that can be written."""
    named = os.environ.get("FALLLINE_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "fallline"
    for candidate in (
        Path(named) if named else home,
        Path(tempfile.gettempdir()) / f"fallline-{os.getuid() if hasattr(os, 'getuid') else 0}",
    ):
        folder = candidate / "kernels"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise FalllineError("no folder can be written for compiled kernels; set FALLLINE_CACHE to one that can, or use engine='torch'.")


@cache
def _load(source: str, title: str) -> Callable[..., None]:
    import numba

    key = hashlib.sha256(f"{source}{numba.__version__}{sys.version_info[:2]}".encode()).hexdigest()[:12]
    name = f"{title}_{key}"
    path = _folder() / f"{name}.py"
    if not path.is_file() or path.read_text(encoding="utf-8") != source:
        write_text(path, source)
    module_name = f"fallline_kernels.{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # before it runs: numba's cache looks the module up by name
    spec.loader.exec_module(module)
    return module.kernel


@cache
def _kernel(
    rule: Rule, flags: tuple[tuple[str, bool], ...], before: tuple[tuple[str, bool], ...], double: bool, parallel: bool
) -> Callable[..., None]:
    from fallline.optim.engines.source import kernel_source

    return _load(kernel_source(rule, dict(flags), dict(before), double=double, parallel=parallel), rule.name)


def takes(p: Tensor) -> bool:
    """Whether this engine can step a parameter: a plain, dense, contiguous CPU tensor of 32 or 64 bits."""
    plain = type(p) in {torch.Tensor, torch.nn.Parameter}
    return (
        plain and p.device.type == "cpu" and p.layout is torch.strided and p.dtype in {torch.float32, torch.float64} and p.is_contiguous()
    )


class Plan:
    """A bucket of parameters that one kernel steps.

    Args:
        rule: the rule.
        flags: its switches.
        before: switches of the prelude.
        members: (parameter, its state, its group's index), every parameter with a gradient.
        numbers: returns the row of numbers of a group at a step.
    """

    def __init__(
        self,
        rule: Rule,
        flags: Mapping[str, bool],
        before: Mapping[str, bool],
        members: list[tuple[Tensor, dict[str, Any], int]],
        numbers: Callable[[int, int], tuple[float, ...]],
    ) -> None:
        self.params = [p for p, _, _ in members]
        self.numbers = numbers
        self.steps = torch.tensor([float(s["step"]) for _, s, _ in members], dtype=torch.float64)
        for i, (_, state, _) in enumerate(members):
            state["step"] = self.steps[i]
        self.derived = [(name, value, torch.zeros(len(members), dtype=torch.float64)) for name, value in rule.derived.items()]
        for name, _, values in self.derived:
            for i, (_, state, _) in enumerate(members):
                state[name] = values[i]
        # One row of numbers for each pair (group, step count): a parameter that joined late has its own.
        pairs = [(group, int(state["step"])) for _, state, group in members]
        self.rows = sorted(set(pairs))
        self.row_of = np.array([self.rows.index(pair) for pair in pairs], dtype=np.int64)
        self.counts = [step for _, step in self.rows]
        self._steps = self.steps.numpy()
        names = [s.name for s in rule.active(flags)]
        self.kept = [[state[n] for n in names] for _, state, _ in members]
        self.p_at = list(map(_address, self.params))
        self.sizes = list(map(_size, self.params))
        self.g_at = [0] * len(members)
        self.grads: list[Tensor] = []
        self.pointers = np.array([[p, 0, *map(_address, kept)] for p, kept in zip(self.p_at, self.kept, strict=True)], dtype=np.int64)
        self.chunks = self._cut()
        total = sum(p.numel() for p in self.params)
        self.threads = torch.get_num_threads() if total >= PARALLEL_FROM and not _forked else 1
        self.dtype = self.params[0].dtype
        self._key = rule, tuple(sorted(flags.items())), tuple(before.items()), self.dtype == torch.float64
        self.kernel = _kernel(*self._key, self.threads > 1)

    def _cut(self) -> np.ndarray:
        rows = [
            (t, start, min(CHUNK, p.numel() - start), self.row_of[t])
            for t, p in enumerate(self.params)
            for start in range(0, p.numel(), CHUNK)
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 4)

    def gather(self) -> bool:
        """Read this step's gradients; False if the plan no longer fits (a gradient is missing or not plain, a parameter was cast)."""
        grads = list(map(_grad, self.params))
        try:
            g_at = list(map(_address, grads))
            p_at = list(map(_address, self.params))
        except (TypeError, RuntimeError):
            return False
        if not all(map(_contiguous, grads)) or list(map(_size, self.params)) != self.sizes:
            return False
        if p_at != self.p_at:
            if not all(takes(p) and p.dtype == g.dtype == self.dtype for p, g in zip(self.params, grads, strict=True)):
                return False
            self.pointers[:, 0] = p_at
            self.p_at = p_at
        if g_at != self.g_at:
            self.pointers[:, 1] = g_at
            self.g_at = g_at
        self.grads = grads
        return True

    def run(self) -> None:
        """Step every parameter of the bucket."""
        self._steps += 1.0
        self.counts = [count + 1 for count in self.counts]
        numbers = np.array([self.numbers(group, step) for (group, _), step in zip(self.rows, self.counts, strict=True)])
        if self.threads > 1 and _forked:
            self.threads, self.kernel = 1, _kernel(*self._key, False)
        if self.threads > 1:
            _use_threads(self.threads)
        self.kernel(self.chunks, self.pointers, numbers)
        self.grads = []

    def derive(self, groups: list[Group]) -> None:
        """Fill in the state that follows from the step count alone (torch's checkpoints hold it)."""
        for _, value, values in self.derived:
            by_row = [value(groups[g], step) for (g, _), step in zip(self.rows, self.counts, strict=True)]
            values.numpy()[:] = np.array(by_row)[self.row_of]


def _use_threads(count: int) -> None:
    import numba

    limit = min(count, numba.config.NUMBA_NUM_THREADS)  # pyright: ignore[reportAttributeAccessIssue]
    if numba.get_num_threads() != limit:
        numba.set_num_threads(limit)
