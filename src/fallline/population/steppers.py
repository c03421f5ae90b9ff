"""The step of every member by its own rule, rate and schedule.

    Table   rules of one element each: one compiled pass over a table of chunks, a row of numbers for every kind of member (on other
            devices than the CPU the rule's text over the stacked tensors)
    Each    everything else (matrix rules, wrappers, averages, engine="torch" on the CPU): a real optimizer a member, over views

A member's step is the step of its optimizer alone: the same text, the same numbers, the same order of operations.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline import optim
from fallline.optim.engines.numba_ import CHUNK, PARALLEL_FROM, kernel_of, kind_of, run, squares_of, threads_for
from fallline.optim.engines.torch_ import update
from fallline.optim.optimizer import RuleOptimizer
from fallline.optim.plan import Row
from fallline.optim.rule import Rule
from fallline.optim.states import first
from fallline.population.slices import ALIGNED
from fallline.population.stack import Stack
from fallline.training.settings import Settings
from fallline.training.stepping import as_used, bare_step

Rates = Callable[[int], float]


class Head:
    """Members that are stepped by the same numbers: same optimizer, rate and schedule.

    Args:
        optimizer: of a parameter of no size, which holds the settings.
        lr: its rate at any step.
    """

    def __init__(self, optimizer: RuleOptimizer, lr: Rates) -> None:
        self.optimizer, self.lr = optimizer, lr
        self.group = optimizer.param_groups[0]
        self.rule = optimizer.rule
        settings = optimizer.settings_for(self.rule, self.group)
        self.flags, self.before = optimizer._switches(self.rule, self.group)
        carried = {k: float(start(settings)) for k, start in self.rule.carried.items()}
        self.row = Row(self.rule, settings, 0, 0, carried)

    def numbers(self, step: int) -> tuple[float, ...]:
        """The numbers of step `step` (0 is the first), without clipping."""
        self.group["lr"] = self.lr(step)
        row = self.row
        _, row.group, numbers, row.carried = self.optimizer._counted(row, 1.0)
        row.step += 1
        return numbers


def fits(optimizer: torch.optim.Optimizer, stack: Stack | None = None) -> bool:
    """Whether the table can step members of this optimizer (and of this stack), as it would step them alone."""
    if stack is not None and not _compiles(stack, getattr(optimizer, "engine", "")):
        return False
    kind = type(optimizer)
    if (
        not isinstance(optimizer, RuleOptimizer)
        or kind.step is not RuleOptimizer.step
        or getattr(kind, "rule_for", None) is not RuleOptimizer.rule_for
    ):
        return False
    if not isinstance(optimizer.rule, Rule) or optimizer.rule.last is not None or hasattr(kind, "eval"):
        return False
    group = optimizer.param_groups[0]
    return optimizer.state_bits == 32 and not group["differentiable"] and optimizer.engine in {"auto", "numba", "torch"}


def _compiles(stack: Stack, engine: str) -> bool:
    """Whether a kernel steps all weights of a stack, as it would those of a member alone; true elsewhere than on the CPU."""
    if any(v.device.type != "cpu" for v in stack.values.values()):
        return True
    kinds = {v.dtype for v in stack.values.values()}
    return engine != "torch" and len(kinds) == 1 and not any(kind.is_complex for kind in kinds) and bool(kind_of(kinds.pop()))


class _Bucket:
    """Members of a table that one kernel steps; `members` are their places in the stack, ascending."""

    def __init__(self, stack: Stack, members: np.ndarray, heads: list[Head], head_of: np.ndarray) -> None:
        self.members, self.heads, self.head_of = members, heads, head_of
        head = heads[0]
        self.rule, self.flags, self.before = head.rule, head.flags, head.before
        assert isinstance(self.rule, Rule)
        self.names = [s.name for s in self.rule.active(self.flags)]
        self.clip = np.array([heads[h].optimizer.clip_norm or 0.0 for h in head_of])
        self.slack = np.array([0.0 if heads[h].group["like"] in ("keras", "optax") else 1e-6 for h in head_of])
        whole = torch.as_tensor(members, device=next(iter(stack.values.values())).device)
        self.state = {
            n: {s.name: _first(s.initial, v[whole], heads, head_of) for s in self.rule.active(self.flags)} for n, v in stack.values.items()
        }
        self.seconds = 0.0
        self.clips = bool(self.clip.any())
        self.bind(stack)

    def bind(self, stack: Stack) -> None:
        """Look where everything lies."""
        self.lies: list[int] = []
        self.compiled = all(v.device.type == "cpu" for v in stack.values.values())
        if not self.compiled:
            return
        count = len(self.members)
        sizes = [v[0].numel() for v in stack.values.values()]
        self.width = [v.element_size() * size for v, size in zip(stack.values.values(), sizes, strict=True)]
        chunks = []
        for t, size in enumerate(sizes):
            for start in range(0, size, CHUNK):
                part = np.zeros((count, 4), dtype=np.int64)
                part[:, 0], part[:, 1] = t * count + np.arange(count), start
                part[:, 2], part[:, 3] = min(CHUNK, size - start), np.arange(count) if self.clips else self.head_of
                chunks.append(part)
        table = np.concatenate(chunks)
        self.chunks = np.ascontiguousarray(table[np.argsort(table[:, 0] % count, kind="stable")])  # a member's tensors one after another
        self.pointers = np.zeros((len(sizes) * count, 2 + len(self.names)), dtype=np.int64)
        order = np.arange(count)
        for t, (name, v) in enumerate(stack.values.items()):
            rows = slice(t * count, (t + 1) * count)
            self.pointers[rows, 0] = v.data_ptr() + self.members * self.width[t]
            for k, kept in enumerate(self.names):
                self.pointers[rows, 2 + k] = self.state[name][kept].data_ptr() + order * self.width[t]
        dtype = next(iter(stack.values.values())).dtype
        self.threads = threads_for(sum(sizes) * count)
        self.kernel = kernel_of(self.rule, self.flags, self.before, dtype, self.threads)
        self.out = np.zeros((len(self.chunks), 1))
        self.large = sum(sizes) >= PARALLEL_FROM  # of one member, as its optimizer alone asks
        self.dtype, self.found = dtype, np.zeros(len(self.chunks))

    def step(self, stack: Stack, table: np.ndarray) -> None:
        """One step of every member, by a row of numbers for each head."""
        if not self.compiled:
            if self.clips:
                table = table[self.head_of]
                each = torch.stack([g.flatten(1)[self.members].double().square().sum(1) for g in stack.grads.values()])
                table[:, 0] = self._scales(each.sum(0).cpu().numpy())
            self._by_text(stack, table)
            return
        lies = [grad.data_ptr() for grad in stack.grads.values()]
        if lies != self.lies:
            count, self.lies = len(self.members), lies
            for t, begins in enumerate(lies):
                self.pointers[t * count : (t + 1) * count, 1] = begins + self.members * self.width[t]
        if self.clips:
            table = table[self.head_of]
            table[:, 0] = self._scales(self._squares())
        run(self.kernel, self.threads, self.chunks, self.pointers, table, self.out)

    def _squares(self) -> np.ndarray:
        """The sum of the squares of each member's gradients, as its optimizer alone adds them up: the same kernel over the same chunks."""
        single = self.dtype is torch.float64
        totals = self._added(single)
        if not single and not np.isfinite(totals).all():
            totals = np.where(np.isfinite(totals), totals, self._added(True))
        return totals

    def _added(self, double: bool) -> np.ndarray:
        threads = threads_for(PARALLEL_FROM) if self.large else 1
        run(squares_of(self.dtype, threads, double), threads, self.chunks, self.pointers, self.found)
        return np.array([float(np.sum(part)) for part in self.found.reshape(len(self.members), -1)])

    def _scales(self, squares: np.ndarray) -> np.ndarray:
        """What each member's gradient is multiplied by, so that its norm is at most `clip_norm`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = self.clip / (np.sqrt(squares) + self.slack)
        return np.where(scale >= 1.0, 1.0, scale)

    def _by_text(self, stack: Stack, table: np.ndarray) -> None:
        rows = table if self.clips else table[self.head_of]
        for name, v in stack.values.items():
            whole = torch.as_tensor(self.members, device=v.device)
            shape = (-1, *[1] * (v.ndim - 1))
            numbers = tuple(torch.as_tensor(column, dtype=v.dtype, device=v.device).view(shape) for column in rows.T)
            new, kept, _ = update(self.rule, self.flags, self.before, v[whole], stack.grads[name][whole], self.state[name], numbers)  # pyright: ignore[reportArgumentType]
            v[whole] = new
            self.state[name].update(kept)

    def take(self, stack: Stack, kept: np.ndarray, places: np.ndarray) -> None:
        """Keep of the members those at `kept` (indices into `members`), which now stand at `places` of the stack."""
        for held in self.state.values():
            for name in held:
                held[name] = held[name][torch.as_tensor(kept, device=held[name].device)].contiguous()
        self.members, self.clip, self.slack = places, self.clip[kept], self.slack[kept]
        self.clips = bool(self.clip.any())
        used = np.unique(self.head_of[kept])
        self.head_of = np.searchsorted(used, self.head_of[kept])
        self.heads = [self.heads[i] for i in used]
        self.bind(stack)


def _first(initial: str | None, p: Tensor, heads: Sequence[Head], head_of: np.ndarray) -> Tensor:
    """Stacked state before the first step, which may begin at a number of each member's own."""
    if initial is None or initial == "p":
        return first(initial, p, heads[0].group)
    out = torch.empty_like(p)
    for i, h in enumerate(head_of):
        out[i] = float(heads[h].group[initial])
    return out


