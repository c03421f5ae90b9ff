"""The metrics of a run over epochs, on training and validation rows both."""

from fallline import record
from fallline.report.figures.loss import loss_curves
from fallline.report.figures.shapes import Curves
from fallline.report.figures.source import Source, keys
from fallline.report.words import label

_NOT_METRICS = frozenset({"loss", "lr", "grad_norm", "seconds_per_step", "examples_per_second", "update_norm", "weight_norm"})


def metric_curves(reader: Source, run: str = "", best_epoch: float | None = None) -> list[Curves]:
    """One figure for each metric that the record holds, beside the loss."""
    out = []
    order = list(record.KEYS)
    for key in sorted(keys(reader, run), key=lambda k: order.index(k) if k in order else len(order)):
        if key in _NOT_METRICS:
            continue
        name = label(key)
        curves = loss_curves(reader, run, key, name[0].upper() + name[1:], best_epoch)
        if curves is not None:
            out.append(curves)
    return out
