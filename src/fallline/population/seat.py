"""What a member of a block remembers besides its weights."""

import math
from typing import Any

from fallline.optim import schedules
from fallline.population.member import Job
from fallline.training.stopping import Patience


class Seat:
    """One member's schedule, patience, place and fate.

    Args:
        job: what was asked.
        steps: in an epoch.
        place: of the job in its block.
    """

    def __init__(self, job: Job, steps: int, place: int) -> None:
        settings = job.settings
        assert settings.lr != "auto"
        self.job, self.place, self.settings = job, place, settings
        self.lr = float(settings.lr)
        self.schedule = schedules.build(settings.schedule, total_steps=steps * settings.epochs, steps_per_epoch=steps)
        self.patience = Patience(settings.patience, settings.min_change)
        self.start = math.nan
        self.status, self.message = "", ""
        self.epoch, self.step = 0, 0
        self.seconds = 0.0
        self.marks: dict[int, dict[str, float]] = {}

    def rate(self, step: int) -> float:
        """The learning rate of a step; 0 is the first."""
        return self.lr * self.schedule(step)

    @property
    def alike(self) -> Any:
        """What tells this member's rates from another's: members of the same key share a row of numbers."""
        if isinstance(self.schedule, schedules.Plateau):
            return self.place
        return (self.settings.schedule, self.settings.epochs if self.settings.schedule != "constant" else 0)

    @property
    def together(self) -> tuple[Any, ...]:
        """Members of near keys are best stepped together: they leave together, and share their rule and its numbers."""
        settings = self.settings
        return (settings.epochs, settings.optimizer, settings.schedule, self.lr, self.place)

    @property
    def over(self) -> bool:
        """Whether there is no epoch left to do."""
        return self.epoch >= self.settings.epochs or self.patience.over

    @property
    def takes_best(self) -> bool:
        """Whether the weights of the best epoch are kept at the end, where there was one."""
        return self.patience.best_epoch > 0 and (self.settings.keep == "best" or self.status == "diverged")

    def diverged(self, step: int, epoch: int, value: float) -> None:
        """The loss left the finite numbers at a step (1 is the first) of an epoch (0 is the first)."""
        self.status = "diverged"
        self.message = (
            f"training diverged at step {step} (epoch {epoch + 1}): the loss became {value:.4g}, it began at {self.start:.4g}; "
            f"try a learning rate of {self.lr / 10:.2g} (it was {self.lr:.2g}), or clip_norm=1."
        )

    def finish(self) -> None:
        """Notice that the last epoch is done."""
        if self.over and not self.status:
            self.status = "finished"
            if self.patience.over and self.epoch < self.settings.epochs:
                self.message = f"stopped after epoch {self.epoch}: no better validation loss for {self.patience.waited} epochs."
