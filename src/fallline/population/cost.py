"""What members' outputs cost, and the derivative by them."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from fallline.losses import Loss


def cost(loss: "Loss", raw: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Each member's loss (R,), and its derivative by the raw outputs (R, N, outputs)."""
    if raw.shape[-1] == 1 and raw.ndim == 3:
        value, slope = loss.quick_slopes(raw.squeeze(-1), target)
        return value, slope.unsqueeze(-1)
    return loss.quick_slopes(raw, target)
