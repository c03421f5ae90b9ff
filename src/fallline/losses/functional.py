"""Every loss as a function: `functional.huber(input, target, delta=2.0, sample_weight=None, mask=None, reduction="mean")`.

Each is made from its class, so its options, checks and values are the class's own.
"""

from typing import TYPE_CHECKING

import torch  # noqa: F401  the examples of the docstrings call it

from fallline.losses._base import functional_of
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
from fallline.losses.combined.gradnorm import gradnorm  # noqa: F401
from fallline.losses.combined.multi_task import multi_task  # noqa: F401
from fallline.losses.embedding.arc_face import ArcFace
from fallline.losses.embedding.contrastive import Contrastive
from fallline.losses.embedding.cos_face import CosFace
from fallline.losses.embedding.cosine_embedding import CosineEmbedding
from fallline.losses.embedding.cosine_similarity import CosineSimilarity
from fallline.losses.embedding.cross_modal_ranking import CrossModalRanking
from fallline.losses.embedding.info_nce import InfoNCE
from fallline.losses.embedding.sig_lip import sig_lip
from fallline.losses.embedding.sup_con import SupCon
from fallline.losses.embedding.triplet import Triplet
from fallline.losses.large.linear_cross_entropy import linear_cross_entropy  # noqa: F401
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

mse = functional_of(MSE)
mae = functional_of(MAE)
msle = functional_of(MSLE)
huber = functional_of(Huber)
smooth_l1 = functional_of(SmoothL1)
log_cosh = functional_of(LogCosh)
quantile = functional_of(Quantile)
poisson_nll = functional_of(PoissonNLL)
gaussian_nll = functional_of(GaussianNLL)
binary_cross_entropy = functional_of(BinaryCrossEntropy)
asymmetric = functional_of(Asymmetric)
hinge = functional_of(Hinge)
squared_hinge = functional_of(SquaredHinge)
pairwise_auc = functional_of(PairwiseAUC)
cross_entropy = functional_of(CrossEntropy)
multiclass_hinge = functional_of(MulticlassHinge)
focal = functional_of(Focal)
dice = functional_of(Dice)
tversky = functional_of(Tversky)
poly1 = functional_of(Poly1)
generalized_cross_entropy = functional_of(GeneralizedCrossEntropy)
coral = functional_of(Coral)
kl_divergence = functional_of(KLDivergence)
cosine_similarity = functional_of(CosineSimilarity)
cosine_embedding = functional_of(CosineEmbedding)
contrastive = siamese = functional_of(Contrastive)
triplet = triplet_margin = functional_of(Triplet)
info_nce = infonce = nt_xent = functional_of(InfoNCE)
sup_con = supcon = functional_of(SupCon)
siglip = sig_lip
cross_modal_ranking = functional_of(CrossModalRanking)
arc_face = arcface = functional_of(ArcFace)
cos_face = cosface = functional_of(CosFace)

if not TYPE_CHECKING:  # a type checker would take every name as there

    def __getattr__(name: str) -> object:
        from fallline.losses._names import missing
        from fallline.losses.catalog import SPELLINGS

        raise AttributeError(missing("fl.losses.functional", name, globals(), SPELLINGS, str), name=name)
