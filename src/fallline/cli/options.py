"""Options that several commands share: each declared once, with its range, its group in the help, and its words.

A number's range comes from a `Number`, which writes the help, checks the value, and words the refusal.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from fallline._core.number import Number

DATA = Group("Data", sort_key=1)
MODEL = Group("Model and loss", sort_key=2)
DESCENT = Group("Descent", sort_key=3)
AGAINST = Group("Against overfitting", sort_key=4)
RUN = Group("Run and output", sort_key=5)


def _check(number: Number) -> Callable[[Any, Any], None]:
    def check(_: Any, value: Any) -> None:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number.check(value)

    return check


def ranged(number: Number, group: Group, words: str = "", **more: Any) -> Parameter:
    """The `Parameter` of an option that takes a number (or one of a few `words`)."""
    return Parameter(help=f"{number.doc} ({number.law}{words})", group=group, validator=_check(number), **more)


def text(help: str, group: Group, **more: Any) -> Parameter:
    """The `Parameter` of an option that takes text."""
    return Parameter(help=help, group=group, **more)


Target = Annotated[str | None, text("column to predict; not needed for named sets and pictures", DATA)]
Task = Annotated[
    Literal["regression", "binary", "multiclass"] | None, text("what the target asks for; found from its values unless given", DATA)
]
Scale = Annotated[Literal["zscore", "minmax", "none"], text("scaling of numeric columns, fitted on the training rows", DATA)]

Model = Annotated[str, text("linear, mlp:256,128, cnn, or file.py:function that returns an nn.Module", MODEL)]
Loss = Annotated[str, text("auto takes mse, binary_cross_entropy or cross_entropy by task; see `fallline explain losses`", MODEL)]
ClassWeight = Annotated[str | None, text("balanced, or one weight a class: 1,3.5 or no=1,yes=3.5", MODEL)]
Dropout = Annotated[float, ranged(Number("dropout", 0, 1, open_high=True, doc="share of units left out while training"), AGAINST)]
Augment = Annotated[str | None, text("pictures only: shift:2,flip,rotate:10,crop:2", AGAINST)]

OptimizerName = Annotated[
    str, text("sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, nadam, adamax; options as rmsprop:alpha=0.9", DESCENT)
]
LearningRate = Annotated[
    float | Literal["auto"],
    ranged(Number("lr", 0, open_low=True, usual="0.001", doc="learning rate; auto finds one first"), DESCENT, ", or auto"),
]
BatchSize = Annotated[
    int | Literal["full"],
    ranged(Number("batch_size", 1, usual="32", doc="rows a step; full is all rows at once"), DESCENT, ", or full"),
]
Epochs = Annotated[int, ranged(Number("epochs", 1, usual="10", doc="passes over the training rows"), DESCENT)]
Schedule = Annotated[
    str,
    text("constant, step, exponential, polynomial, cosine, warm_restarts, warmup, one_cycle, plateau; options as step:every=5", DESCENT),
]
ClipNorm = Annotated[
    float | None, ranged(Number("clip_norm", 0, open_low=True, usual="1", doc="largest global norm of the gradient"), DESCENT)
]
WeightDecay = Annotated[
    float | None, ranged(Number("weight_decay", 0, usual="0.01", doc="the optimizer's own decay of the weights"), AGAINST)
]
L1 = Annotated[float, ranged(Number("l1", 0, usual="1e-4", doc="penalty on the absolute weights, added to the loss"), AGAINST)]
L2 = Annotated[float, ranged(Number("l2", 0, usual="1e-4", doc="penalty on the squared weights, added to the loss"), AGAINST)]
Patience = Annotated[
    int | None, ranged(Number("patience", 1, usual="5", doc="stop after so many epochs without a better validation loss"), AGAINST)
]
Seed = Annotated[int, ranged(Number("seed", 0, doc="one number for split, weights and batches"), RUN)]
Device = Annotated[str, text("auto, cpu, cuda, cuda:1, mps", RUN)]
Track = Annotated[Literal["tensorboard"] | None, text("log to TensorBoard as well, inside the run folder", RUN)]
Json = Annotated[bool, text("print one JSON document instead of words", RUN, negative="", show_default=False)]
Quiet = Annotated[bool, text("print nothing but errors", RUN, negative="", show_default=False)]
RunFolder = Annotated[str | None, text("folder to write; runs/<data>-<date-time> unless given", RUN)]
Resume = Annotated[str | None, text("go on with this interrupted run instead", RUN)]
SignedLabels = Annotated[bool, text("read labels 0/1 as -1/+1, as the hinge losses want them", MODEL, negative="", show_default=False)]
