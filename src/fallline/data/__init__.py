"""Data: tables, arrays, pictures and named sets, split and prepared by what the training rows alone tell."""

from fallline.data.augment import Augment as Augment
from fallline.data.batches import batches as batches
from fallline.data.batches import minibatches as minibatches
from fallline.data.dataset import Data as Data
from fallline.data.dataset import Split as Split
from fallline.data.dataset import fingerprint as fingerprint
from fallline.data.load import load as load
from fallline.data.pipeline import Pipeline as Pipeline
from fallline.data.read import read as read
