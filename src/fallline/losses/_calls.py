"""What is said of arguments that a loss does not have: an option by place, a misspelt one, one by the name that it has elsewhere."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from fallline._core.errors import FalllineError, FalllineTypeError, nearest
from fallline.losses._fields import Option

if TYPE_CHECKING:
    from fallline.losses._base import Loss

_SHARED = ("reduction", "normalize", "validate")

# a word of torch, Keras, optax or pytorch_metric_learning -> options that may be meant, the first that a loss has
_OPTIONS: dict[str, tuple[str, ...]] = {
    "from_logits": ("input_from",),
    "log_input": ("input_from",),
    "log_target": ("target_from",),
    "size_average": ("reduction",),
    "reduce": ("reduction",),
    "num_classes": ("classes",),
    "n_classes": ("classes",),
    "out_features": ("classes",),
    "embedding_size": ("dim",),
    "embedding_dim": ("dim",),
    "in_features": ("dim",),
    "tau": ("temperature", "q"),
    "t": ("temperature",),
    "logit_scale": ("scale", "temperature"),
    "s": ("scale",),
    "m": ("margin",),
    "pos_margin": ("margin",),
    "neg_margin": ("margin",),
    "threshold": ("delta", "beta", "margin"),
    "beta": ("delta",),
    "delta": ("beta",),
    "quantile": ("q",),
    "alpha": ("q", "class_weight"),
    "epsilon": ("eps", "label_smoothing"),
    "smoothing": ("label_smoothing", "smooth"),
    "smooth_nr": ("smooth",),
    "type_of_triplets": ("mining",),
    "miner": ("mining",),
    "mining_strategy": ("mining",),
    "p": ("distance", "squared"),
    "normalize_embeddings": ("unit",),
    "dim": ("axis",),
    "ignore_class": ("ignore_index",),
    "gamma_pos": ("gamma_positive",),
    "gamma_neg": ("gamma_negative",),
    "pos_weight": ("class_weight",),
}
_CALLED = "it is given in the call, not when the loss is made: loss(input, target, {})"
_IN_CALL: dict[str, str] = {name: _CALLED.format(f"{name}=...") for name in ("sample_weight", "mask", "reference", "labels")}
_EXAMPLES = "weights of examples are sample_weight= in the call"
_REFERENCE = "rows that stand against the batch are reference=(embeddings, labels)"
_ARGUMENTS: dict[str, str] = {
    "weight": _EXAMPLES,
    "weights": _EXAMPLES,
    "sample_weights": _EXAMPLES,
    "ref_emb": _REFERENCE,
    "ref_labels": _REFERENCE,
    "indices_tuple": "triplets that were mined are given as embeddings[t.anchor], embeddings[t.positive], embeddings[t.negative]",
    "y_true": "fallline takes (input, target): the model's output first",
    "y_pred": "fallline takes (input, target): the model's output first",
    "logits": "fallline takes (input, target), the model's output first",
    "anchor": "give anchor, positive and negative by place",
    "positive": "give anchor, positive and negative by place",
    "negative": "give anchor, positive and negative by place",
    "var": "mean and variance are one input: write torch.stack([mean, variance], -1), with variance_from='variance'",
}


def no_option(where: str, key: str, options: Mapping[str, Option], *, output: str = "") -> NoReturn:
    """Refuse an option that there is not; the error offers what may be meant and lists what there is."""
    advice = _meant(key, options, output)
    known = f"Known: {', '.join(options)}"
    raise FalllineTypeError(f"there is no option of {where} {key!r}; {advice and advice + (' ' if advice[-1] == '?' else '. ')}{known}.")


def _meant(key: str, options: Mapping[str, Option], output: str) -> str:
    close = nearest(key, options, 1, alike=0.6)
    if key in {"weight", "weights"}:
        classes = "weights of classes are class_weight=, " if "class_weight" in options else ""
        return classes + _EXAMPLES
    found = next((other for other in _OPTIONS.get(key, ()) if other in options), None)
    if found is not None:
        values = f" ({', '.join(options[found].choices)})" if options[found].choices else ""
        return f"did you mean {found!r}{values}?"
    if key in {"from_logits", "log_input"} and output.startswith("logit"):
        return "it takes logits always"
    if close:
        return f"did you mean {close[0]!r}?"
    return _IN_CALL.get(key) or _ARGUMENTS.get(key, "")


def by_place(cls: type["Loss"], values: Sequence[Any]) -> NoReturn:
    """Refuse options by place; the error writes them by name, each to the first option, the loss's own before the rest, that takes it."""
    left = [key for key in cls.options if key not in _SHARED]
    declared = {key: at for at, kind in enumerate(cls.__mro__) for key in vars(kind) if key in left}
    left.sort(key=lambda key: (key == "ignore_index", declared.get(key, len(cls.__mro__))))
    left += _SHARED
    written: list[str] = []
    for value in values:
        whole = [key for key in left if cls.options[key].kind is int and key != "ignore_index"] if type(value) is int else []
        found = next((key for key in (*whole, *left) if _takes(cls.options[key], value)), None)
        if found is None:
            written = []
            break
        left.remove(found)
        written.append(f"{found}={_shown(value)}")
    name = cls.__name__
    advice = f"write {name}({', '.join(written)})" if written else f"its options are {', '.join(cls.options)}"
    raise FalllineTypeError(f"`options are given by name` must hold for {name}, but got {len(values)} by place; {advice}.")


