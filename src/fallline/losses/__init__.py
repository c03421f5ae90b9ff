from typing import TYPE_CHECKING

from fallline.losses import functional as functional
from fallline.losses._base import Loss as Loss
from fallline.losses.catalog import FURTHER as FURTHER
from fallline.losses.catalog import LOSSES as LOSSES
from fallline.losses.catalog import build as build
from fallline.losses.catalog import canonical as canonical
from fallline.losses.catalog import check_task as check_task
from fallline.losses.catalog import default_for as default_for
from fallline.losses.catalog import describe as describe
from fallline.losses.catalog import find as find
from fallline.losses.catalog import parse as parse
from fallline.losses.classification.asymmetric import Asymmetric as Asymmetric
from fallline.losses.classification.binary_cross_entropy import BinaryCrossEntropy as BinaryCrossEntropy
from fallline.losses.classification.coral import Coral as Coral
from fallline.losses.classification.cross_entropy import CrossEntropy as CrossEntropy
from fallline.losses.classification.focal import Focal as Focal
from fallline.losses.classification.generalized_cross_entropy import GeneralizedCrossEntropy as GeneralizedCrossEntropy
from fallline.losses.classification.hinge import Hinge as Hinge
from fallline.losses.classification.kl_divergence import KLDivergence as KLDivergence
from fallline.losses.classification.multiclass_hinge import MulticlassHinge as MulticlassHinge
from fallline.losses.classification.poly1 import Poly1 as Poly1
from fallline.losses.classification.squared_hinge import SquaredHinge as SquaredHinge
from fallline.losses.combined.multi_task import MultiTask as MultiTask
from fallline.losses.custom import Custom as Custom
from fallline.losses.custom import own_loss as own_loss
from fallline.losses.devices import gather as gather
from fallline.losses.devices import mean_over_ranks as mean_over_ranks
from fallline.losses.devices import others as others
from fallline.losses.embedding.arc_face import ArcFace as ArcFace
from fallline.losses.embedding.contrastive import Contrastive as Contrastive
from fallline.losses.embedding.cos_face import CosFace as CosFace
from fallline.losses.embedding.cosine_embedding import CosineEmbedding as CosineEmbedding
from fallline.losses.embedding.cosine_similarity import CosineSimilarity as CosineSimilarity
from fallline.losses.embedding.cross_modal_ranking import CrossModalRanking as CrossModalRanking
from fallline.losses.embedding.info_nce import InfoNCE as InfoNCE
from fallline.losses.embedding.sig_lip import SigLIP as SigLIP
from fallline.losses.embedding.sup_con import SupCon as SupCon
from fallline.losses.embedding.triplet import Triplet as Triplet
from fallline.losses.large.linear_cross_entropy import LinearCrossEntropy as LinearCrossEntropy
from fallline.losses.overlap.dice import Dice as Dice
from fallline.losses.overlap.tversky import Tversky as Tversky
from fallline.losses.predict import predict_from as predict_from
from fallline.losses.ranking.pairwise_auc import PairwiseAUC as PairwiseAUC
from fallline.losses.regression.gaussian_nll import GaussianNLL as GaussianNLL
from fallline.losses.regression.huber import Huber as Huber
from fallline.losses.regression.log_cosh import LogCosh as LogCosh
from fallline.losses.regression.mae import MAE as MAE
from fallline.losses.regression.mse import MSE as MSE
from fallline.losses.regression.msle import MSLE as MSLE
from fallline.losses.regression.poisson_nll import PoissonNLL as PoissonNLL
from fallline.losses.regression.quantile import Quantile as Quantile
from fallline.losses.regression.smooth_l1 import SmoothL1 as SmoothL1

if not TYPE_CHECKING:  # a type checker would take every name as there

    def __getattr__(name: str) -> object:
        from fallline.losses._names import missing
        from fallline.losses.catalog import SPELLINGS

        every = {**LOSSES, **FURTHER}
        raise AttributeError(missing("fl.losses", name, globals(), SPELLINGS, lambda loss: every[loss].__name__), name=name)
