"""Formulas of the trace as MathML: `dL/dw13 = δ3 · a1` with a fraction and subscripts, drawn by the browser itself."""

import re
from html import escape

_TOKEN = re.compile(
    r"dL/d ?(?P<by>[wzabxŷδ][\d,]*′*)(?![A-Za-z])"
    r"|(?P<sym>[wzabxδŷyLnKWLfuv])(?P<index>\d+(?:,\d+)?)?(?P<prime>′*)(?![A-Za-zα-ωŷ_])"
    r"|(?P<number>−?\d[\d.]*(?:e[-+]?\d+)?)"
    r"|(?P<words>[A-Za-z]{2,}(?![_′])(?:[ -][A-Za-z]{2,}(?![_′]))*)"
    r"|(?P<word>[A-Za-zα-ωΑ-ΩŷᵀᵢⱼₙᶻΣ²ϕΦ∞…]+(?:_[a-z]+)?′?)"
    r"|(?P<space>\s+)"
    r"|(?P<mark>.)"
)


def _symbol(letter: str, index: str | None, prime: str) -> str:
    bare = '<mover accent="true"><mi>y</mi><mo>^</mo></mover>' if letter == "ŷ" else f"<mi>{letter}</mi>"
    inner = bare if not prime else f"<mrow>{bare}<mo>{prime}</mo></mrow>"
    return f"<msub>{inner}<mn>{escape(index)}</mn></msub>" if index else inner


def _by(name: str) -> str:
    found = re.fullmatch(r"(.)([\d,]*)(′*)", name)
    below = _symbol(found[1], found[2] or None, found[3]) if found else f"<mi>{escape(name)}</mi>"
    return f"<mfrac><mrow><mo>∂</mo><mi>L</mi></mrow><mrow><mo>∂</mo>{below}</mrow></mfrac>"


def _inner(expression: str) -> str:
    out = []
    for found in _TOKEN.finditer(expression):
        if found["by"]:
            out.append(_by(found["by"]))
        elif found["sym"]:
            out.append(_symbol(found["sym"], found["index"], found["prime"] or ""))
        elif found["number"]:
            out.append(f"<mn>{escape(found['number'])}</mn>")
        elif found["words"]:
            out.append(f"<mtext>&nbsp;{escape(found['words'])}&nbsp;</mtext>")
        elif found["word"]:
            word = found["word"]
            plain = len(re.sub(r"[^A-Za-z]", "", word)) > 1
            out.append(f"<mtext>&nbsp;{escape(word)}&nbsp;</mtext>" if plain else f"<mi>{escape(word)}</mi>")
        elif found["mark"]:
            out.append(f"<mo>{escape(found['mark'])}</mo>")
    return "".join(out)


def math(expression: str) -> str:
    """One formula as inline MathML; everything in it is escaped.

    >>> math("dL/dw13").count("mfrac"), "<msub><mi>w</mi><mn>13</mn></msub>" in math("dL/dw13")
    (2, True)
    >>> math("a < 1")
    '<math displaystyle="true"><mi>a</mi><mo>&lt;</mo><mn>1</mn></math>'
    """
    return f'<math displaystyle="true">{_inner(expression)}</math>'
