"""torch.func, torch.compile and other devices: notes for those who need them."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from fallline.prove import guard
from fallline.prove._check import Case
from fallline.prove.report import Finding, found
from fallline.prove.spy import Spy
from fallline.prove.subject import NotChecked, brief


def functional(case: Case) -> Iterator[Finding]:
    """It can be mapped by vmap; with compile=True, torch.func.grad is mapped too (it imports torch's compiler, which takes seconds)."""
    s = case.subject
    if not s.graph:
        raise NotChecked("no gradient comes back")
    fn = s.at(s.x.dtype)

    def value(x: Tensor) -> Tensor:
        return fn(x, None if s.targetless else s.y.clone()).mean()

    try:
        torch.func.vmap(torch.func.grad(value) if case.compile else value)(torch.stack([s.x, s.x]))
    except Exception as error:
        yield found("no-transforms", brief(error))


def compiled(case: Case) -> Iterator[Finding]:
    """torch.compile takes it in one graph, with the same value."""
    s = case.subject
    if not case.compile:
        raise NotChecked("pass compile=True")
    torch._dynamo.reset()
    try:
        twice = torch.compile(s.at(s.x.dtype), fullgraph=True, backend="eager")(s.x.clone(), None if s.targetless else s.y.clone())
    except Exception as error:
        yield found("no-compile", brief(error))
        return
    finally:
        torch._dynamo.reset()
    if case.moved(float(twice.detach().double().mean()), case.base):
        yield found("no-compile", f"compiled it gives {float(twice.detach().double().mean()):.6g}, else {case.base:.6g}", severity="error")


def device(case: Case) -> Iterator[Finding]:
    """Tensors made inside follow the input's device."""
    s = case.subject
    modules, tensors = guard.held(s.fn)
    if tensors or (modules and not isinstance(s.fn, torch.nn.Module)):
        raise NotChecked("the loss holds tensors that only you can move")
    if s.own_x.device.type != "cpu":
        raise NotChecked("the input given is not on the CPU")
    fn = s.at(s.own_x.dtype)
    with Spy() as spy:
        s.raw(s.own_x, s.own_y)
    if not spy.made:
        return
    try:
        if isinstance(fn, torch.nn.Module):
            fn = copy.deepcopy(fn).to("meta")
        fn(s.own_x.to("meta"), None if s.targetless else s.own_y.to("meta"))
    except Exception as error:
        told = brief(error)
        if "device" in told and "cpu" in told and "meta" in told:
            yield found("device", f"with input and target on another device: {told}; {spy.made[0]}")
            return
        raise NotChecked("values are read, so it cannot be traced without them") from error
