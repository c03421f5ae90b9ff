"""How the trace writes a number."""

import re


def number(value: float) -> str:
    """Four significant digits, six from 1 on (at most four decimals), with a true minus sign, exponents only where they are needed.

    >>> number(-0.0455741), number(1.01326), number(1.0), number(1.5e-9), number(282.500812)
    ('−0.04557', '1.0133', '1', '1.5e-9', '282.501')
    """
    value = value + 0.0
    if 1 <= abs(value) < 1e6:
        shown = f"{round(value, 4):.6g}"
    else:
        shown = re.sub(r"e([+-])0*(?=\d)", lambda m: "e" + m[1].replace("+", ""), f"{value:.4g}")
    return f"−{shown[1:]}" if shown.startswith("-") else shown


def term(value: float) -> str:
    """A number as it stands behind an operator: negative ones in brackets.

    >>> term(-0.5), term(2.0)
    ('(−0.5)', '2')
    """
    shown = number(value)
    return f"({shown})" if shown.startswith("−") else shown
