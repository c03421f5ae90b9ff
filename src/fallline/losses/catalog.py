"""The losses by name: what there is, what fits a task, what `explain` shows."""

import sys
from collections.abc import Sequence

from fallline._core.entry import Entry, entry
from fallline._core.errors import FalllineError, lookup, refuse
from fallline.losses import _names as names
from fallline.losses._base import Loss
from fallline.losses._calls import no_option
from fallline.losses.classification.asymmetric import Asymmetric
from fallline.losses.classification.binary_cross_entropy import BinaryCrossEntropy
from fallline.losses.classification.coral import Coral
from fallline.losses.classification.cross_entropy import CrossEntropy
from fallline.losses.classification.focal import Focal
from fallline.losses.classification.generalized_cross_entropy import GeneralizedCrossEntropy
from fallline.losses.classification.hinge import Hinge
from fallline.losses.classification.kl_divergence import KLDivergence
from fallline.losses.classification.multiclass_hinge import MulticlassHinge
from fallline.losses.classification.poly1 import Poly1
from fallline.losses.classification.squared_hinge import SquaredHinge
from fallline.losses.embedding.arc_face import ArcFace
from fallline.losses.embedding.contrastive import Contrastive
from fallline.losses.embedding.cos_face import CosFace
from fallline.losses.embedding.cosine_embedding import CosineEmbedding
from fallline.losses.embedding.cosine_similarity import CosineSimilarity
from fallline.losses.embedding.cross_modal_ranking import CrossModalRanking
from fallline.losses.embedding.info_nce import InfoNCE
from fallline.losses.embedding.sig_lip import SigLIP
from fallline.losses.embedding.sup_con import SupCon
from fallline.losses.embedding.triplet import Triplet
from fallline.losses.large.linear_cross_entropy import LinearCrossEntropy
from fallline.losses.overlap.dice import Dice
from fallline.losses.overlap.tversky import Tversky
from fallline.losses.ranking.pairwise_auc import PairwiseAUC
from fallline.losses.regression.gaussian_nll import GaussianNLL
from fallline.losses.regression.huber import Huber
from fallline.losses.regression.log_cosh import LogCosh
from fallline.losses.regression.mae import MAE
from fallline.losses.regression.mse import MSE
from fallline.losses.regression.msle import MSLE
from fallline.losses.regression.poisson_nll import PoissonNLL
from fallline.losses.regression.quantile import Quantile
from fallline.losses.regression.smooth_l1 import SmoothL1

LOSSES: dict[str, type[Loss]] = {
    cls.name: cls
    for cls in (
        MSE,
        MAE,
        MSLE,
        Huber,
        SmoothL1,
        LogCosh,
        Quantile,
        PoissonNLL,
        GaussianNLL,
        BinaryCrossEntropy,
        Asymmetric,
        Hinge,
        SquaredHinge,
        PairwiseAUC,
        CrossEntropy,
        MulticlassHinge,
        Focal,
        Dice,
        Tversky,
        Poly1,
        GeneralizedCrossEntropy,
        Coral,
        KLDivergence,
        CosineSimilarity,
        CosineEmbedding,
        Contrastive,
        Triplet,
        InfoNCE,
        SupCon,
        SigLIP,
        CrossModalRanking,
        ArcFace,
        CosFace,
    )
}
FURTHER: dict[str, type[Loss]] = {LinearCrossEntropy.name: LinearCrossEntropy}
"""Losses that hold a layer, so that building one takes its sizes; `find` knows them, `fit` does not train by them."""
ALIASES: dict[str, str] = {other: cls.name for cls in LOSSES.values() for other in cls.also}
SPELLINGS = names.table({**LOSSES, **FURTHER}, ALIASES)
"""From every name of a loss, here and elsewhere, in plain letters, to its name here."""
_DEFAULT = {"regression": "mse", "binary": "binary_cross_entropy", "multiclass": "cross_entropy"}


