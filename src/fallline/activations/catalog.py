"""The activations by name."""

from fallline._core.entry import Entry, entry
from fallline._core.errors import lookup
from fallline.activations import torch_own as own
from fallline.activations._base import Activation
from fallline.activations.crelu import CRELU
from fallline.activations.maxout import MAXOUT
from fallline.activations.prelu import PRELU
from fallline.activations.softminus import SOFTMINUS

_ALL = (
    *(own.SIGMOID, own.TANH, own.SOFTMAX, own.SOFTPLUS, SOFTMINUS, own.RELU, own.LEAKY_RELU, PRELU, CRELU, own.RELU6, MAXOUT),
    *(own.GELU, own.SILU, own.ELU, own.SELU, own.MISH),
)
ACTIVATIONS: dict[str, Activation] = {activation.name: activation for activation in _ALL}


def describe(name: str) -> Entry:
    """What an activation says of itself: formula, when to use it, source.

    >>> describe("relu").formula
    'max(0, x)          slope 1 where x > 0, else 0'
    """
    return entry(name, "activation", lookup("activation", name, ACTIVATIONS).doc)
