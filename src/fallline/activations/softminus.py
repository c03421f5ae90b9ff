"""Softminus: what softplus leaves of x, the mirror of softplus below the diagonal.

    softminus x = x − softplus x = −log(1 + exp(−x)) = log σ(x)          slope σ(−x) = 1 − σ(x)

When to use: a log-probability from a logit; a smooth min(0, x).
When not: hidden layers: it is never positive, and flat where x is large.
Source: teaching texts on activations; torch has it as logsigmoid. It tends to σ(x) − 1 as x grows, as softplus tends to σ(x) as x falls.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fallline.activations._base import Activation


def softminus(x: Tensor) -> Tensor:
    """Give x - softplus(x), of any shape, computed as log sigmoid(x), which loses no digits.

    >>> softminus(torch.tensor(0.0))
    tensor(-0.6931)
    """
    return F.logsigmoid(x)


SOFTMINUS = Activation("softminus", softminus, lambda x: torch.sigmoid(-x), doc=__doc__)
