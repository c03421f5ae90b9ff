"""The CPU engine: one compiled pass over all parameters of all groups, at the speed of memory.

A plan holds a bucket of parameters that share a kernel (same flags, same dtype): a row of pointers a parameter, a table of chunks that
cuts large parameters so that threads share them evenly, and one row of numbers for each group and age. The plan stays as long as the
tensors do; each step checks the addresses (moved tensors only change their entry) and fills in the numbers. A complex tensor is stepped
as the real numbers that it is made of.

Kernels are generated modules in a cache folder (`FALLLINE_CACHE`, else the user's cache): numba keeps the machine code beside them, so
a kernel is compiled once on a machine, and only if it is used.
"""

import os
import threading
from collections.abc import Callable
from functools import cache
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline._core.errors import FalllineError
from fallline.optim.engines.blocks import SCALE
from fallline.optim.engines.chunks import PerTensor
from fallline.optim.engines.modules import load
from fallline.optim.engines.narrow import NARROW
from fallline.optim.engines.watch import watched
from fallline.optim.plan import Bucket, Measured
from fallline.optim.states import MASTER

CHUNK = 16_384  # elements: 64 KiB of float32, so that the arrays of a chunk fit a core's second-level cache together
PARALLEL_FROM = 65_536  # elements in a plan; below it, waking a second thread costs more than it saves

SMALL = 1 << 20  # elements; so many gradients stay in the cache from a first look at them to the step

_address, _size = torch.Tensor.data_ptr, torch.Tensor.numel
_one = threading.Lock()  # of the kernels that run on several threads, where `_shared` is false
_shared = False  # whether numba's threading layer is known to serve several threads at once
_forked = False  # a forked process must not touch the thread pool of its parent: OpenMP ends the process that does


def _fork_seen() -> None:
    global _forked  # noqa: PLW0603
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork_seen)


@cache
def _load(source: str, title: str) -> Callable[..., None]:
    import numba

    return load(source, title, numba.__version__).kernel


@cache
def _kernel(key: tuple[Any, ...], parallel: bool, telemetry: bool, guards: bool, last: bool) -> Callable[..., None]:
    from fallline.optim.engines.source import kernel_source

    rule, flags, before, form = key
    source = kernel_source(rule, dict(flags), dict(before), form=form, parallel=parallel, telemetry=telemetry, guards=guards, last=last)
    return _load(source, rule.name)


@cache
def _squares(kind: str, parallel: bool, wide: bool) -> Callable[..., None]:
    from fallline.optim.engines.source import squares_source

    return _load(squares_source(kind=kind, parallel=parallel, wide=wide), "squares")


_WIDE = {False: torch.float64, True: torch.complex128}
KINDS = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.complex64: "float32",
    torch.complex128: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


@cache
def _kind(dtype: torch.dtype) -> str:
    """The kind of number that a dtype is made of; empty where a kernel cannot read it on this machine."""
    if dtype is torch.float16:
        from fallline.optim.engines.scalar16 import half_at_hand

        return KINDS[dtype] if half_at_hand() else ""
    return KINDS.get(dtype, "")


def pairs(p: Tensor, g: Tensor) -> bool:
    """Whether one kernel reads both: alike, or a 16-bit parameter with a float32 gradient."""
    return p.dtype == g.dtype or (p.dtype in NARROW and g.dtype is torch.float32)


def takes(p: Tensor) -> bool:
    """Whether this engine can step a parameter: a plain, dense, contiguous CPU tensor of 16, 32 or 64 bits, real or complex."""
    plain = type(p) in {torch.Tensor, torch.nn.Parameter}
    dense = plain and p.device.type == "cpu" and p.layout is torch.strided and bool(_kind(p.dtype)) and p.is_contiguous()
    return dense and not (p.is_conj() or p.is_neg()) and (p.numel() == 0 or p.data_ptr() != 0)


