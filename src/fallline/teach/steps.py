"""What a trace of back-propagation holds: one step a layer, every factor a number that was checked against autograd.

Tensors are float64, on the CPU, detached; the first axis is the example.
"""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Factor:
    """One scalar gradient as a product of factors, e.g. `dL/dw13 = δ3 · a1`, summed over the examples.

    `terms` holds the factors of each example; the sum over examples of the product of a row is `value`. `names` are the factors'
    symbols. `autograd` is torch's own number for the same gradient.
    """

    symbol: str
    names: tuple[str, ...]
    terms: tuple[tuple[float, ...], ...]
    value: float
    autograd: float

    @property
    def formula(self) -> str:
        """The right-hand side in symbols: `δ3 · a1`, with a sum sign where there are several examples."""
        product = " · ".join(self.names)
        return product if len(self.terms) == 1 else f"Σₙ {product}"


@dataclass(frozen=True)
class Gradient:
    """The gradient of one parameter in one use of its layer.

    `value` is fallline's product of factors, `autograd` the number from torch. Where a parameter is used several times, `value` is the
    part of this use, `shared` is true, and the sum of all parts is compared with torch's gradient (`Trace.gradients`).
    """

    parameter: str
    formula: str
    value: Tensor
    autograd: Tensor
    shared: bool = False
    by_autograd: bool = False
    scalars: tuple[Factor, ...] = ()


@dataclass(frozen=True)
class Mark:
    """The factor that made a gradient vanish or explode: `problem` is "vanishing", "exploding" or "not finite"."""

    problem: str
    factor: str
    gain: float
    share: float
    say: str


@dataclass(repr=False)
class Step:
    """One use of one layer: forward values, local derivative, delta in from the loss side, delta out to the input side, gradients.

    Attributes:
        layer: name of the module in the model ("0", "encoder.fc1"), with "(use 2)" behind it where a module is used again.
        kind: the module's class name, e.g. "Linear".
        shape: what it does to one example's shape, e.g. "2 → 3".
        family: "linear", "activation", "shape" (reshapes and pools), "norm" or "module" (inner factors not shown).
        input: what went in, (N, ...).
        output: what came out, (N, ...).
        local: the local derivative: f′(z) of the shape of `input` where the layer works element by element; the weight matrix of a
            Linear, the kernel of a Conv2d; None where it is neither (its rule is in `formula`).
        formula: how `delta_out` follows from `delta_in`, in symbols.
        delta_in: dL/d output, the delta that arrives from the loss.
        delta_out: dL/d input, the delta that is passed on.
        gain: norm of `delta_out` over norm of `delta_in`; NaN where the latter is 0.
        gradients: one `Gradient` a parameter.
        error: largest difference from autograd in `delta_in`, `delta_out` and `gradients`, relative to the largest entry.
        arrives: where `delta_in` came from: "the next layer", "the loss" or "autograd" (code between the modules).
        mark: set where this factor made the gradient vanish or explode.
        note: what a reader has to know of this layer (eval mode, inner factors not shown, ...).
        bias: the bias of a Linear or Conv2d.
        symbol: what the local derivative is called ("σ′", "W").
        names_in, names_out: symbols of the values where the network is small enough to name each ("x1", "z3", "a3").
    """

    layer: str
    kind: str
    shape: str
    family: str
    input: Tensor
    output: Tensor
    local: Tensor | None
    formula: str
    delta_in: Tensor
    delta_out: Tensor
    gain: float
    gradients: tuple[Gradient, ...] = ()
    error: float = 0.0
    arrives: str = "the next layer"
    mark: Mark | None = None
    note: str = ""
    names_in: tuple[str, ...] = ()
    names_out: tuple[str, ...] = ()
    symbol: str = "f"
    bias: Tensor | None = None

    def __repr__(self) -> str:
        return f"Step({self.layer}, {self.kind}, {self.shape}, delta × {self.gain:.4g}{', ' + self.mark.problem if self.mark else ''})"

    @property
    def z(self) -> Tensor:
        """The value before the non-linearity: the output of a weighted layer, the input of an activation."""
        return self.input if self.family == "activation" else self.output

    @property
    def a(self) -> Tensor:
        """The activation: the output of an activation, the input of a weighted layer."""
        return self.output if self.family == "activation" else self.input


@dataclass(frozen=True)
class LossPart:
    """The top of the chain: the loss, and its derivative with respect to what the model returned."""

    name: str
    formula: str
    derivative: str
    value: float
    prediction: Tensor
    target: Tensor
    delta: Tensor
    error: float
    closed_form: bool


@dataclass(frozen=True)
class Check:
    """Fallline's gradient of a parameter (all uses added) beside autograd's."""

    parameter: str
    value: Tensor
    autograd: Tensor
    error: float
    by_autograd: bool = field(default=False)
