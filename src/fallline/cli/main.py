"""The command line: which commands there are, and what happens when one of them cannot go on.

Commands are named by import strings, so `fallline --help` loads neither torch nor polars. Exit codes: 0 fine, 1 findings (a run that
diverged, a comparison without a result), 2 wrong use or broken input (one sentence on standard error), 130 interrupted.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from cyclopts import App, Group

from fallline.cli.failure import sentence_of, tell
from fallline.cli.given import remember
from fallline.cli.terminal import warnings_in_one_line

FINE, FINDINGS, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

_TRAIN = Group("Train and use a model", sort_key=1)
_CHOOSE = Group("Choose", sort_key=2)
_UNDERSTAND = Group("Understand", sort_key=3)


class Command(NamedTuple):
    """What the help tells of a command before it is imported; the first example stands in the help of the whole."""

    name: str
    group: Group
    purpose: str
    examples: tuple[str, ...]


COMMANDS = (
    Command(
        "train",
        _TRAIN,
        "Train a model on a table, pictures or a named set, and test it on rows it never saw.",
        (
            "fallline train houses.csv --target price",
            "fallline train fashion_mnist --model cnn --optimizer rmsprop --lr 0.001 --epochs 5",
            "fallline train --resume runs/houses-20260101-120000",
        ),
    ),
    Command(
        "predict",
        _TRAIN,
        "Predict the rows of a file: classes with probabilities, or numbers with 90 % intervals.",
        ("fallline predict runs/houses new.csv --out predictions.csv",),
    ),
    Command("report", _TRAIN, "Write the interactive page of a run or of a comparison.", ("fallline report runs/houses",)),
    Command(
        "compare",
        _CHOOSE,
        "Compare optimizers, learning rates and batch sizes over several seeds.",
        (
            "fallline compare digits --optimizers sgd,momentum,adam --seeds 5",
            "fallline compare houses.csv --target price --batch-sizes 32,128,full --lrs 0.01,0.001",
        ),
    ),
    Command(
        "table",
        _CHOOSE,
        "Fill a table of batch size against epochs over several seeds.",
        ("fallline table fashion_mnist --batch-sizes 32,64,128,full --epochs 5,10,15 --seeds 5",),
    ),
    Command(
        "tune",
        _CHOOSE,
        "Search over all settings; train the best again with fresh seeds and rank them.",
        ("fallline tune digits --trials 200", "fallline tune digits --optimizers adamw,nesterov --lrs 1e-4..1 --models mlp:64,mlp:128"),
    ),
    Command("lr", _CHOOSE, "Find the range of useful learning rates in seconds.", ("fallline lr digits --optimizer rmsprop",)),
    Command(
        "explain",
        _UNDERSTAND,
        "Tell formula, source and use of a loss, optimizer, activation or schedule.",
        ("fallline explain huber --plot", "fallline explain adam --plot adam.png"),
    ),
)


def version() -> str:
    """The version, read where it is written."""
    from fallline._core.version import VERSION

    return VERSION


def build_app() -> App:
    """The command-line application; building it imports none of its commands."""
    app = App(
        name="fallline",
        help="Losses, optimizers, and the evidence to choose between them.",
        version=version,
        help_format="plaintext",
        help_epilogue=_examples([command.examples[0] for command in COMMANDS])
        + "\n\nfallline COMMAND --help shows the options of a command with their defaults and ranges.",
        group_commands=Group("Options", sort_key=9),
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for place, command in enumerate(COMMANDS):
        app.command(
            f"fallline.cli.{command.name}:{command.name}",
            name=command.name,
            help=command.purpose,
            help_epilogue=_examples(command.examples),
            group=command.group,
            sort_key=place,
        )
    return app


def _examples(lines: Sequence[str]) -> str:
    return "\n".join([f"Example{'s' if len(lines) > 1 else ''}:", *(f"  {line}" for line in lines)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; `argv` defaults to the process's own.

    >>> main(["--version"])
    0.1.0
    0
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        remember(tokens)
        with warnings_in_one_line():
            code = build_app()(tokens)
    except KeyboardInterrupt as error:
        tell(f"interrupted: {str(error) or 'there was nothing to save yet.'}")
        return INTERRUPTED
    except BrokenPipeError:  # the reader (`| head`) left: nothing to say, and nobody to say it to
        _silence_stdout()
        return FINE
    except SystemExit as error:  # rich turns a reader who left into this
        if isinstance(error.__context__, BrokenPipeError):
            return FINE
        raise
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        tell(f"error: {sentence}")
        return WRONG_USE
    return code if isinstance(code, int) else FINE


def _silence_stdout() -> None:
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(main())
