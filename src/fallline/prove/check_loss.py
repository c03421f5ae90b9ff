"""Prove a loss: value, gradient, second gradient, dtype, batch and edges, of any callable, with what to write instead.

Nothing is taken on trust: derivatives are compared with differences at points off the user's own (so that a kink is no fault), the
direction is read from gradients at equal predictions, and each part of input and target is moved to see whether the value moves.
A check that cannot be made is said to be *not checked*, never *passed*.
"""

import functools
import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fallline._core.errors import FalllineError, lookup, must, refuse
from fallline.prove import guard
from fallline.prove._check import Case, Check
from fallline.prove.checks import CHECKS, NAMES
from fallline.prove.checks.calls import first_call
from fallline.prove.forms import domain_of, target_of
from fallline.prove.packed import Packed, several, unpacking
from fallline.prove.report import Finding, LossReport, worst_first
from fallline.prove.subject import NotChecked, Refused, Subject, brief

_WHERE = "check_loss"


def check_loss(
    fn: Callable[..., Any],
    input: Any,
    target: Any,
    *,
    reference: Callable[..., Any] | None = None,
    perfect: Tensor | None = None,
    reduction: Literal["mean", "sum", "none"] | None = None,
    separate: bool | None = None,
    random: bool = False,
    skip: Collection[str] = (),
    compile: bool = False,
    seed: int = 0,
) -> LossReport:
    """What is wrong with a loss, and what was proved right.

    `fn(input, target)` is any callable that returns a tensor: a function, an `nn.Module`, one of fallline's losses or of torch's.
    `input` and `target` are an ordinary batch, as your model and data give them: 8 examples or more, not all alike. What kind of numbers
    they are (classes, labels 0/1 or -1/+1, numbers; scores or probabilities) is read off them. `target` None: a loss without a target.
    Either may be a dict, tuple or list of tensors with one row an example (several heads, two views); which way such a loss pushes is then
    not checked.

    `reference`: an independent formula `reference(input, target)` to compare values with, called in float64 where the loss takes that.
    `perfect`: the input at which the loss should be least for this target.
    `reduction`: what the result is meant to be; without it a sum is a warning, not an error.
    `separate`: False for losses that compare examples with each other (contrastive, ranking), where no batch is the mean of its parts.
    `random`: True where the loss draws random numbers on purpose: every call then begins at the same seed.
    `skip`: names of checks to leave out, as the report calls them. `compile`: also try `torch.compile`, which takes seconds.
    `seed`: of the points looked at.

    The function, its tensors, your data, the random generators and torch's settings are afterwards as they were.
    Raises FalllineError where `fn`, `input` or `target` is nothing that can be checked.

    >>> import torch
    >>> def half_mse(input, target):
    ...     return ((input.detach() - target) ** 2).mean() / 2
    >>> report = check_loss(half_mse, torch.linspace(-1, 1, 8), torch.linspace(0, 2, 8) ** 2)
    >>> report.ok, [finding.name for finding in report.errors]
    (False, ['detached'])
    >>> check_loss(torch.nn.functional.huber_loss, torch.linspace(-1, 1, 8), torch.linspace(0, 2, 8) ** 2).ok
    True
    """
    must(callable(fn), "the loss is callable", type(fn).__name__, "give a function or an nn.Module", where=_WHERE)
    if isinstance(fn, type):
        refuse("the loss is called as fn(input, target)", f"the class {fn.__name__}", f"write {fn.__name__}()", where=_WHERE)
    for name in skip:
        lookup("check", name, dict.fromkeys(NAMES))
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings(), guard.untouched(fn):
        warnings.simplefilter("ignore")
        parts_x = Packed(input, "input") if several(input) else None
        parts_y = Packed(target, "target") if several(target) else None
        x = parts_x.table() if parts_x else _tensor(input, "input")
        y = parts_y.table() if parts_y else None if target is None else _tensor(target, "target")
        targetless = y is None
        y = x.new_zeros(x.shape[:1]) if y is None else y
        if not x.is_floating_point():
            refuse("the input is floating point", x.dtype, "give the model's raw output; it comes before the target", where=_WHERE)
        for what, given in (("input", x), ("target", y)):
            must(given.numel() > 0, f"the {what} holds an example", tuple(given.shape), "give an ordinary batch", where=_WHERE)
            if given.is_floating_point() and not bool(torch.isfinite(given).all()):
                refuse(f"the {what} is finite", "NaN or infinity", "give an ordinary batch; edges are tried on their own", where=_WHERE)
        called = unpacking(fn, parts_x, parts_y) if parts_x or parts_y else fn
        subject = Subject(called, x, y, seed=seed, random=random, targetless=targetless)
        hints = {"reference": reference, "perfect": perfect, "compile": compile}
        hints["reduction"] = reduction or _told(fn, "reduction")
        hints["separate"] = separate if separate is not None else _told(fn, "separate")
        return _prove(
            subject,
            _name(fn),
            hints,
            frozenset(skip),
            bool(parts_x or parts_y),
            parts_x is not None and parts_x.whole,
            _told(fn, "jumps") is True,
        )