def _takes(option: Option, value: Any) -> bool:
    if option.vector or option.kind is tuple:
        return isinstance(value, (Tensor, list, tuple))
    if option.choices or isinstance(value, str):
        return value in option.choices if isinstance(value, str) else False
    if isinstance(value, bool) or option.kind is bool:
        return isinstance(value, bool) and option.kind is bool
    if not isinstance(value, (int, float)) or (option.kind is int and not isinstance(value, int)):
        return False
    try:
        option.check(value, where="")
    except FalllineError:
        return False
    return True


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, (bool, int, float, str)) else "..." if isinstance(value, Tensor) else repr(list(value))


def misplaced(cls: type["Loss"], forward: Any, args: Iterable[Any], kwargs: Mapping[str, Any], *, written: str) -> None:
    """Refuse arguments that `forward` does not take, in one sentence; returns where it takes them."""
    signature, args = inspect.signature(forward), tuple(args)
    try:
        signature.bind(*args, **kwargs)
        return
    except TypeError as error:
        python = str(error)
    takes = [name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD]
    raise FalllineTypeError(f"{written} takes ({_call(signature, cls.options)}); {_why(cls, args, kwargs, takes, python)}.") from None


def _why(cls: type["Loss"], args: Sequence[Any], kwargs: Mapping[str, Any], takes: list[str], python: str) -> str:
    further = [name for name in takes if name not in {"input", "target", "sample_weight", "mask", cls.third, "third"}]
    for key in kwargs:
        if key in takes:
            continue
        if key in cls.options:
            return f"{key} is an option: write {cls.__name__}({key}=...)(input, target)"
        if key in {"anchor", "positive", "negative"} and cls.name != "triplet":
            return f"it has no argument {key!r}"
        advice = _ARGUMENTS.get(key, "")
        if advice is _REFERENCE and "reference" not in takes:
            advice = ""
        close = nearest(key, [*takes, *cls.options], 1, alike=0.6)
        hint = advice or (f"did you mean {close[0]!r}?" if close else "")
        return f"it has no argument {key!r}" + (f": {hint}" if hint else "")
    if len(args) > 2 + bool(cls.third):
        return _too_many(cls, args[2 + bool(cls.third) :], further)
    return python


def _too_many(cls: type["Loss"], more: Sequence[Any], further: Iterable[str]) -> str:
    if cls.name == "gaussian_nll" and isinstance(more[0], Tensor):
        return f"by place it takes the input and the target; {_ARGUMENTS['var']}"
    word = more[0]
    found = next((key for key, option in cls.options.items() if isinstance(word, str) and word in option.choices), None)
    if found is not None:
        return f"by place it takes the input and the target; write {found}={word!r}"
    return f"what follows the target is given by name ({', '.join((*further, 'sample_weight', 'mask'))})"


def _call(signature: inspect.Signature, options: Mapping[str, Option]) -> str:
    """The arguments of a call as a reader wants them: without their types, options left out."""
    shown = []
    star = False
    for name, p in signature.parameters.items():
        if p.kind in {p.VAR_KEYWORD, p.VAR_POSITIONAL} or name in options:
            continue
        if p.kind is p.KEYWORD_ONLY and not star:
            star = True
            shown.append("*")
        shown.append(name if p.default is p.empty else f"{name}={p.default}")
    return ", ".join(shown)


class Shown:
    """`__signature__` of a class of losses: what its constructor takes, every option by name, for `help` and for editors."""

    def __get__(self, instance: object, owner: type["Loss"]) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")  # that of an instance is its `forward`'s
        own = [*inspect.signature(owner.__init__).parameters.values()][1:]
        named = [p for p in own if p.kind not in {p.VAR_KEYWORD, p.VAR_POSITIONAL}]
        if len(named) == len(own):
            return inspect.Signature(named)
        there = {p.name for p in named}
        keys = [key for key in owner.options if key not in {*_SHARED, *there}] + [key for key in _SHARED if key not in there]
        by_name = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([*named, *(inspect.Parameter(k, by_name, default=owner.options[k].default) for k in keys)])
