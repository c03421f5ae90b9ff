"""A search over settings: trials are asked for by the batch, trained as populations, judged after epochs, and kept as they end.

A batch is asked one trial after another, each knowing of those before it; then all of it is trained, block by block. What a batch asks is a
function of the finished batches before it and of the seed, and how it is cut into blocks is a function of what it asks: so a search that
was killed asks the same again, takes from the record the blocks that are whole, and trains the rest. All trials begin with the same weights
and see the rows in the same order: they differ by their settings alone.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from fallline import record
from fallline._core.errors import FalllineError, lookup, must
from fallline.population import Block, Job, Population, Result
from fallline.record import Reader, Writer
from fallline.study.members import OUTCOME
from fallline.study.models import ModelLike, fresh
from fallline.study.runner import Stop, Tick
from fallline.study.sampling import LOSSES, PRUNERS, SAMPLERS, STARTUP, judged_at, pruner_of, quiet_optuna, sampler_of, suggester
from fallline.study.space import Point, Space
from fallline.study.trials_db import TrialsFile
from fallline.training import Goal, Settings

if TYPE_CHECKING:
    import optuna

    from fallline.data import Data
    from fallline.losses import Loss


@dataclass(frozen=True)
class SearchPlan:
    """A search before it runs. Immutable and JSON-able.

    Args:
        space: where it looks.
        trials: how many in all.
        batch: asked for at once.
        sampler: "tpe", "random" or "grid".
        pruner: "halving", "median" or "none".
        seed: of what is asked.
        metric: that is judged, on validation rows at the weights that are kept.
        best: trials that are trained again in the end.
        seeds: of these trainings.
        settings: what holds for every trial.
        sizes: members in a block, by model and shape; filled in as they are measured.
    """

    space: Space
    trials: int
    batch: int
    sampler: str
    pruner: str
    seed: int
    metric: str
    best: int
    seeds: tuple[int, ...]
    settings: Settings
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, low, usual in (("trials", 1, "100"), ("batch", 1, "32"), ("best", 1, "5")):
            value = getattr(self, name)
            must(_whole(value) and value >= low, f"{name} >= {low}, a whole number", repr(value), f"{usual} is usual", where="tune")
        must(_whole(self.seed) and self.seed >= 0, "seed >= 0, a whole number", repr(self.seed), where="tune")
        must(len(self.seeds) > 0 and len(set(self.seeds)) == len(self.seeds), "each seed is named once", list(self.seeds), where="tune")
        must(all(_whole(s) and s >= 0 for s in self.seeds), "a seed is a whole number >= 0", list(self.seeds), where="tune")
        lookup("sampler", self.sampler, dict.fromkeys(SAMPLERS))
        lookup("pruner", self.pruner, dict.fromkeys(PRUNERS))
        if self.metric == "loss":
            losses = self.space.choices("loss")
            must(len(losses) == 1, "one loss, where the loss is the metric", ", ".join(losses), "name a metric", where="tune")
        if self.sampler == "grid":
            size = sum(1 for _ in itertools.islice(self.space.grid(), self.trials + 1))
            law = f"the grid has at most {self.trials} places"
            must(size <= self.trials, law, "more", "narrow the space, or ask for more trials", where="tune")

    @property
    def search_seed(self) -> int:
        """The seed of every trial's training; not among `seeds`."""
        return max(self.seeds) + 1

    @property
    def lower(self) -> bool:
        """Whether a lower metric is better."""
        return record.key(self.metric).better == "lower"

    @property
    def asked(self) -> int:
        """Trials that will be run: all, or the places of a grid."""
        return sum(1 for _ in self.space.grid()) if self.sampler == "grid" else self.trials

    def settings_of(self, point: Point, seed: int) -> Settings:
        """The settings of one training."""
        return dataclasses.replace(self.settings, **point.settings, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "space": self.space.to_json(),
            "settings": self.settings.to_json(),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "SearchPlan":
        """The plan that `to_json` wrote.

        Raises:
            FalllineError: a field is missing: the search is damaged, or from another version.
        """
        try:
            held = {f.name: fields[f.name] for f in dataclasses.fields(cls)}
            space, settings = Space.from_json(fields["space"]), Settings.from_json(fields["settings"])
            return cls(**{**held, "space": space, "settings": settings, "seeds": tuple(fields["seeds"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise FalllineError(f"the settings of the search are damaged: {type(error).__name__}: {error}.") from error


@dataclass(frozen=True)
class Trial:
    """One trial, whole.

    Attributes:
        number: 0 is the first.
        model: its spec.
        settings: what differs from the settings of the plan.
        factors: what a table names: factor -> number or word.
        params: as Optuna holds them.
        by: who proposed it: "random", "tpe" or "grid".
        status: "finished"; "stopped": it was left behind at a rung; or "diverged".
        value: the metric on validation rows, at the weights that were kept; None: diverged.
        loss: the validation loss there.
        reports: epoch -> metric, where it was judged.
        epochs: that were trained.
        steps: optimizer steps.
        seconds: its share of the time of its block.
        message: what is to say, where it did not simply finish.
        alone: why it was trained by itself.
        losses: epoch -> validation loss, where it was judged; what is not finite is left out.
    """

    number: int
    model: str
    settings: dict[str, Any]
    factors: dict[str, Any]
    params: dict[str, Any]
    by: str
    status: str
    value: float | None
    loss: float | None
    reports: dict[int, float]
    epochs: int
    steps: int
    seconds: float
    message: str = ""
    alone: str = ""
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """Its name in the record."""
        return f"trial={self.number}"

    @property
    def point(self) -> Point:
        """Where it stands in the space."""
        return Point(self.model, self.settings, self.factors)

    def rank_key(self, lower: bool) -> tuple[float, ...]:
        """Sorts trials from the best: finished ones by value and loss; then stopped ones, later before earlier; then diverged ones."""
        value = math.inf if self.value is None else self.value if lower else -self.value
        kind = {"finished": 0, "stopped": 1}.get(self.status, 2)
        return (kind, -self.epochs if kind == 1 else 0, value, math.inf if self.loss is None else self.loss, self.number)


class Shop:
    """Trains the members of a search into its record: one population for each model."""

    def __init__(
        self, models: Mapping[str, ModelLike], data: "Data", plan: SearchPlan, writer: Writer, loss: "Loss | None", stop: Stop, tick: Tick
    ) -> None:
        self.data, self.plan, self.writer, self.stop, self.tick = data, plan, writer, stop, tick
        self.reader = Reader(writer)
        self.before = set(self.reader.runs())  # what a process before this one may have left in part
        self.interrupted = False

        def maker(model: ModelLike) -> Any:
            def make(settings: Settings, goal: Goal) -> nn.Module:
                return fresh(model, data.input_shape, goal.outputs, seed=settings.seed, dropout=settings.dropout)

            return make

        self.populations = {
            name: Population(maker(model), data, loss, sizes=plan.sizes.setdefault(name, {})) for name, model in models.items()
        }

    def blocks(self, jobs: Sequence[tuple[str, Job]]) -> list[tuple[str, Block]]:
        """Jobs by model, in blocks; their sizes are written down before any is trained."""
        known = json.dumps(self.plan.sizes)
        out = []
        for name, population in self.populations.items():
            out += [(name, block) for block in population.blocks([job for model, job in jobs if model == name])]
        if json.dumps(self.plan.sizes) != known:
            self.writer.describe(config=self.plan.to_json())
        return out

    def train(self, name: str, block: Block, each_epoch: Any = lambda members: ()) -> list[Result] | None:
        """Train one block; None where the user stopped."""
        runs = [job.run for job in block.jobs]
        for run in self.before.intersection(runs):
            self.writer.drop(run)
        found = self.populations[name].run(block, self.writer, stop=self.stop, tick=self.tick, each_epoch=each_epoch)
        if found is None:
            self.interrupted = True
            for run in runs:
                self.writer.drop(run)
        return found

    def keep(self, results: Sequence[tuple[str, Any]]) -> None:
        """Write what came of a whole block: (run, dataclass)."""
        for run, found in results:
            self.writer.text(OUTCOME, json.dumps(asdict(found)), run=run)
        self.writer.flush()

    def known(self, run: str) -> dict[str, Any] | None:
        """What the record holds of a whole member.

        Raises:
            FalllineError: it is damaged.
        """
        texts = self.reader.texts(OUTCOME, run)
        try:
            return dict(json.loads(texts[-1][1])) if texts else None
        except (ValueError, TypeError) as error:
            raise FalllineError(f"the record of '{run}' is damaged: {error}.") from error


class Search:
    """The trials of a plan: those that are kept already, and the rest.

    Args:
        shop: trains them.
        plan: what is asked.
        file: where finished trials are kept.
    """

    def __init__(self, shop: Shop, plan: SearchPlan, file: TrialsFile) -> None:
        import optuna

        self.shop, self.plan, self.file = shop, plan, file
        self.trials: list[Trial] = []
        self.epochs = judged_at(plan.pruner, plan.settings.epochs)
        kept = file.trials()
        self.kept = len(kept)
        done = self.kept if self.kept >= plan.asked else self.kept // plan.batch * plan.batch
        with quiet_optuna():
            pruner = pruner_of(plan.pruner, plan.settings.epochs)
            direction = "minimize" if plan.lower else "maximize"
            self.study = optuna.create_study(direction=direction, pruner=pruner, sampler=sampler_of("random", plan.seed, 0))
            self.study.add_trials(kept[:done])
        for number in range(done):
            found = self.known(number)
            if found is None or found.params != kept[number].params:
                raise FalllineError(f"trial {number} of '{file.path}' is not that of the record; the search is not whole, start a new one.")
            self.trials.append(found)

    def run(self) -> Iterator[int]:
        """Train what is missing; after each block how many trials are done. Ends early where the user stopped."""
        yield len(self.trials)
        places = list(self.plan.space.grid()) if self.plan.sampler == "grid" else None
        while len(self.trials) < self.plan.asked and not self.shop.interrupted:
            first = len(self.trials)
            with quiet_optuna():
                asked = self._ask(first, None if places is None else places[first:])
                yield from self._train(first, asked)

    def known(self, number: int) -> Trial | None:
        """A whole trial of the record."""
        fields = self.shop.known(f"trial={number}")
        if fields is None:
            return None
        try:
            kept = {name: {int(k): float(v) for k, v in fields.get(name, {}).items()} for name in ("reports", "losses")}
            return Trial(**{**fields, **kept})
        except (KeyError, TypeError, ValueError) as error:
            raise FalllineError(f"the record of trial {number} is damaged: {type(error).__name__}: {error}.") from error

    def _ask(self, first: int, places: list[dict[str, Any]] | None) -> "list[tuple[optuna.Trial, Point]]":
        plan, study = self.plan, self.study
        count = min(plan.batch, plan.asked - first)
        study.sampler = sampler_of(plan.sampler, plan.seed, first)
        out = []
        for place in range(count):
            if places is not None:
                study.enqueue_trial(places[place])
            trial = study.ask()
            assert trial.number == first + place
            out.append((trial, plan.space.draw(suggester(trial))))
        return out

    def _train(self, first: int, asked: "list[tuple[optuna.Trial, Point]]") -> Iterator[int]:
        """Train one batch: first what is kept for good is told, then block by block."""
        done: dict[int, Trial] = {}
        trials = {f"trial={trial.number}": (trial, point) for trial, point in asked}
        for trial, _ in asked:
            if trial.number < self.kept:
                done[trial.number] = self._again(trial, self.known(trial.number))
        jobs = [
            (point.model, Job(run, self.plan.settings_of(point, self.plan.search_seed), test=False))
            for run, (trial, point) in trials.items()
            if trial.number not in done
        ]
        for name, block in self.shop.blocks(jobs):
            mine = [trials[job.run] for job in block.jobs]
            known = [self.known(trial.number) for trial, _ in mine]
            if all(found is not None for found in known):
                done |= {trial.number: self._again(trial, found) for (trial, _), found in zip(mine, known, strict=True)}
            else:
                found = self._block(name, block, trials, first)
                if found is None:
                    break
                done |= found
            yield first + len(done)
        if len(done) == len(asked):
            whole = self.study.get_trials(deepcopy=False)
            self.file.add(whole[max(self.kept, first) :])
            self.kept = max(self.kept, len(whole))
        self.trials += [done[number] for number in sorted(done)]

    def _block(self, name: str, block: Block, trials: dict[str, Any], first: int) -> dict[int, Trial] | None:
        reports, losses = ({job.run: dict[int, float]() for job in block.jobs} for _ in range(2))

        def judge(members: Sequence[tuple[str, int, dict[str, float]]]) -> set[str]:
            seen = [(run, epoch, found) for run, epoch, found in members if epoch in self.epochs]
            for run, epoch, found in seen:
                reports[run][epoch] = found.get(self.plan.metric, math.nan)
                if math.isfinite(loss := found.get("loss", math.nan)):
                    losses[run][epoch] = loss
                _report(trials[run][0], {epoch: reports[run][epoch]}, losses[run])
            return {run for run, _, _ in seen if trials[run][0].should_prune()}

        results = self.shop.train(name, block, judge)
        if results is None:
            return None
        by = "random" if self.plan.sampler == "tpe" and first < STARTUP else self.plan.sampler
        out = {}
        for result in results:
            trial, point = trials[result.job.run]
            out[trial.number] = _trial(trial, point, by, result, self.plan.metric, reports[result.job.run], losses[result.job.run])
            self._tell(trial, out[trial.number])
        self.shop.keep([(found.run, found) for found in out.values()])
        return out

    def _again(self, trial: "optuna.Trial", found: Trial | None) -> Trial:
        """Tell a trial that the record holds."""
        if found is None or found.params != trial.params:
            raise FalllineError(
                f"trial {trial.number} would be asked with other values than the record holds: the search was made by another version of "
                "Optuna or fallline; start a new one with --out."
            )
        _report(trial, found.reports, found.losses)
        self._tell(trial, found)
        return found

    def _tell(self, trial: "optuna.Trial", found: Trial) -> None:
        """Tell Optuna how a trial ended; one that diverged is worse than any other, and that it did is kept as a broken constraint."""
        import optuna

        trial.set_user_attr("status", found.status)
        trial.set_user_attr("settings", {"model": found.model, **found.settings})
        if found.status == "stopped":
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif found.value is None:
            trial.set_constraint("diverged", 1.0)
            self.study.tell(trial, math.inf if self.plan.lower else -math.inf)
        else:
            self.study.tell(trial, found.value)


def _report(trial: "optuna.Trial", values: Mapping[int, float], losses: Mapping[int, float]) -> None:
    """Tell Optuna values at epochs, and all losses so far, by which equal values are told apart."""
    for epoch, value in values.items():
        trial.report(value, epoch)
    trial.set_user_attr(LOSSES, {str(epoch): loss for epoch, loss in losses.items()})


def _trial(
    trial: "optuna.Trial",
    point: Point,
    by: str,
    result: Result,
    metric: str,
    reports: dict[int, float],
    losses: dict[int, float],
) -> Trial:
    outcome = result.outcome
    judged = outcome.metrics.get("validation", {})
    value, loss = (_plain(judged.get(key, math.nan)) for key in (metric, "loss"))
    lost = outcome.status == "diverged" or value is None
    return Trial(
        trial.number,
        point.model,
        point.settings,
        point.factors,
        dict(trial.params),
        by,
        "diverged" if lost else outcome.status,
        None if lost else value,
        None if lost else loss,
        reports,
        outcome.epochs_done,
        outcome.steps,
        outcome.seconds,
        outcome.message,
        result.alone,
        losses,
    )


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
