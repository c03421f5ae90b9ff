"""From what the model gives to what a user reads: probabilities, means, scores."""

import torch
from torch import Tensor

from fallline._core.errors import lookup


def predict_from(output: str, raw: Tensor) -> Tensor:
    """Probabilities (N, C) or (N,), means (N,) or scores (N,), from a model's raw output.

    `output` is a loss's `.output`. A last axis of length 1 is dropped, except for `logits`.

    >>> predict_from("logit", torch.tensor([[0.0]]))
    tensor([0.5000])
    """
    return lookup("output kind", output, _READ)(raw)


def _by_width(raw: Tensor) -> Tensor:
    """Two classes by one logit, more by one logit each."""
    return torch.softmax(raw, dim=1) if raw.ndim > 1 and raw.shape[1] > 1 else torch.sigmoid(_flat(raw))


def _ordered(raw: Tensor) -> Tensor:
    """(N, C) from the logits of y > 0, ..., y > C - 2: differences of falling probabilities.

    Logits that do not fall are put in order first, so that no probability is negative, and the middle class (the first whose cumulative
    probability reaches 1/2) is the number of logits above 0 always.
    """
    above = torch.sigmoid(raw.sort(dim=-1, descending=True).values)
    edge = torch.ones_like(above[..., :1])
    return -torch.diff(torch.cat([edge, above, 0 * edge], dim=-1), dim=-1)


def _flat(raw: Tensor) -> Tensor:
    return raw.squeeze(-1) if raw.ndim > 1 and raw.shape[-1] == 1 else raw


_READ = {
    "identity": _flat,
    "score": _flat,
    "probability": _flat,
    "log_rate": lambda raw: _flat(raw).exp(),
    "log1p": lambda raw: _flat(raw).expm1(),
    "rate": _flat,
    "mean_and_variance": lambda raw: raw[..., 0],
    "logit": lambda raw: torch.sigmoid(_flat(raw)),
    "logits": lambda raw: torch.softmax(raw, dim=1 if raw.ndim > 1 else 0),
    "logit_or_logits": _by_width,
    "ordinal": _ordered,
    "scores": lambda raw: torch.softmax(raw, dim=1 if raw.ndim > 1 else 0),
}
