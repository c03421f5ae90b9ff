"""Options that several commands share: each declared once, with its range, its group in the help, and its words.

A number's range comes from a `Number`, which writes the help, checks the value, and words the refusal; what the training itself
asks of a setting is written in `fallline.training.settings`, which is too heavy to load for a page of help (a test compares the two).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from fallline._core.errors import refuse
from fallline._core.number import Number

DATA = Group("Data", sort_key=1)
MODEL = Group("Model and loss", sort_key=2)
DESCENT = Group("Descent", sort_key=3)
AGAINST = Group("Against overfitting", sort_key=4)
RUN = Group("Run and output", sort_key=5)


def ranged(number: Number, group: Group, *, whole: bool = False, word: str = "", **more: Any) -> Parameter:
    """The `Parameter` of an option that takes a number in a range, or one `word` instead."""
    law = f"{number.law}, a whole number" if whole else number.law
    law += f", or {word}" if word else ""

    def read(_: Any, tokens: Sequence[Token]) -> float | int | str:
        value = tokens[0].value
        if word and value == word:
            return value
        try:
            read_as = int(value) if whole else float(value)
        except ValueError:
            refuse(law, repr(value), f"{number.usual} is usual" if number.usual else "")
        number.check(read_as)
        return read_as

    return Parameter(help=f"{number.doc} ({law})", group=group, converter=read, show_choices=False, **more)


def text(help: str, group: Group, **more: Any) -> Parameter:
    """The `Parameter` of an option that takes text."""
    return Parameter(help=help, group=group, **more)


Target = Annotated[str | None, text("column to predict; not needed for named sets and pictures", DATA)]
Task = Annotated[
    Literal["regression", "binary", "multiclass"] | None, text("what the target asks for; found from its values unless given", DATA)
]
Scale = Annotated[Literal["zscore", "minmax", "none"], text("scaling of numeric columns, fitted on the training rows", DATA)]

Model = Annotated[str, text("linear, mlp:256,128, cnn, or file.py:function that returns an nn.Module", MODEL)]
Loss = Annotated[
    str,
    text(
        "auto takes mse, binary_cross_entropy or cross_entropy by task; options as triplet:margin=0.3; see `fallline explain losses`", MODEL
    ),
]
ClassWeight = Annotated[str | None, text("balanced, or a weight for each class: no:1,yes:3.5", MODEL)]
Embedding = Annotated[
    int | None,
    ranged(
        Number(
            "embedding", 2, usual="64", doc="outputs of the model, for losses of embeddings such as triplet and arc_face; 64 unless given"
        ),
        MODEL,
        whole=True,
    ),
]
Dropout = Annotated[float, ranged(Number("dropout", 0, 1, open_high=True, doc="share of units left out while training"), AGAINST)]
Augment = Annotated[str | None, text("pictures only: shift:2,flip,rotate:10,crop:2", AGAINST)]

OptimizerName = Annotated[
    str, text("sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, nadam, adamax; options as rmsprop:alpha=0.9", DESCENT)
]
LearningRate = Annotated[
    float | Literal["auto"],
    ranged(Number("lr", 0, open_low=True, usual="0.001", doc="learning rate; auto finds one first"), DESCENT, word="auto"),
]
BatchSize = Annotated[
    int | Literal["full"],
    ranged(Number("batch_size", 1, usual="32", doc="rows a step; full is all rows at once"), DESCENT, whole=True, word="full"),
]
Epochs = Annotated[int, ranged(Number("epochs", 1, usual="10", doc="passes over the training rows"), DESCENT, whole=True)]
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
    int | None,
    ranged(Number("patience", 1, usual="5", doc="stop after so many epochs without a better validation loss"), AGAINST, whole=True),
]
Seed = Annotated[int, ranged(Number("seed", 0, doc="one number for split, weights and batches"), RUN, whole=True)]
Device = Annotated[str, text("auto, cpu, cuda, cuda:1, mps", RUN)]
Track = Annotated[Literal["tensorboard"] | None, text("log to TensorBoard as well, inside the run folder", RUN)]
Json = Annotated[bool, text("print one JSON document instead of words", RUN, negative="", show_default=False)]
Quiet = Annotated[bool, text("print nothing but errors", RUN, negative="", show_default=False)]
RunFolder = Annotated[str | None, text("folder to write; runs/<data>-<date-time> unless given", RUN)]
Resume = Annotated[str | None, text("go on with this interrupted run instead", RUN)]
SignedLabels = Annotated[bool, text("read labels 0/1 as -1/+1, as the hinge losses want them", MODEL, negative="", show_default=False)]