class Plan:
    """A bucket of parameters that one kernel steps, once a step or, for a rule of two passes, twice."""

    name = "numba"

    def __init__(self, bucket: Bucket) -> None:
        from fallline.optim.engines.addresses import bumper, reader, still
        from fallline.optim.engines.source import Form, columns

        self.bucket = bucket
        rule, flags, members = bucket.rule, bucket.flags, bucket.members
        self.params = bucket.params
        self.dtype = self.params[0].dtype
        names = self._names = [s.name for s in rule.active(flags)]
        grads = self.params[0].grad
        assert grads is not None
        self.form = Form(_kind(self.dtype), _kind(grads.dtype), bucket.rounding, bucket.eight)
        names = [*names, *([MASTER] if self.form.narrow and bucket.rounding == MASTER else [])]
        names += [s.name + SCALE for s in rule.active(flags)] if bucket.eight else []
        self.kept = [[state[n] for n in names] for _, state, _, _ in members]
        self.sizes = list(map(_size, self.params))
        self.pointers = np.array([[0, 0, *map(_address, kept)] for kept in self.kept], dtype=np.int64)
        self.reader = reader(self.params, grads.dtype)
        self._unmoved, self._bump = still([x for kept in self.kept for x in kept]), bumper(self.params)
        self._first()
        self._apart = _apart(self.params)
        self.chunks = self._cut()
        self.per_tensor = PerTensor(self.chunks[:, 0], len(members))
        self._large = sum(self.sizes) >= PARALLEL_FROM
        self.threads = self._count()
        self.small = sum(self.sizes) <= SMALL or rule.last is not None  # a first pass changes state: it must not meet a NaN
        self._key = rule, tuple(sorted(flags.items())), tuple(bucket.before.items()), self.form
        self._out = np.zeros((len(self.chunks), columns(rule, telemetry=bucket.telemetry, last=False)))
        self._last_out = np.zeros((len(self.chunks), columns(rule, telemetry=bucket.telemetry, last=True)))
        self._guards = not self.small  # as it will most likely be run
        self.bind()

    def bind(self) -> None:
        """Take the kernels for the number of threads."""
        kind = self._key, self.threads > 1, self.bucket.telemetry, self._guards
        self.kernel = _kernel(*kind, False)
        self.last = None if self.bucket.rule.last is None else _kernel(*kind, True)

    def _cut(self) -> np.ndarray:
        parts = 2 if self.dtype.is_complex else 1
        rows = [
            (t, start, min(CHUNK, size * parts - start), self.bucket.row_of[t])
            for t, size in enumerate(self.sizes)
            for start in range(0, size * parts, CHUNK)
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 4)

    def gather(self) -> bool:
        """Read where this step's gradients lie.

        False if the plan no longer fits: one is missing or not plain, a parameter was cast, a tensor of state was moved.
        """
        return self._unmoved() and not self.reader.gather(self.pointers)

    def _first(self) -> None:
        from fallline.optim.engines.addresses import explain

        misfit = self.reader.gather(self.pointers)
        if misfit:
            raise FalllineError(
                "a parameter and its gradient must be alike and have memory, but "
                f"{explain(misfit, [m.name for m in self.bucket.members])}; let backward() set it."
            )

    def squares(self) -> float:
        """Sum of the squares of all gradients of the bucket: one read of them."""
        self._threads()
        out = np.empty(len(self.chunks))
        kind, parallel = self.form.g, self.threads > 1
        self._call(_squares(kind, parallel, kind == "float64"), out)
        if kind != "float64" and not isfinite(out.sum()):
            self._call(_squares(kind, parallel, True), out)
        return float(out.sum())

    def finite(self) -> bool:
        """Whether every gradient is finite; false also where a sum of squares overflows."""
        return isfinite(self.squares())

    def run(self, *, looks: bool = False) -> np.ndarray:
        """Step every parameter of the bucket; the first pass of a rule of two.

        Args:
            looks: leave elements as they are whose gradient is not finite; `spoiled` then says in which tensors.

        Returns:
            The sums that the rule asked for, of shape (tensors, terms).
        """
        if looks != self._guards:
            self._guards = looks
            self.bind()
        self._threads()
        self.bucket.lost = watched(self.bucket, self._names) if self.bucket.watch and self.last is None else []
        self._call(self.kernel, self.bucket.numbers(), self._out, *self._keys(self.last is None))
        if self.last is None:
            self._bump()
            return np.zeros((len(self.params), 0))
        return self.per_tensor.sums(self._out[:, 1:])

    def finish(self, extras: np.ndarray) -> None:
        """The second pass of a rule of two, with a row of numbers for each tensor."""
        assert self.last is not None
        if self.bucket.watch:
            self.bucket.lost = watched(self.bucket, self._names, extras)
        self._call(self.last, self.bucket.numbers(), self._last_out, extras, *self._keys(True))
        self._bump()

    def _keys(self, stores: bool) -> tuple[np.ndarray, ...]:
        """The keys of random bits, if the kernel rounds at random; the first pass of a rule of two stores no parameter."""
        if not self.form.keyed:
            return ()
        return (self.bucket.keys() if stores else np.zeros((len(self.params), 2), np.uint32),)

    def forget(self) -> None:
        """Nothing: between steps no gradient is held, only addresses that the next `gather` reads anew."""

    def spoiled(self) -> list[int]:
        """Tensors in which the last run met a gradient that is not finite."""
        return sorted(set(self.chunks[self._out[:, 0] > 0, 0].tolist()))

    def measured(self) -> list[Measured]:
        """What the last step measured of each tensor."""
        out = self._out if self.last is None else self._last_out
        sums, top, bad = self.per_tensor.telemetry(out)
        for i in np.flatnonzero((bad == 0) & (top > 0) & ((sums[:, :2] == 0) | ~np.isfinite(sums[:, :2])).any(axis=1)):
            p = self.params[i]  # squares of float32 numbers that overflow or vanish: once more, in double precision
            for column, tensor in ((0, p.grad), (1, p)):
                if tensor is not None:
                    sums[i, column] = float(torch.linalg.vector_norm(tensor.detach(), dtype=_WIDE[tensor.is_complex()])) ** 2
        return [Measured(*np.sqrt(s).tolist(), largest=float(t), nonfinite=int(b)) for s, t, b in zip(sums, top, bad, strict=True)]

    def _count(self) -> int:
        """Threads for the next kernel: as torch is set now; one for a small plan, and for parameters that overlap (they would race)."""
        return threads_for(PARALLEL_FROM) if self._large and self._apart else 1

    def _threads(self) -> None:
        count = self._count()
        if count != self.threads:
            crossed, self.threads = (count > 1) != (self.threads > 1), count
            if crossed:
                self.bind()
        if count > 1:
            use_threads(count)

    def _call(self, kernel: Callable[..., None], *arguments: Any) -> None:
        run(kernel, self.threads, self.chunks, self.pointers, *arguments)


