"""Prove a loss: `fl.check_loss`."""

from fallline.prove.check_loss import check_loss as check_loss
from fallline.prove.problems import PROBLEMS as PROBLEMS
from fallline.prove.problems import Problem as Problem
from fallline.prove.report import Finding as Finding
from fallline.prove.report import LossReport as LossReport
