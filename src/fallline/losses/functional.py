"""Every loss as a function: `functional.huber(input, target, delta=2.0, sample_weight=None, mask=None, reduction="mean")`.

Each is made from its class, so its options, checks and values are the class's own.
"""

from fallline.losses._base import functional_of
from fallline.losses.binary_cross_entropy import BinaryCrossEntropy
from fallline.losses.cross_entropy import CrossEntropy
from fallline.losses.huber import Huber
from fallline.losses.mae import MAE
from fallline.losses.mse import MSE

mse = functional_of(MSE)
mae = functional_of(MAE)
huber = functional_of(Huber)
binary_cross_entropy = functional_of(BinaryCrossEntropy)
cross_entropy = functional_of(CrossEntropy)