class Steppers:
    """Steps all members of a stack.

    Args:
        stack: the members' weights and gradients.
        settings: of each member; `optimizer`, `lr`, `weight_decay`, `clip_norm` and `engine` are read.
        rates: of each member: its learning rate at a step (0 is the first).
        alike: for each member what tells its rates from those of others; members of one key share their rates.
    """

    def __init__(self, stack: Stack, settings: Sequence[Settings], rates: Sequence[Rates], alike: Sequence[Any]) -> None:
        self.stack, self.rates = stack, list(rates)
        heads: dict[Any, Head] = {}
        keys: list[Any] = []
        self.each: dict[int, torch.optim.Optimizer] = {}
        self.seconds = np.zeros(len(settings))
        self.tables: list[np.ndarray] = []
        self.ready = range(0)  # the steps whose numbers are worked out
        for member, chosen in enumerate(settings):
            key = (chosen.optimizer, chosen.lr, chosen.weight_decay, chosen.clip_norm, chosen.engine, alike[member])
            if key not in heads:
                made = build_one(chosen, [("weight", torch.nn.Parameter(torch.zeros(0)))])
                if not fits(made, stack):
                    self.each[member] = build_one(chosen, self._views(member))
                    keys.append(None)
                    continue
                assert isinstance(made, RuleOptimizer)
                heads[key] = Head(made, rates[member])
            keys.append(key)
        groups: dict[Any, list[int]] = {}
        for member, key in enumerate(keys):
            if key is not None:
                head = heads[key]
                kind = (head.rule, tuple(head.flags.items()), tuple(head.before.items()), head.optimizer.engine)
                groups.setdefault(kind, []).append(member)
        self.buckets = []
        for members in groups.values():
            mine = list(dict.fromkeys(keys[m] for m in members))
            head_of = np.array([mine.index(keys[m]) for m in members])
            self.buckets.append(_Bucket(stack, np.array(members), [heads[k] for k in mine], head_of))

    def _views(self, member: int) -> list[tuple[str, torch.nn.Parameter]]:
        return [(n, torch.nn.Parameter(v[member])) for n, v in self.stack.values.items()]

    def prepare(self, at: int, steps: int) -> None:
        """Work out the numbers of the next steps, the first of which is `at`."""
        self.tables = [np.array([[head.numbers(at + k) for head in bucket.heads] for k in range(steps)]) for bucket in self.buckets]
        self.ready = range(at, at + steps)

    def step(self, at: int) -> None:
        """One step of every member; `at` steps were made before."""
        if at not in self.ready:
            self.prepare(at, 1)
        row = at - self.ready.start
        for bucket, table in zip(self.buckets, self.tables, strict=True):
            began = time.perf_counter()
            bucket.step(self.stack, table[row])
            bucket.seconds += time.perf_counter() - began
        for member, optimizer in self.each.items():
            began = time.perf_counter()
            lr = self.rates[member](at)
            for group in optimizer.param_groups:
                group["lr"] = lr
                for p, g in zip(group["params"], self.stack.grads.values(), strict=True):
                    p.grad = _even(g[member])
            bare_step(optimizer)()
            self.seconds[member] += time.perf_counter() - began

    def spent(self) -> list[float]:
        """Seconds that each member's steps took since this was asked last; members of one rule share them evenly."""
        for bucket in self.buckets:
            self.seconds[bucket.members] += bucket.seconds / len(bucket.members)
            bucket.seconds = 0.0
        out, self.seconds = self.seconds.tolist(), np.zeros_like(self.seconds)
        return out

    @contextmanager
    def as_used(self) -> Iterator[None]:
        """With the weights that are meant to be used, where an optimizer keeps averages."""
        with ExitStack() as stack:
            for optimizer in self.each.values():
                stack.enter_context(as_used(optimizer))
            yield

    def take(self, kept: Sequence[int]) -> None:
        """Keep the members `kept` (ascending); the stack has done so already."""
        place = {old: new for new, old in enumerate(kept)}
        self.spent()
        self.ready = range(0)
        self.rates, self.seconds = [self.rates[i] for i in kept], self.seconds[list(kept)]
        for bucket in self.buckets:
            mine = [k for k, m in enumerate(bucket.members) if int(m) in place]
            if mine:
                bucket.take(self.stack, np.array(mine), np.array([place[int(bucket.members[k])] for k in mine]))
            else:
                bucket.members = np.array([], dtype=np.int64)
        self.buckets = [b for b in self.buckets if len(b.members)]
        self.each = {place[m]: optimizer for m, optimizer in self.each.items() if m in place}
        for member, optimizer in self.each.items():
            for group in optimizer.param_groups:
                for p, v in zip(group["params"], self.stack.values.values(), strict=True):
                    p.data = v[member]


