"""Who proposes the next trials, and which trials stop early: Optuna's samplers and pruners, seeded batch by batch.

    random, tpe, grid      every batch asks a sampler of its own seed, so a search that was killed asks the same again
    halving                after E/5 and E/2 epochs the best third goes on, of all trials that came so far (successive halving); trials of
                           equal values (accuracy on few rows) by their validation loss, then by their number
    median                 Optuna's median pruner: worse than the middle of the finished trials at the same epoch

The trials of a block report before any of them is judged, so the order of reports favours none; trials of earlier blocks count as they
come, as in the asynchronous form. The first batch is always random: `expected_best` rests on these trials, and TPE starts from them.

Departs from the source: successive halving judges after E/9 and E/3; a schedule that warms up, or a small rate, has then hardly begun.

Source: Bergstra, Bardenet, Bengio and Kegl, "Algorithms for hyper-parameter optimization", NeurIPS 2011; constant liar: Ginsbourger, Le
Riche and Carraro, "Kriging is well-suited to parallelize optimization", 2010; Jamieson and Talwalkar, "Non-stochastic best arm
identification and hyperparameter optimization", AISTATS 2016; Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar,
"A system for massively parallel hyperparameter tuning", MLSys 2020.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fallline._core.errors import FalllineError
from fallline._core.seeds import stream
from fallline.study.space import Range, Values

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("halving", "median", "none")
STARTUP = 10  # trials that are drawn at random before TPE takes over, at least
KEEP = 3  # one of so many goes on at a rung
LOSSES = "losses"  # what a trial keeps in Optuna besides its values: epoch -> validation loss

Standing = tuple[float, float, int]


def need_optuna() -> None:
    """Refuse in one sentence where Optuna is not installed."""
    try:
        import optuna as optuna  # noqa: PLC0414
    except ImportError as error:
        raise FalllineError("a search needs Optuna, which is not installed; install it with pip install 'fallline[tune]'.") from error


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without Optuna's log lines and its warnings about experimental parts; put back after."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def rungs(epochs: int) -> tuple[int, ...]:
    """The epochs after which successive halving judges.

    >>> rungs(10), rungs(30), rungs(2), rungs(1)
    ((2, 5), (6, 15), (1,), ())
    """
    found = {max(1, round(epochs / 5)), max(1, epochs // 2)}
    return tuple(sorted(epoch for epoch in found if epoch < epochs))


def judged_at(pruner: str, epochs: int) -> tuple[int, ...]:
    """The epochs whose values are reported to Optuna; the last one always."""
    return tuple(range(1, epochs + 1)) if pruner == "median" else tuple(dict.fromkeys((*rungs(epochs), epochs)))


def sampler_of(kind: str, seed: int, first: int) -> "optuna.samplers.BaseSampler":
    """The sampler of the batch that begins with trial `first`."""
    import optuna

    chosen = stream(seed, "ask", first) % 2**32
    if kind != "tpe" or first < STARTUP:
        return optuna.samplers.RandomSampler(seed=chosen)
    with quiet_optuna():
        return optuna.samplers.TPESampler(seed=chosen, n_startup_trials=STARTUP, multivariate=True, group=True, constant_liar=True)


def pruner_of(kind: str, epochs: int) -> "optuna.pruners.BasePruner":
    """The pruner of a search over so many epochs."""
    import optuna

    if kind == "none" or not rungs(epochs):
        return optuna.pruners.NopPruner()
    if kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=rungs(epochs)[0])
    places = rungs(epochs)

    class Halving(optuna.pruners.BasePruner):
        """Successive halving over all trials that have reported at the same rung."""

        def prune(self, study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> bool:
            epoch = trial.last_step
            if epoch is None or epoch not in places:
                return False
            sign = 1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1.0

            def standing(t: "optuna.trial.FrozenTrial") -> Standing:
                return (sign * t.intermediate_values[epoch], t.user_attrs.get(LOSSES, {}).get(str(epoch), math.inf), t.number)

            held = [standing(t) for t in study.get_trials(deepcopy=False) if epoch in t.intermediate_values]
            return not goes_on(standing(trial), held)

    return Halving()


def goes_on(mine: Standing, held: Sequence[Standing]) -> bool:
    """Whether a trial is among the best third of all that came to the same rung, itself included; one whose value is NaN never is.

    Args:
        mine: where it stands: its value (lower is better), its validation loss and its number.
        held: the same of all, its own among them.

    >>> all_alike = [(0.3, 0.5, 0), (0.3, 0.4, 1), (0.3, 0.5, 2)]
    >>> [goes_on(mine, all_alike) for mine in all_alike]
    [False, True, False]
    """
    if math.isnan(mine[0]):
        return False
    return sum(other < mine for other in held) < math.ceil(len(held) / KEEP)


def suggester(trial: "optuna.Trial") -> Any:
    """`suggest(name, values)` of `Space.draw`, answered by a trial."""

    def suggest(name: str, values: Values) -> Any:
        if isinstance(values, Range):
            return trial.suggest_float(name, values.low, values.high, log=values.log, step=values.step)
        return trial.suggest_categorical(name, values)

    return suggest
