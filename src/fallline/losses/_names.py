"""What others call the losses: one table, which `build`, `find`, the command line, `explain` and the errors of the modules read.

A loss asked for by name (`--loss HuberLoss`, `build("nt-xent")`) is found under any of these names, as there its conventions are fallline's
own. As a name in Python (`fl.losses.HuberLoss`) they are refused with the name here: torch, Keras and others order the arguments otherwise.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fallline._core.errors import nearest

# the loss here -> torch.nn, keras.losses, optax, pytorch_metric_learning and others that have it
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "mse": ("torch.nn.MSELoss", "keras.losses.MeanSquaredError", "optax.squared_error (twice optax.l2_loss)"),
    "mae": ("torch.nn.L1Loss", "keras.losses.MeanAbsoluteError"),
    "msle": ("keras.losses.MeanSquaredLogarithmicError",),
    "huber": ("torch.nn.HuberLoss", "keras.losses.Huber", "optax.huber_loss"),
    "smooth_l1": ("torch.nn.SmoothL1Loss",),
    "log_cosh": ("keras.losses.LogCosh", "optax.log_cosh"),
    "poisson_nll": ("torch.nn.PoissonNLLLoss", "keras.losses.Poisson"),
    "gaussian_nll": ("torch.nn.GaussianNLLLoss",),
    "binary_cross_entropy": ("torch.nn.BCEWithLogitsLoss", "keras.losses.BinaryCrossentropy", "optax.sigmoid_binary_cross_entropy"),
    "cross_entropy": ("torch.nn.CrossEntropyLoss", "keras.losses.SparseCategoricalCrossentropy", "optax.softmax_cross_entropy"),
    "kl_divergence": ("torch.nn.KLDivLoss", "keras.losses.KLDivergence", "optax.kl_divergence"),
    "hinge": ("keras.losses.Hinge", "optax.hinge_loss"),
    "squared_hinge": ("keras.losses.SquaredHinge",),
    "focal": ("keras.losses.BinaryFocalCrossentropy", "keras.losses.CategoricalFocalCrossentropy", "optax.sigmoid_focal_loss"),
    "poly1": ("optax.losses.poly_loss_cross_entropy",),
    "generalized_cross_entropy": ("keras.losses.CategoricalGeneralizedCrossEntropy",),
    "dice": ("keras.losses.Dice", "monai.losses.DiceLoss", "optax.losses.dice_loss"),
    "tversky": ("keras.losses.Tversky", "monai.losses.TverskyLoss"),
    "cosine_embedding": ("torch.nn.CosineEmbeddingLoss",),
    "cosine_similarity": ("keras.losses.CosineSimilarity (1 less)", "optax.cosine_distance"),
    "contrastive": (
        "pytorch_metric_learning.losses.ContrastiveLoss (other: no square, no ½, mean over what costs anything)",
        "sentence_transformers ContrastiveLoss (1 is similar)",
    ),
    "triplet": ("torch.nn.TripletMarginLoss", "pytorch_metric_learning.losses.TripletMarginLoss (unit=True, average=active)"),
    "info_nce": ("pytorch_metric_learning.losses.NTXentLoss", "optax.losses.ntxent", "open_clip ClipLoss"),
    "sup_con": ("pytorch_metric_learning.losses.SupConLoss",),
    "sig_lip": ("open_clip SigLipLoss",),
    "arc_face": ("pytorch_metric_learning.losses.ArcFaceLoss",),
    "cos_face": ("pytorch_metric_learning.losses.CosFaceLoss",),
    "linear_cross_entropy": ("torch.nn.functional.linear_cross_entropy", "liger_kernel LigerFusedLinearCrossEntropyLoss"),
}

# what people also call it -> the loss here
ALSO: dict[str, str] = {
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy",
    "binary_cross_entropy_with_logits": "binary_cross_entropy",
    "log_loss": "binary_cross_entropy",
    "ce": "cross_entropy",
    "categorical_cross_entropy": "cross_entropy",
    "sparse_categorical_cross_entropy": "cross_entropy",
    "negative_log_likelihood": "cross_entropy",
    "l1_loss": "mae",
    "l2_loss": "mse",
    "mean_squared_error": "mse",
    "mean_absolute_error": "mae",
    "mean_squared_logarithmic_error": "msle",
    "pinball": "quantile",
    "kl": "kl_divergence",
    "kl_div": "kl_divergence",
    "kullback_leibler": "kl_divergence",
    "triplet_margin_with_distance": "triplet",
    "triplet_semi_hard": "triplet",
    "batch_all_triplet": "triplet",
    "batch_hard_triplet": "triplet",
    "batch_semi_hard_triplet": "triplet",
    "multiple_negatives_ranking": "info_nce",
    "additive_angular_margin": "arc_face",
    "large_margin_cosine": "cos_face",
    "binary_focal_crossentropy": "focal",
    "categorical_focal_crossentropy": "focal",
    "sigmoid_focal": "focal",
    "focal_tversky": "tversky",
    "soft_dice": "dice",
    "ordinal": "coral",
    "fused_linear_cross_entropy": "linear_cross_entropy",
}

# names that stand for something else, or for nothing here, with what may be meant
PERHAPS: dict[str, str] = {
    "l1": "mae",
    "l2": "mse",
    "nll": "cross_entropy",
    "rmse": "mse",
    "softmargin": "binary_cross_entropy",
    "multilabelsoftmargin": "binary_cross_entropy",
    "multimargin": "multiclass_hinge",
    "categoricalhinge": "multiclass_hinge",
    "hingeembedding": "contrastive",
    "marginranking": "pairwise_auc",
}


def plain(name: str) -> str:
    """The name without what spellings differ in: `nt-xent`, `NT_Xent` and `NTXent` are one."""
    return "".join(c for c in name.lower() if c.isalnum())


def _spelt(name: str) -> list[str]:
    """The spellings under which a name is looked up: whole, and without a "loss" at its end."""
    whole = plain(name.strip().rpartition(".")[2])
    short = whole.removesuffix("loss")
    return [whole, short] if short and short not in PERHAPS else [whole]


def table(known: Iterable[str], also: Mapping[str, str]) -> dict[str, str]:
    """From the plain spelling of every name to the loss it means; `also` are further names that the losses give themselves."""
    known = set(known)
    found = {plain(path.partition(" ")[0].rpartition(".")[2]): name for name, paths in ELSEWHERE.items() for path in paths}
    found |= {
        plain(path.split(" ")[1]): name for name, paths in ELSEWHERE.items() for path in paths if path.endswith("Loss") and " " in path
    }
    found |= {plain(other): name for other, name in {**ALSO, **also}.items()}
    found = {spelling: name for spelling, name in found.items() if name in known}
    return found | {plain(name): name for name in known}


def meant(name: str, spellings: Mapping[str, str]) -> str | None:
    """The loss that a name means, or None.

    >>> meant("torch.nn.HuberLoss", {"huber": "huber"})
    'huber'
    """
    return next((spellings[s] for s in _spelt(name) if s in spellings), None)


def close(name: str, spellings: Mapping[str, str]) -> list[str]:
    """The losses that may be meant by a name that is none, the likeliest first.

    >>> close("l1", {"mae": "mae"})
    ['mae']
    """
    whole = _spelt(name)[0]
    perhaps = PERHAPS.get(whole, PERHAPS.get(whole.removesuffix("loss")))
    if perhaps is not None:
        return [perhaps] if perhaps in spellings.values() else []
    alike = [*nearest(_spelt(name)[-1], spellings, alike=0.6), *nearest(whole, spellings, alike=0.6)]
    return list(dict.fromkeys(spellings[s] for s in alike))[:3]


def missing(module: str, name: str, there: Mapping[str, Any], spellings: Mapping[str, str], write: Callable[[str], str]) -> str:
    """The sentence for `module.name` that is not there; `write` gives a loss's name as it stands in the module."""
    found = meant(name, spellings)
    likely = [write(loss) for loss in ([found] if found else close(name, spellings))]
    likely = [other for other in likely if other in there] or nearest(name, [other for other in there if not other.startswith("_")], 1)
    hint = f"; did you mean {' or '.join(repr(other) for other in likely)}?" if likely else ""
    return f"{module} has no {name!r}{hint}" if hint else f"{module} has no {name!r}; `fallline explain loss` lists the losses"