def run(kernel: Callable[..., None], threads: int, *arguments: Any) -> None:
    """Run a kernel on so many threads; one at a time where numba's threads are of the layer that bears no more."""
    global _shared  # noqa: PLW0603
    if threads == 1 or _shared:
        kernel(*arguments)
        return
    import numba

    with _one:
        kernel(*arguments)
        _shared = numba.threading_layer() != "workqueue"


def threads_for(elements: int) -> int:
    """Threads for a kernel over so many elements: as torch is set now; one where waking a second costs more than it saves."""
    return torch.get_num_threads() if elements >= PARALLEL_FROM and not _forked else 1


def kernel_of(rule: Any, flags: Any, before: Any, dtype: torch.dtype, threads: int) -> Callable[..., None]:
    """The compiled step of a rule of one pass, without measurements: `(chunks, pointers, numbers, out)`."""
    from fallline.optim.engines.source import Form

    if threads > 1:
        use_threads(threads)
    return _kernel(
        (rule, tuple(sorted(flags.items())), tuple(before.items()), Form(_kind(dtype), _kind(dtype))), threads > 1, False, False, False
    )


def kind_of(dtype: torch.dtype) -> str:
    """The kind of number that a dtype is made of; empty where a kernel cannot read it on this machine."""
    return _kind(dtype)


def squares_of(dtype: torch.dtype, threads: int, double: bool) -> Callable[..., None]:
    """The compiled sum of squares of each chunk of gradients, in double precision or in their own: `(chunks, pointers, out)`."""
    if threads > 1:
        use_threads(threads)
    return _squares(_kind(dtype), threads > 1, double)


def _apart(params: list[Tensor]) -> bool:
    """Whether no two parameters share memory.

    >>> x = torch.zeros(4)
    >>> _apart([x[2:], x[:2]]), _apart([x[1:3], x[:2]])
    (True, False)
    """
    begins = np.array([_address(p) for p in params if p.numel()], dtype=np.int64)
    ends = begins + np.array([p.numel() * p.element_size() for p in params if p.numel()], dtype=np.int64)
    order = np.argsort(begins)
    return bool((ends[order][:-1] <= begins[order][1:]).all())


def use_threads(count: int) -> None:
    """Have numba use so many threads from now on."""
    import numba

    limit = min(count, numba.config.NUMBA_NUM_THREADS)  # pyright: ignore[reportAttributeAccessIssue]
    if numba.get_num_threads() != limit:
        numba.set_num_threads(limit)
