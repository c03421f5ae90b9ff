"""Symbols for the values and weights of a network small enough to name each one.

    z3 = w13 a1 + w23 a2 + b3        dL/dw13 = δ3 · a1        δ3 = dL/dz3

Units are numbered through the whole network, so that `w13` is the weight from unit (or input) 1 to unit 3, and no symbol is used twice.
"""

from torch import Tensor, nn

from fallline.teach.steps import Factor, Step

WIDEST, MOST_UNITS, MOST_EXAMPLES = 12, 40, 64


def name_steps(steps: list[Step], modules: list[nn.Module], chained: bool) -> bool:
    """Give every value of a small chain of flat layers its symbol; returns whether the network was small enough."""
    flat = all(s.input.dim() == 2 and s.output.dim() == 2 and max(s.input.shape[1], s.output.shape[1]) <= WIDEST for s in steps)
    units = sum(s.output.shape[1] for s in steps if s.output.dim() == 2)
    if not (chained and flat and units <= MOST_UNITS and steps and all(s.family != "module" for s in steps)):
        return False
    names = tuple(f"x{i + 1}" for i in range(steps[0].input.shape[1]))
    unit = 0
    numbers: list[int] = []
    for at, (step, module) in enumerate(zip(steps, modules, strict=True)):
        step.names_in = names
        width = step.output.shape[1]
        if isinstance(module, nn.Linear):
            numbers = list(range(unit + 1, unit + width + 1))
            unit += width
            names = tuple(f"z{n}" for n in numbers)
        elif step.family in {"activation", "norm"}:
            last = at == len(steps) - 1 and step.family == "activation"
            if last:
                names = ("ŷ",) if width == 1 else tuple(f"ŷ{i + 1}" for i in range(width))
            elif step.family == "norm" or len(numbers) != width or names[0].startswith("a"):
                names = tuple(f"{n}′" for n in names[:width])
            else:
                names = tuple(f"a{n}" for n in numbers) if numbers else tuple(f"a{i + 1}" for i in range(width))
        step.names_out = names
    return True


def delta_name(value: str) -> str:
    """The symbol of the derivative of the loss by a value: δ3 for z3, dL/da1 for a1."""
    return f"δ{value[1:]}" if value.startswith("z") and "′" not in value else f"dL/d{value}"


def weight_name(source: str, target: str) -> str:
    """The weight from one value to another: `w13` from a1 to z3."""
    left, right = source.lstrip("xazŷ") or "1", target.lstrip("z")
    comma = "" if len(left) == 1 and len(right) == 1 else ","
    return f"w{left}{comma}{right}"


def weight_factors(step: Step, delta: Tensor, auto: Tensor) -> tuple[Factor, ...]:
    """Each entry of a Linear layer's weight gradient as delta of its unit times the value of its source."""
    if len(delta) > MOST_EXAMPLES:
        return ()
    rows = []
    for o, target in enumerate(step.names_out):
        for i, source in enumerate(step.names_in):
            terms = tuple((float(d), float(a)) for d, a in zip(delta[:, o], step.input[:, i], strict=True))
            value = sum(d * a for d, a in terms)
            rows.append(Factor(f"dL/d{weight_name(source, target)}", (delta_name(target), source), terms, value, float(auto[o, i])))
    return tuple(rows)


def bias_factors(step: Step, delta: Tensor, auto: Tensor) -> tuple[Factor, ...]:
    """Each entry of the bias gradient: the delta of its unit."""
    if len(delta) > MOST_EXAMPLES:
        return ()
    return tuple(
        Factor(f"dL/db{t[1:]}", (delta_name(t),), tuple((float(d),) for d in delta[:, o]), float(delta[:, o].sum()), float(auto[o]))
        for o, t in enumerate(step.names_out)
    )