def _even(grad: Tensor) -> Tensor:
    """A gradient that begins where a tensor of its own would: the products of matrix rules may round by that."""
    return grad.clone() if grad.ndim > 1 and grad.data_ptr() % ALIGNED else grad


@functools.cache
def _magnifies(spec: str) -> str:
    made = optim.build(spec, [("weight", torch.nn.Parameter(torch.zeros(0)))], lr=0.0)
    found = [each for each in optim.wrappers.chain(made) if isinstance(each, optim.SOAP)]
    return f"{type(found[0]).__name__.lower()} makes much of rounding" if found else ""


def magnified(chosen: Settings) -> str:
    """Why a member needs the very bits of the run alone; empty where rounding does not matter.

    SOAP turns gradients into a basis of eigenvectors; those of eigenvalues that are near one another may turn by any angle with the last
    bits of the matrix. A run of 40 steps in double precision whose weights begin 10⁻¹⁵ apart ends 0.2 apart with SOAP, and less than
    10⁻¹⁴ with every other rule.
    """
    return _magnifies(chosen.optimizer)


def build_one(chosen: Settings, named: list[tuple[str, torch.nn.Parameter]]) -> torch.optim.Optimizer:
    """The optimizer that a member alone would have."""
    assert chosen.lr != "auto"
    return optim.build(
        chosen.optimizer,
        named,
        lr=float(chosen.lr),
        weight_decay=chosen.weight_decay,
        clip_norm=chosen.clip_norm,
        engine=chosen.engine,
        nonfinite="allow",
    )
