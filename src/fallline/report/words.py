"""Numbers and lists as a reader wants them: percent for fractions, thousands apart, seconds as minutes, words joined by commas."""

import math
from collections.abc import Sequence

from fallline import record

NBSP = "\N{NO-BREAK SPACE}"
_AS_NUMBER = frozenset({"roc_auc"})  # a fraction that nobody writes in percent


def split_key(key: str) -> tuple[str, str]:
    """A key such as "validation/accuracy" as (split, key); the split is empty where none is named.

    >>> split_key("validation/accuracy"), split_key("accuracy")
    (('validation', 'accuracy'), ('', 'accuracy'))
    """
    split, _, rest = key.partition("/")
    return (split, rest) if rest else ("", key)


def label(key: str) -> str:
    """How a metric is called in a sentence.

    >>> label("roc_auc"), label("my_score")
    ('ROC AUC', 'my score')
    """
    known = record.KEYS.get(key)
    return known.label if known else key.replace("_", " ")


def is_percent(key: str) -> bool:
    """Whether a metric is a share that reads best as percent.

    >>> is_percent("accuracy"), is_percent("loss")
    (True, False)
    """
    name = split_key(key)[1]
    return name in record.KEYS and record.KEYS[name].unit == "fraction" and name not in _AS_NUMBER


def number(value: object, digits: int = 4) -> str:
    """A number with `digits` significant digits, thousands apart; a dash for what is none.

    >>> number(1257), number(0.012345), number(float("nan")), number(None), number(3.0)
    ('1,257', '0.01235', 'not finite', '–', '3')
    """
    if value is None or isinstance(value, bool | str):
        return "–" if value is None else str(value)
    try:
        number_ = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return str(value)
    if not math.isfinite(number_):
        return "not finite"
    if number_ == int(number_) and abs(number_) < 1e15:
        return f"{int(number_):,}"
    if abs(number_) >= 10 ** (digits - 1):
        return f"{number_:,.0f}"
    text = f"{number_:.{digits}g}"
    if "e" in text:
        mantissa, _, power = text.partition("e")
        return f"{mantissa}e{int(power)}"
    return text


def metric(key: str, value: object, places: int = 1) -> str:
    """A metric's value with its unit: shares in percent.

    >>> metric("accuracy", 0.9722).replace(NBSP, " "), metric("r2", 0.78123)
    ('97.2 %', '0.7812')
    """
    if value is not None and is_percent(key):
        try:
            share = float(value)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError):
            return str(value)
        return f"{100 * share:.{places}f}{NBSP}%" if math.isfinite(share) else "not finite"
    return number(value)


def seconds(value: object) -> str:
    """A span of time.

    >>> [seconds(v).replace(NBSP, " ") for v in (0.0042, 3.21, 125, 4000)]
    ['4.2 ms', '3.2 s', '2 min 5 s', '1 h 6 min']
    """
    if value is None:
        return "–"
    try:
        span = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return str(value)
    if not math.isfinite(span):
        return "–"
    if span < 0.1:
        return f"{1000 * span:.2g}{NBSP}ms"
    if span < 60:
        return f"{span:.1f}{NBSP}s"
    if span < 3600:
        return f"{int(span // 60)}{NBSP}min {int(span % 60)}{NBSP}s"
    return f"{int(span // 3600)}{NBSP}h {int(span % 3600 // 60)}{NBSP}min"


def count(n: int | float, one: str, many: str = "") -> str:
    """A number of things.

    >>> count(1, "seed"), count(1257, "row"), count(2, "class", "classes")
    ('1 seed', '1,257 rows', '2 classes')
    """
    return f"{int(n):,} {one if n == 1 else many or one + 's'}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Words as a sentence has them.

    >>> listed(["adam"]), listed(["adam", "nadam"]), listed(["sgd", "adam", "nadam"])
    ('adam', 'adam and nadam', 'sgd, adam and nadam')
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