def default_for(task: str) -> str:
    """The loss that fits a task when nothing else is said: `regression`, `binary` or `multiclass`.

    >>> default_for("binary")
    'binary_cross_entropy'
    """
    return lookup("task", task, _DEFAULT)


def find(name: str) -> type[Loss]:
    """The class of a loss, by its name or another that it goes by, here or elsewhere; the error offers the nearest.

    >>> find("huber").__name__, find("torch.nn.BCEWithLogitsLoss").__name__, find("nt-xent").__name__
    ('Huber', 'BinaryCrossEntropy', 'InfoNCE')
    """
    every = {**LOSSES, **FURTHER}
    found = names.meant(name, SPELLINGS)
    if found is not None:
        return every[found]
    close = names.close(name, SPELLINGS)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    raise FalllineError(f"there is no loss {name.strip()!r}; {hint}Known: {', '.join(sorted(every))}.")


def canonical(spec: str) -> str:
    """The spec with the loss's name as it is written here.

    >>> canonical("HuberLoss: delta=2")
    'huber:delta=2'
    """
    name, colon, tail = (part.strip() for part in spec.partition(":"))
    return find(name).name + colon + tail


def build(spec: str, **options: object) -> Loss:
    """A loss from its spec: a name, then options after a colon; keyword arguments stand over those of the spec.

    >>> build("huber:delta=2").delta
    2.0
    """
    cls, found = parse(spec)
    return cls(**{**found, **options})


def parse(spec: str) -> tuple[type[Loss], dict[str, object]]:
    """The class that a spec names and the options that it sets, each checked by itself.

    >>> parse("huber:delta=2")[1]
    {'delta': 2.0}
    """
    name, _, tail = (part.strip() for part in spec.partition(":"))
    cls = find(name)
    found: dict[str, object] = {}
    for part in filter(None, (p.strip() for p in tail.split(","))):
        key, equals, text = (p.strip() for p in part.partition("="))
        if not equals:
            refuse("the options of a loss read name=value", repr(part), f"huber:delta=2 is an example; {name} has {', '.join(cls.options)}")
        if key not in cls.options:
            no_option(name, key, cls.options, output=cls.output)
        option = cls.options[key]
        found[key] = option.parse(text, where=name)
        option.check(found[key], where=cls.__name__)
    return cls, found


def describe(name: str) -> Entry:
    """What a loss says of itself: formula, when to use it, source.

    >>> describe("mse").formula
    'ℓ = (y − x)²'
    """
    cls = find(name)
    return entry(cls.name, "loss", sys.modules[cls.__module__].__doc__)


def check_task(loss: str | type[Loss], task: str, raw_labels: Sequence[object] = ()) -> None:
    """Refuse a loss that does not fit the task or the labels as they stood in the source; the error says which losses do.

    `raw_labels`: the labels before they were numbered, e.g. (0, 1), (-1, 1) or ("no", "yes"); empty for regression.
    """
    cls = find(loss.partition(":")[0]) if isinstance(loss, str) else loss
    lookup("task", task, _DEFAULT)
    if task not in cls.tasks:
        fitting = [name for name, other in LOSSES.items() if task in other.tasks]
        kind = {"regression": "a number", "binary": "one of two classes", "multiclass": "one of several classes"}[task]
        meant = f"is for {' and '.join(sorted(cls.tasks))} targets" if cls.tasks else f"needs {cls.needs}"
        others = ", ".join(name for name in fitting if name != _DEFAULT[task])
        raise FalllineError(f"the loss {cls.name} {meant}, but the target is {kind} ({task}); use {_DEFAULT[task]} (or {others}).")
    if cls.target_kind == "signed":
        numbers = [label for label in raw_labels if isinstance(label, (int, float))]
        if numbers and set(numbers) != {-1, 1}:
            shown = " and ".join(str(label) for label in raw_labels)
            raise FalllineError(
                f"the loss {cls.name} needs labels -1 and +1, but the target holds {shown}; "
                f"`--signed-labels` maps {raw_labels[0]} to -1 and {raw_labels[-1]} to +1, or use the loss binary_cross_entropy."
            )
