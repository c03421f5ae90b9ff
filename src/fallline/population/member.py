"""What a population is asked to train, and what came of it."""

from dataclasses import dataclass, field

from torch import nn

from fallline.training.loop import Outcome
from fallline.training.settings import Settings


@dataclass(frozen=True)
class Job:
    """One member to be trained.

    Args:
        run: its name in the record.
        settings: as `train` takes them; `lr` is a number.
        test: whether the test rows are judged at the end.
        marks: epochs after which the test rows are judged too, at the weights of that epoch.
    """

    run: str
    settings: Settings
    test: bool = True
    marks: tuple[int, ...] = ()


@dataclass
class Result:
    """What came of one member.

    Attributes:
        job: what was asked.
        outcome: as `train` gives it; `seconds` is its share of its block's time: forward and backward in equal parts, the step by rule.
        marks: epoch to test metrics at the weights of that epoch.
        block: members that were trained together with it, itself included; 1: it was trained alone.
        alone: why it was trained alone, where a population was not possible.
        model: its trained model, where it was asked for.
    """

    job: Job
    outcome: Outcome
    marks: dict[int, dict[str, float]] = field(default_factory=dict)
    block: int = 1
    alone: str = ""
    model: nn.Module | None = None
