"""How the trace writes a number."""

import re


def number(value: float) -> str:
    """Four decimals or four significant digits, with a true minus sign, exponents only where they are needed.

    >>> number(-0.0455741), number(1.01326), number(1.0), number(1.5e-9), number(0.0)
    ('−0.04557', '1.0133', '1', '1.5e-9', '0')
    """
    value = value + 0.0
    if 1 <= abs(value) < 1000:
        shown = f"{value:.4f}".rstrip("0").rstrip(".")
    else:
        shown = re.sub(r"e([+-])0*(?=\d)", lambda m: "e" + m[1].replace("+", ""), f"{value:.4g}")
    return f"−{shown[1:]}" if shown.startswith("-") else shown
