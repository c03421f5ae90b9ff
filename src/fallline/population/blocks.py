"""How many members are trained together: what is fastest on this machine, measured once for a shape of model and batch, and what fits.

Too few members leave time in the calls, too many leave the cache. A few steps of blocks of 1, 4, 8, 16, ... members are timed, smaller
ones first, until twice in a row a larger block is no faster for a member. The answer is kept in the user's cache, so that the same
study takes the same blocks again: a member's last bits may depend on its block.
"""

import copy
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fallline._core.files import write_text
from fallline.optim.engines.modules import folder
from fallline.population.noise import Noise, Unstackable
from fallline.population.passes import make_pass
from fallline.population.stack import Stack
from fallline.population.steppers import Steppers
from fallline.training.settings import Settings

if TYPE_CHECKING:
    from fallline.losses import Loss

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST = SIZES[-1]
_SECONDS = 0.04  # of timing a size, at most about
_NEARLY = 0.97  # a larger block must be that much faster to be taken
_SHARE = 0.5  # of the memory that is free


def block_size(model: nn.Module, x: Tensor, target: Tensor, loss: "Loss", settings: Settings, *, members: int) -> int:
    """Members that are best trained together.

    Args:
        model: of one member.
        x: rows of a mini-batch, (N, ...).
        target: of these rows.
        loss: what is minimised.
        settings: of one member.
        members: that there are; no block is larger.

    Raises:
        Unstackable: the model cannot be run for several members at once.
    """
    most = min(MOST, fitting(model, x))
    key = _key(model, x, loss)
    held = _read()
    if key not in held:
        held[key] = _measure(model, x, target, loss, settings, most)
        _write(held)
    else:
        make_pass(Stack([model] * 2, x.device), x, Noise([0, 1], x.device), target, loss)  # says whether it can be run at all
    return max(1, min(held[key], most, members))


def fitting(model: nn.Module, x: Tensor) -> int:
    """How many members fit into half of the free memory; at least 1."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    rows = x.numel() * x.element_size()
    shown = 0

    def see(module: nn.Module, args: object, out: object) -> None:
        nonlocal shown
        del module, args
        if isinstance(out, Tensor):
            shown += out.numel() * out.element_size()

    hooks = [m.register_forward_hook(see) for m in model.modules() if not list(m.children())]
    try:
        with torch.no_grad():
            modes = [(m, m.training) for m in model.modules()]
            model.eval()
            model(x[:1])
            for m, was in modes:
                m.training = was
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, int(_SHARE * free_memory(x.device) / max(1, 7 * weights + 3 * shown * len(x) + 2 * rows)))


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
    best, fastest, worse = 1, float("inf"), 0
    for size in SIZES:
        if size > most or worse == 2:
            break
        took = _time(model, x, target, loss, settings, size) / size
        if took < _NEARLY * fastest:
            best, fastest, worse = size, took, 0
        else:
            worse += 1
    return best


def _time(model: nn.Module, x: Tensor, target: Tensor, loss: "Loss", settings: Settings, size: int) -> float:
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
        passes.step(xs, ts, loss)
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
        torch.get_num_threads(),
        os.cpu_count(),
    ]
    return hashlib.sha256(repr(words).encode()).hexdigest()[:24]


def _read() -> dict[str, int]:
    try:
        found = json.loads((folder() / "blocks.json").read_text())
        return {str(k): int(v) for k, v in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write(held: dict[str, int]) -> None:
    try:
        write_text(folder() / "blocks.json", json.dumps(held))
    except OSError:
        pass


def step_seconds(model: nn.Module, x: Tensor, target: Tensor, loss: "Loss", settings: Settings, *, members: int) -> float:
    """About how many seconds a step of one of so many members takes on this machine; of a model that cannot be stacked: of one alone."""
    try:
        size = block_size(model, x, target, loss, settings, members=members)
        return _time(model, x, target, loss, settings, size) / size
    except Unstackable:
        return _time_alone(model, x, target, loss)


def _time_alone(model: nn.Module, x: Tensor, target: Tensor, loss: "Loss") -> float:
    copied = copy.deepcopy(model).train()
    took = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(4):
            start = time.perf_counter()
            raw = copied(x)
            loss.quick(raw.reshape(-1) if raw.shape[-1] == 1 else raw, target).backward()
            took.append(time.perf_counter() - start)
    return 1.3 * min(took[1:])  # and the step
