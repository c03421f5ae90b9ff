"""What stands beside the losses and has a name of its own: several tasks at once, their weighting, mining; and what others call a loss."""

from typing import NamedTuple


class Beside(NamedTuple):
    """Its family, the module that tells of it, what makes it, and how that is written."""

    family: str
    module: str
    make: str
    python: str


_MULTI = 'fl.losses.MultiTask({"class": "cross_entropy", "size": "mse"}'
BESIDE = {
    "multi_task": Beside("loss", "fallline.losses.combined.multi_task", "MultiTask", f"{_MULTI})(outputs, targets)"),
    "uncertainty": Beside("weighting", "fallline.losses.combined.uncertainty", "", f'{_MULTI}, weighting="uncertainty")'),
    "gradnorm": Beside("weighting", "fallline.losses.combined.gradnorm", "", f'{_MULTI}, weighting="gradnorm")'),
    "batch_hard": Beside("mining", "fallline.mining.batch_hard", "batch_hard", "fl.mining.batch_hard(embeddings, labels)"),
    "semi_hard": Beside("mining", "fallline.mining.semi_hard", "semi_hard", "fl.mining.semi_hard(embeddings, labels)"),
    "distance_weighted": Beside(
        "mining", "fallline.mining.distance_weighted", "distance_weighted", "fl.mining.distance_weighted(embeddings, labels)"
    ),
    "count_triplets": Beside("mining", "fallline.mining.count_triplets", "count_triplets", "fl.mining.count_triplets(labels)"),
    "cross_batch_memory": Beside("mining", "fallline.mining.memory", "CrossBatchMemory", "fl.mining.CrossBatchMemory(size=1024, dim=64)"),
}

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
    "contrastive": ("pytorch_metric_learning.losses.ContrastiveLoss", "sentence_transformers ContrastiveLoss"),
    "triplet": ("torch.nn.TripletMarginLoss", "pytorch_metric_learning.losses.TripletMarginLoss"),
    "info_nce": ("pytorch_metric_learning.losses.NTXentLoss", "optax.losses.ntxent", "open_clip ClipLoss"),
    "sup_con": ("pytorch_metric_learning.losses.SupConLoss",),
    "sig_lip": ("open_clip SigLipLoss",),
    "arc_face": ("pytorch_metric_learning.losses.ArcFaceLoss",),
    "cos_face": ("pytorch_metric_learning.losses.CosFaceLoss",),
    "linear_cross_entropy": ("torch.nn.functional.linear_cross_entropy", "liger_kernel LigerFusedLinearCrossEntropyLoss"),
}
