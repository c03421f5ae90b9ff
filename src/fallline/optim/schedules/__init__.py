"""Learning-rate schedules: pure functions of the step, one file each; `Scheduled` runs them on any optimizer."""

from fallline.optim.schedules._build import SCHEDULES as SCHEDULES
from fallline.optim.schedules._build import build as build
from fallline.optim.schedules._build import epochs_named as epochs_named
from fallline.optim.schedules._schedule import Schedule as Schedule
from fallline.optim.schedules._scheduled import Scheduled as Scheduled
from fallline.optim.schedules.constant import constant as constant
from fallline.optim.schedules.cosine import cosine as cosine
from fallline.optim.schedules.cyclic import cyclic as cyclic
from fallline.optim.schedules.exponential import exponential as exponential
from fallline.optim.schedules.inverse_root import inverse_root as inverse_root
from fallline.optim.schedules.linear import linear as linear
from fallline.optim.schedules.one_cycle import one_cycle as one_cycle
from fallline.optim.schedules.plateau import Plateau as Plateau
from fallline.optim.schedules.polynomial import polynomial as polynomial
from fallline.optim.schedules.step import step as step
from fallline.optim.schedules.warm_restarts import warm_restarts as warm_restarts
from fallline.optim.schedules.warmup import warmup as warmup
from fallline.optim.schedules.wsd import wsd as wsd
