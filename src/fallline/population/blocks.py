"""How many members are trained together: what is fastest on this machine, measured once for a shape of model and batch, and what fits.

    squad    members that one thread steps together: too few leave time in the calls, too many leave the cache
    block    2 · threads squads (8 members at least), so that no thread waits long for another; what is recorded, judged and resumed at once

A few steps of squads of 1, 2, 4, 8, ... members are timed on one thread, smaller ones first, until twice in a row a larger squad is no
faster for a member; the best are timed again by turns, and the smallest within 3 % of the fastest is taken. The answer is kept in the
user's cache, so that the same study takes the same squads again: a member's last bits may depend on its squad.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from fallline._core.files import write_text
from fallline.optim.engines.modules import folder
from fallline.population.noise import Noise, Unstackable, first_line
from fallline.population.passes import make_pass
from fallline.population.probe import undisturbed
from fallline.population.stack import Stack
from fallline.population.steppers import Steppers
from fallline.training.settings import Settings

if TYPE_CHECKING:
    from fallline.losses import Loss

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
MOST = 256  # members in a block
_LEAST = 8  # where there is memory
_SECONDS = 0.03  # of timing a size, at most about
_NEARLY = 0.97  # a larger squad must be that much faster to be taken
_AGAIN = 1.15  # times the fastest: sizes that are timed again
_SHARE = 0.5  # of the memory that is free


class Sizes(NamedTuple):
    """How many members are trained together.

    Attributes:
        block: judged and recorded together.
        squad: stepped together by one thread.
    """

    block: int
    squad: int


def block_size(model: nn.Module, x: Tensor, target: Tensor, loss: "Loss", settings: Settings) -> Sizes:
    """How many members are best trained together.

    Args:
        model: of one member.
        x: rows of a mini-batch, (N, ...).
        target: of these rows.
        loss: what is minimised.
        settings: of one member.

    Raises:
        Unstackable: the model cannot be run for several members at once.
    """
    make_pass(Stack([model] * 2, x.device), x, Noise([0, 1], x.device), target, loss)  # says whether it can be run at all
    most = min(MOST, fitting(model, x))
    key = _key(model, x, loss)
    held = _read()
    if key not in held:
        held[key] = _measure(model, x, target, loss, settings, most)
        _write({**_read(), key: held[key]})
    squad = max(1, min(held[key], most))
    threads = torch.get_num_threads() if x.device.type == "cpu" else 1
    return Sizes(max(1, min(MOST, most, max(_LEAST, 2 * threads * squad))), squad)


def fitting(model: nn.Module, x: Tensor) -> int:
    """How many members fit into half of the free memory; at least 1. Nothing of the model is changed.

    Raises:
        Unstackable: a model that cannot judge the rows.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    rows = x.numel() * x.element_size()
    shown = 0

    def see(module: nn.Module, args: object, out: object) -> None:
        nonlocal shown
        del module, args
        if isinstance(out, Tensor):
            shown += out.numel() * out.element_size()

    hooks = [m.register_forward_hook(see) for m in model.modules() if not list(m.children())]
    modes = [(m, m.training) for m in model.modules()]
    try:
        with torch.no_grad(), undisturbed(x.device):
            model.eval()
            model(x)
    except Exception as error:  # the user's forward may raise whatever it likes
        raise Unstackable(f"the model cannot be run on a mini-batch ({first_line(error)})") from error
    finally:
        for hook in hooks:
            hook.remove()
        for m, was in modes:
            m.training = was
    return max(1, int(_SHARE * free_memory(x.device) / max(1, 7 * weights + 3 * shown + 2 * rows)))


def free_memory(device: torch.device) -> int:
    """Free bytes on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 << 30


def _measure(model: nn.Module, x: Tensor, target: Tensor, loss: "Loss", settings: Settings, most: int) -> int:
    took: dict[int, float] = {}
    worse = 0
    with _one_thread():
        for size in SIZES:
            if size > most or worse == 2:
                break
            least = min(took.values(), default=float("inf"))
            took[size] = _time(model, x, target, loss, settings, size) / size
            worse = 0 if took[size] < _NEARLY * least else worse + 1
        for _ in range(2):
            for size in [size for size, each in took.items() if each < _AGAIN * min(took.values())]:
                took[size] = min(took[size], _time(model, x, target, loss, settings, size) / size)
    return next(size for size, each in took.items() if _NEARLY * each <= min(took.values()))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _time(model: nn.Module, x: Tensor, target: Tensor, loss: "Loss", settings: Settings, size: int) -> float:
    """Seconds of one step of so many members, gathering included."""
    stack = Stack([model] * size, x.device)
    noise = Noise(range(size), x.device)
    passes = make_pass(stack, x, noise, target, loss)
    steppers = Steppers(stack, [settings] * size, [lambda step: 0.0] * size, [0] * size)
    xs = x.unsqueeze(0).repeat(size, *[1] * x.ndim)
    ts = target.unsqueeze(0).repeat(size, *[1] * target.ndim)
    took = []
    began = time.perf_counter()
    while len(took) < 4 or (time.perf_counter() - began < _SECONDS and len(took) < 50):
        start = time.perf_counter()
        passes.step(xs.clone(), ts, loss)
        steppers.step(len(took))
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        took.append(time.perf_counter() - start)
        if time.perf_counter() - began > 20 * _SECONDS and len(took) > 1:
            break
    return min(took[1:])


def _key(model: nn.Module, x: Tensor, loss: "Loss") -> str:
    shapes = [(n, tuple(p.shape), str(p.dtype)) for n, p in model.named_parameters()]
    words = [
        repr(model),
        shapes,
        tuple(x.shape),
        str(x.device),
        type(loss).__name__,
        torch.__version__,
        os.cpu_count(),
    ]
    return hashlib.sha256(repr(words).encode()).hexdigest()[:24]


def _read() -> dict[str, int]:
    try:
        found = json.loads((folder() / "blocks.json").read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if type(v) is int and v >= 1} if isinstance(found, dict) else {}


def _write(held: dict[str, int]) -> None:
    with suppress(OSError):
        write_text(folder() / "blocks.json", json.dumps(held))
