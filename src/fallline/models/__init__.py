"""Networks to start from: linear, mlp, cnn, or one of your own."""

from fallline.models.build import MODELS as MODELS
from fallline.models.build import build as build
from fallline.models.check import check_output as check_output
from fallline.models.multi_head import MultiHead as MultiHead
from fallline.models.ordinal import OrdinalHead as OrdinalHead
