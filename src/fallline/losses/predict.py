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
    "scores": lambda raw: torch.softmax(raw, dim=1 if raw.ndim > 1 else 0),
}
