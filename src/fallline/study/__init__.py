"""Studies: the learning-rate finder, comparisons over seeds, and their statistics."""

from fallline.study.compare import Result as Result
from fallline.study.compare import run_study as run_study
from fallline.study.lr import find_lr as find_lr
from fallline.study.lr import find_lr_plain as find_lr_plain
from fallline.study.members import Member as Member
from fallline.study.plan import Cell as Cell
from fallline.study.plan import Plan as Plan
from fallline.study.plan import make_plan as make_plan
from fallline.study.ramp import LRResult as LRResult
from fallline.study.ramp import Walk as Walk
from fallline.study.ramp import range_test as range_test
from fallline.study.statistics import all_pairs as all_pairs
from fallline.study.statistics import holm as holm
from fallline.study.statistics import mean_interval as mean_interval
from fallline.study.statistics import paired as paired
from fallline.study.tune import search as search
