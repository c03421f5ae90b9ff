"""Every check, in the order made: what a call is comes before what it depends on."""

from fallline.prove._check import Check
from fallline.prove.checks import batch, calls, direction, edges, gradient, influence, precision, transforms

CHECKS: tuple[Check, ...] = (
    Check("arguments", "input and target are as they were after a call", calls.untouched, still=False),
    Check("repeats", "equal calls give equal values, and nothing that the loss holds changes", calls.repeats, still=False),
    Check("settings", "global settings and random generators are as they were after a call", calls.settings, still=False),
    Check("dtype", "the result has the input's dtype", calls.dtype, still=False),
    Check("input", "the value moves with the input", influence.depends_on_input),
    Check("target", "the value moves with the target", influence.depends_on_target),
    Check("gradient", "the gradient is there, and equals differences of the value", gradient.gradient),
    Check("second", "the second derivative equals differences of the gradient", gradient.second),
    Check("parts", "every example and every output moves the value", influence.depends_on_every_part),
    Check("pairing", "each prediction is compared with its own target", influence.pairing),
    Check("order", "the order of the examples does not matter", batch.order),
    Check("batch", "the loss of a batch is the mean over its examples", batch.size),
    Check("empty", "a batch of no examples costs 0", batch.empty),
    Check("ignored", "a batch of ignored labels only costs 0", batch.ignored),
    Check("sign", "a step down the loss moves predictions towards their targets", direction.sign),
    Check("perfect", "the loss is least at the prediction called perfect", direction.least),
    Check("value", "the value is that of the reference", direction.value),
    Check("edges", "value and gradient are finite at the edges of the domain", edges.edges),
    Check("large", "value and gradient are finite at large inputs", edges.large),
    Check("saturated", "confidently wrong scores have a gradient", edges.saturated),
    Check("nan", "NaN in the input shows in the value", edges.nan),
    Check("single", "float32 gives the value of float64", precision.single),
    Check("half", "16-bit input gives a finite value where the true one is ordinary", precision.half),
    Check("labels", "labels keep every digit", precision.labels),
    Check("functional", "torch.func.vmap takes it", transforms.functional, still=False),
    Check("compile", "torch.compile takes it in one graph", transforms.compiled),
    Check("device", "tensors made inside follow the input's device", transforms.device, still=False),
)
NAMES = ("call", *(check.name for check in CHECKS))
