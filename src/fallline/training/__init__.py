"""The loop: settings, stopping, checkpoints, metrics."""

from fallline.training.evaluate import evaluate as evaluate
from fallline.training.evaluate import outputs as outputs
from fallline.training.goal import Goal as Goal
from fallline.training.goal import Scale as Scale
from fallline.training.goal import aim as aim
from fallline.training.loop import Outcome as Outcome
from fallline.training.loop import train as train
from fallline.training.metrics import main_metric as main_metric
from fallline.training.settings import Settings as Settings
