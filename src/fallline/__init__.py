"""fallline: losses, optimizers, and the evidence to choose between them.

Every name is imported on first use, so that `import fallline` costs nothing and `fallline --help` starts without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fallline._core.version import VERSION as __version__

if TYPE_CHECKING:
    from fallline import data as data
    from fallline import losses as losses
    from fallline import mining as mining
    from fallline import models as models
    from fallline import optim as optim
    from fallline._core.errors import FalllineError as FalllineError
    from fallline._core.errors import FalllineWarning as FalllineWarning
    from fallline.api.compare import Study as Study
    from fallline.api.compare import compare as compare
    from fallline.api.explain import explain as explain
    from fallline.api.fit import Run as Run
    from fallline.api.fit import fit as fit
    from fallline.api.fit import load_run as load_run
    from fallline.api.fit import resume as resume
    from fallline.api.lr import find_lr as find_lr
    from fallline.api.table import Table as Table
    from fallline.api.table import table as table
    from fallline.api.tune import Tuning as Tuning
    from fallline.api.tune import tune as tune
    from fallline.estimator import Classifier as Classifier
    from fallline.estimator import Regressor as Regressor
    from fallline.prove.check_loss import check_loss as check_loss
    from fallline.prove.report import LossReport as LossReport
    from fallline.teach.backprop import trace_backprop as trace_backprop


_HOME = {
    "FalllineError": "fallline._core.errors",
    "FalllineWarning": "fallline._core.errors",
    "Study": "fallline.api.compare",
    "compare": "fallline.api.compare",
    "explain": "fallline.api.explain",
    "Run": "fallline.api.fit",
    "fit": "fallline.api.fit",
    "load_run": "fallline.api.fit",
    "resume": "fallline.api.fit",
    "find_lr": "fallline.api.lr",
    "Table": "fallline.api.table",
    "table": "fallline.api.table",
    "Tuning": "fallline.api.tune",
    "tune": "fallline.api.tune",
    "Classifier": "fallline.estimator",
    "Regressor": "fallline.estimator",
    "check_loss": "fallline.prove.check_loss",
    "LossReport": "fallline.prove.report",
    "trace_backprop": "fallline.teach.backprop",
}
_PACKAGES = ("activations", "data", "losses", "mining", "models", "optim", "penalties", "record", "report", "study", "training")

__all__ = [*_HOME, *_PACKAGES, "__version__"]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"fallline.{name}")
    raise AttributeError(f"module 'fallline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
