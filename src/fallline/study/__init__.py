"""Studies: the learning-rate finder, comparisons over seeds, and their statistics."""

from fallline.study.lr import find_lr as find_lr
from fallline.study.lr import find_lr_plain as find_lr_plain
from fallline.study.ramp import LRResult as LRResult
from fallline.study.ramp import Walk as Walk
from fallline.study.ramp import range_test as range_test