def _prove(subject: Subject, name: str, hints: dict[str, Any], skip: frozenset[str], parts: bool, whole: bool, jumps: bool) -> LossReport:
    findings, fatal = first_call(subject)
    findings = [replace(finding, check="call") for finding in findings]
    passed: dict[str, str] = {} if findings else {"call": "the result is one finite number, or one an example"}
    if fatal:
        return LossReport(name, worst_first(findings), passed, dict.fromkeys((check.name for check in CHECKS), fatal))
    subject.settle()
    base = subject.number(subject.x, subject.y)
    case = Case(subject, "unknown" if parts else target_of(subject), domain_of(subject.x), base, **hints)
    if "gradient" in skip:
        case.mark("gradient-skipped")
    if jumps:
        case.mark("jumps")
    if whole:
        case.mark("whole-parts")
    skipped: dict[str, str] = {}
    for check in CHECKS:
        if check.name in skip:
            skipped[check.name] = "left out by skip="
            continue
        if check.still and subject.noisy:
            skipped[check.name] = subject.noisy
            continue
        try:
            of_this = _make(check, case)
        except NotChecked as reason:
            skipped[check.name] = str(reason)
            continue
        for finding in of_this:
            if finding.name not in {known.name for known in findings}:  # the first evidence of a problem is enough
                findings.append(finding)
        if not of_this:
            passed[check.name] = check.proves
    return LossReport(name, worst_first(findings), passed, skipped, _learned(case))


def _make(check: Check, case: Case) -> list[Finding]:
    made: list[Finding] = []
    try:
        for finding in check.run(case):
            made.append(replace(finding, check=check.name))
    except NotChecked:
        if not made:
            raise
    except Refused as refused:
        if not made:
            raise NotChecked(f"the loss refuses: {refused}") from refused
    except Exception as error:  # of the loss, called where Refused does not reach: in a hook, or by autograd
        if not made:
            raise NotChecked(f"the check fails: {brief(error)}") from error
    return made


def _learned(case: Case) -> dict[str, str]:
    s = case.subject
    digits = "float64" if s.wide and not s.coarse else "32 bits"
    return {
        "target": case.kind,
        "input": case.domain,
        "result": "one number" if s.reduction == "scalar" else "one an example",
        "in": digits,
    }


def _tensor(value: Any, what: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FalllineError(f"`{what}` must be a tensor or an array for {_WHERE}, but got {type(value).__name__}.") from error
    if tensor.is_complex():
        refuse(f"the {what} is real", tensor.dtype, where=_WHERE)
    return tensor.detach().clone()


def _told(fn: Any, key: str) -> Any:
    """An attribute such as `reduction` of the loss, or a keyword of a partial."""
    if isinstance(fn, functools.partial):
        return fn.keywords[key] if key in fn.keywords else _told(fn.func, key)
    value = getattr(fn, key, None)
    return value if isinstance(value, (str, bool)) else None


def _name(fn: Any) -> str:
    if isinstance(fn, functools.partial):
        return _name(fn.func)
    return type(fn).__name__ if isinstance(fn, nn.Module) else getattr(fn, "__name__", type(fn).__name__)
