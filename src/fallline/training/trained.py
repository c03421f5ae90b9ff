"""What one training moves: the model's weights, and the parameters of a loss that has some (class vectors, a temperature)."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from fallline.losses import Custom

if TYPE_CHECKING:
    from fallline.losses import Loss

PREFIX = "loss/"


def named_parameters(model: nn.Module, loss: "Loss") -> list[tuple[str, nn.Parameter]]:
    """Every parameter by its name, those of the loss as "loss.weight"."""
    named = list(model.named_parameters())
    prefix = "loss."
    while any(name.startswith(prefix) for name, _ in named):  # the model has a part called so
        prefix = f"own_{prefix}"
    return named + [(prefix + name, p) for name, p in loss.named_parameters()]


def own_state(loss: "Loss") -> dict[str, Tensor]:
    """What the loss has learnt: its parameters and buffers, without its options."""
    return {f"{PREFIX}{name}": tensor for name, tensor in loss.state_dict().items() if name not in loss.options}


def state(model: nn.Module, loss: "Loss") -> dict[str, Tensor]:
    """The model's state, and the loss's own under "loss/"."""
    return {**model.state_dict(), **own_state(loss)}


def load_state(model: nn.Module, loss: "Loss", tensors: dict[str, Tensor]) -> None:
    """Put back what `state` gave; a RuntimeError says what is missing."""
    own = own_state(loss)
    if isinstance(loss, Custom) and loss.is_absent:  # what it had learnt is not needed to predict
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if name not in own})
    held = {name.removeprefix(PREFIX): tensors[name] for name in own if name in tensors}
    if len(held) < len(own):
        raise RuntimeError(f"the loss's own {', '.join(name.removeprefix(PREFIX) for name in own if name not in tensors)} is missing")
    loss.load_state_dict(held, strict=False)
