"""A `torch.optim.Optimizer` over an update rule: groups, state, checkpoints and the choice of engine, once for all rules.

State is torch's, by torch's names, so checkpoints go both ways. Where the parameters were given with names, a checkpoint is matched by
name. Every parameter counts its own steps. A gradient is never modified: clipping and weight decay act inside the step.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from fallline._core.errors import FalllineError, must, nearest
from fallline._core.number import Number
from fallline.optim.rule import Group, Rule

Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


def _plain(name: str) -> Callable[..., Any]:
    """A method of torch.optim.Optimizer without the wrapper that imports torch's compiler (a second) to be left alone by it.

    Where the compiler is loaded already, the wrapper costs nothing and stays.
    """
    method = getattr(torch.optim.Optimizer, name)
    return method if "torch._dynamo" in sys.modules else getattr(method, "__wrapped__", method)


RATE = Number("lr", 0, usual="0.001 to 0.1")
_DECAY = Number("weight_decay", 0, usual="0 to 0.1")
_CLIP = Number("clip_norm", 0, open_low=True, usual="1")
ENGINES = ("auto", "torch", "numba")
_SWITCHES = frozenset({"maximize", "nesterov", "amsgrad", "centered", "decoupled_weight_decay"})


class RuleOptimizer(torch.optim.Optimizer):
    """Base of every optimizer that steps by an elementwise rule; a subclass names the rule and its numbers."""

    rule: ClassVar[Rule]
    numbers: ClassVar[tuple[Number, ...]] = ()
    likes: ClassVar[dict[str, dict[str, float]]]
    decay: ClassVar[str] = "gradient"  # "own": the rule's text decays the weights itself

    def __init__(self, params: Params, settings: dict[str, Any], *, engine: str, clip_norm: float | None) -> None:
        where = type(self).__name__
        if settings["like"] not in self.likes:
            raise FalllineError(f"`like` must be one of {', '.join(map(repr, self.likes))} for {where}, but got {settings['like']!r}.")
        if engine not in ENGINES:
            raise FalllineError(f"`engine` must be one of {', '.join(map(repr, ENGINES))} for {where}, but got {engine!r}.")
        preset = self.likes[settings["like"]]
        defaults = {key: preset.get(key) if value is None else value for key, value in settings.items()}
        self.engine = engine
        self.clip_norm = None if clip_norm is None else _CLIP.check(clip_norm, where=where)
        self._plans: list[Any] | None = None
        self._scale = 1.0
        try:
            super().__init__(_listed(params), defaults)
        except ValueError as error:
            if isinstance(error, FalllineError):
                raise
            raise FalllineError(f"{where}: {error}.") from error

    def check(self, group: dict[str, Any]) -> None:
        """Refuse numbers out of their range."""
        where = type(self).__name__
        for number in (RATE, _DECAY, *self.numbers):
            value = group[number.name]
            if number.name == "betas":
                paired = isinstance(value, tuple | list) and len(value) == 2
                must(paired, "betas is a pair of numbers", repr(value), f"{number.usual} is usual", where=where)
                number.check(value[0], where=where)
                number.check(value[1], where=where)
            else:
                number.check(value, where=where)
        for name in _SWITCHES & group.keys():
            must(group[name] in (True, False), f"{name} is true or false", repr(group[name]), where=where)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; see torch.optim.Optimizer.add_param_group. Its numbers are checked as the constructor's are."""
        known = {*self.defaults, "params", "param_names", "initial_lr"}
        for key in param_group:
            if key not in known:
                hint = nearest(key, known)
                raise FalllineError(
                    f"a group of {type(self).__name__} has no setting {key!r}; "
                    + (f"did you mean {hint[0]!r}?" if hint else f"it has {', '.join(sorted(known))}.")
                )
        self.check({**self.defaults, **param_group})
        _plain("add_param_group")(self, param_group)
        self._plans = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop (or zero) every gradient; see torch.optim.Optimizer.zero_grad."""
        _plain("zero_grad")(self, set_to_none)

    # -- the step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of every parameter that has a gradient.

        Args:
            closure: evaluates the loss again, with gradients; its value is returned.

        Returns:
            The closure's value, or None.
        """
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        if self._plans is None or not self._fits():
            self._plan()
        assert self._plans is not None
        self._scale = self._clip_scale()
        for plan in self._plans:
            plan.run()
        return value

    def _switches(self, group: Group) -> tuple[dict[str, bool], dict[str, bool]]:
        """Switches of the rule and of the prelude for one group."""
        decays = self.decay != "own" and float(group["weight_decay"]) != 0.0
        decoupled = group["like"] == "keras" or bool(group.get("decoupled_weight_decay", False))
        before = {
            "maximize": bool(group["maximize"]),
            "clips": self.clip_norm is not None,
            "decays": decays and not decoupled,
            "shrinks": decays and decoupled,
        }
        return self.rule.flags_of(group), before

    def _numbers(self, index: int, t: int) -> tuple[float, ...]:
        """The prelude's and the rule's numbers for group `index` at step `t`, in double precision."""
        group = self.param_groups[index]
        decay = float(group["weight_decay"])
        return (self._scale, decay, 1.0 - float(group["lr"]) * decay, *self.rule.prepare(group, t))

    def _clip_scale(self) -> float:
        """Factor that brings the global norm of the gradients down to `clip_norm`; one extra read of them."""
        if self.clip_norm is None:
            return 1.0
        grads = [g for plan in self._plans or [] for g in plan.grads]
        norm = float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0
        return min(1.0, self.clip_norm / (norm + 1e-6))

    def _fits(self) -> bool:
        """Whether the plans still describe what is to be stepped; reads this step's gradients."""
        assert self._plans is not None
        return (
            self._seen == [self._switches(g) for g in self.param_groups]
            and all(plan.gather() for plan in self._plans)
            and all(p.grad is None for p in self._idle)
        )

    def _plan(self) -> None:
        """Sort the parameters that have a gradient into buckets that can be stepped as one."""
        from fallline.optim.engines.torch_ import Reference

        self._plans = None  # a refusal below leaves no plan that knows of some parameters only
        self._seen = [self._switches(g) for g in self.param_groups]
        self._idle: list[Tensor] = []
        buckets: dict[Any, list[tuple[Tensor, dict[str, Any], int]]] = {}
        for index, group in enumerate(self.param_groups):
            flags, before = self._seen[index]
            for p in group["params"]:
                if p.grad is None:
                    self._idle.append(p)
                    continue
                self._check_gradient(p, group)
                engine = self._engine_for(p)
                state = self._state_of(p, group, flags, like=engine == "numba")
                key = (engine, p.dtype, tuple(flags.items()), tuple(before.items()))
                buckets.setdefault(key, []).append((p, state, index))
        plans: list[Any] = []
        for (engine, _, flags, before), members in buckets.items():
            if engine == "numba":
                from fallline.optim.engines.numba_ import Plan

                plans.append(Plan(self.rule, dict(flags), dict(before), members, self._numbers))
            else:
                plans.append(Reference(self.rule, dict(flags), dict(before), members, self._numbers))
        for plan in plans:
            plan.gather()
        self._plans = plans

    def _engine_for(self, p: Tensor) -> str:
        if self.engine == "torch":
            return "torch"
        from fallline.optim.engines.numba_ import takes

        assert p.grad is not None
        if takes(p) and takes(p.grad) and p.dtype == p.grad.dtype:
            return "numba"
        if self.engine == "numba":
            raise FalllineError(
                f"engine='numba' steps contiguous float32 and float64 tensors on the CPU, but got a {p.dtype} parameter "
                f"of shape {tuple(p.shape)} on {p.device}; engine='auto' steps it with torch."
            )
        return "torch"

    def _check_gradient(self, p: Tensor, group: Group) -> None:
        assert p.grad is not None
        where = f"{type(self).__name__}, parameter {self._name_of(p, group)}"
        must(p.grad.layout is torch.strided, "the gradient is dense", p.grad.layout, "use nn.Embedding(sparse=False)", where=where)
        must(p.dtype.is_floating_point, "the parameter is real", p.dtype, "split it into its real and imaginary part", where=where)

    def _name_of(self, p: Tensor, group: Group) -> str:
        position = next(i for i, q in enumerate(group["params"]) if q is p)
        return repr(group["param_names"][position]) if "param_names" in group else f"{position} of shape {tuple(p.shape)}"

    def _state_of(self, p: Tensor, group: Group, flags: dict[str, bool], *, like: bool) -> dict[str, Any]:
        """The state of a parameter, complete; `like`: in the very layout and dtype of the parameter."""
        state: dict[str, Any] = self.state[p]
        wanted = self.rule.active(flags)
        held = any(isinstance(state.get(s.name), Tensor) for s in wanted)
        state.setdefault("step", 1.0 if held else 0.0)  # torch's SGD counts no steps; with a buffer it has made at least one
        for s in wanted:
            kept = state.get(s.name)
            if not isinstance(kept, Tensor):
                first = 0.0 if s.initial is None else float(group[s.initial])
                state[s.name] = torch.full_like(p, first, memory_format=torch.preserve_format)
                continue
            where = f"{type(self).__name__}, parameter {self._name_of(p, group)}"
            must(
                kept.shape == p.shape, "state has its parameter's shape", f"{s.name} {tuple(kept.shape)} for {tuple(p.shape)}", where=where
            )
            if kept.device != p.device or (like and (kept.dtype != p.dtype or not kept.is_contiguous())):  # the parameter was moved or cast
                state[s.name] = torch.empty_like(p).copy_(kept)
        return state

    # -- checkpoints, copies

    def state_dict(self) -> dict[str, Any]:
        """State and groups in torch.optim's form; the step counts are copies, so that no two tensors share memory."""
        for plan in self._plans or []:
            plan.derive(self.param_groups)
        held = _plain("state_dict")(self)
        states = {
            key: {
                name: v.to(torch.float32, copy=True) if isinstance(v, Tensor) and v.dim() == 0 and name in self._counters else v
                for name, v in s.items()
            }
            for key, s in held["state"].items()
        }
        return {**held, "state": states}

    @property
    def _counters(self) -> tuple[str, ...]:
        return ("step", *self.rule.derived)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this optimizer or of torch.optim's; by name where both sides have names.

        Raises:
            FalllineError: other names, another number of parameters, state of another shape, or a number out of its range; nothing is
                changed then.
        """
        where = type(self).__name__
        ordered = _by_name(self.param_groups, state_dict, where)
        ours = [p for g in self.param_groups for p in g["params"]]
        theirs = [i for g in ordered["param_groups"] for i in g["params"]]
        must(len(ours) == len(theirs), "as many parameters as the checkpoint has", f"{len(ours)} for its {len(theirs)}", where=where)
        shaped = {s.name for s in self.rule.state}
        for p, i in zip(ours, theirs, strict=True):
            for name, value in ordered["state"].get(i, {}).items():
                if name in shaped and isinstance(value, Tensor):
                    must(
                        value.shape == p.shape,
                        "state has its parameter's shape",
                        f"{name} {tuple(value.shape)} for {tuple(p.shape)}",
                        where=where,
                    )
        for group in ordered["param_groups"]:
            self.check({**self.defaults, **group})
        own = {i: {k: v.clone() if isinstance(v, Tensor) else v for k, v in s.items()} for i, s in ordered["state"].items()}
        try:
            _plain("load_state_dict")(self, {**ordered, "state": own})
        except ValueError as error:
            raise FalllineError(f"{where}: {error}.") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "engine": self.engine, "clip_norm": self.clip_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        self._plans = None

    def __repr__(self) -> str:
        changed = {k: v for k, v in self.param_groups[0].items() if k in self.defaults and k != "like"}
        like = self.param_groups[0]["like"]
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())}, like={like!r}, engine={self.engine!r})"


def given(arguments: dict[str, Any]) -> dict[str, Any]:
    """The settings among a constructor's `locals()`: all but the parameters and what is not kept in a group.

    >>> given({"self": 0, "params": [], "lr": 0.1, "engine": "auto", "clip_norm": None})
    {'lr': 0.1}
    """
    return {k: v for k, v in arguments.items() if k not in {"self", "params", "engine", "clip_norm", "__class__"}}


def _listed(params: Params) -> Any:
    """The parameters as torch wants them, refusing the same one twice."""
    if isinstance(params, Tensor | dict):
        raise FalllineError(
            f"`params` must be an iterable of tensors, of (name, tensor) or of groups, but got a {type(params).__name__}; pass [it]."
        )
    listed = [  # a generator is read here, once
        {**item, "params": list(item["params"])} if isinstance(item, dict) and isinstance(item.get("params"), Iterator) else item
        for item in params
    ]
    groups = [item.get("params", ()) if isinstance(item, dict) else [item] for item in listed]
    flat = [p for group in groups for p in ([group] if isinstance(group, Tensor) else group)]
    seen: set[int] = set()
    for item in flat:
        p = item[1] if isinstance(item, tuple) else item
        if id(p) in seen:
            raise FalllineError(f"every parameter must be given once, but one of shape {tuple(p.shape)} came twice; drop the second.")
        seen.add(id(p))
    return listed


def _by_name(groups: list[dict[str, Any]], state_dict: dict[str, Any], where: str) -> dict[str, Any]:
    """The checkpoint with each group's parameters in our order, where both sides have names."""
    out = []
    for ours, theirs in zip(groups, state_dict["param_groups"], strict=False):
        if "param_names" not in ours or "param_names" not in theirs:
            out.append(theirs)
            continue
        place = dict(zip(theirs["param_names"], theirs["params"], strict=True))
        missing = [n for n in ours["param_names"] if n not in place]
        extra = [n for n in theirs["param_names"] if n not in set(ours["param_names"])]
        must(
            not missing and not extra,
            "the checkpoint's names are the model's",
            f"missing {missing[:5]}, not known {extra[:5]}",
            where=where,
        )
        out.append({**theirs, "params": [place[n] for n in ours["param_names"]], "param_names": list(ours["param_names"])})
    return {**state_dict, "param_groups": [*out, *state_dict["param_groups"][len(out) :]]}
