"""Formulas of the trace as MathML: `dL/dw13 = δ3 · a1` with a fraction and subscripts, drawn by the browser itself."""

import re
from html import escape

SUMS = {"Σₙ": "n", "Σᵢ": "i", "Σⱼ": "j"}
_TOKEN = re.compile(
    r"dL/d ?(?P<by>[wzabxŷδ][\d,ᵢⱼ]*′*)(?![A-Za-z])"
    r"|(?P<sym>[wzabxδŷyLnKWLfuv])(?P<index>\d+(?:,\d+)?|[ᵢⱼ])?(?P<prime>′*)(?![A-Za-zα-ωŷ_])"
    r"|(?P<number>−?\d[\d.]*(?:e[-+]?\d+)?)"
    r"|(?P<words>[A-Za-z]{2,}(?![A-Za-z_′])(?:[ -][A-Za-z]{2,}(?![A-Za-z_′]))*)"
    r"|(?P<word>[A-Za-zα-ωΑ-ΩŷᵀᵢⱼₙᶻΣ²ϕΦ∞…]+(?:_[a-z]+)?′?)"
    r"|(?P<space>\s+)"
    r"|(?P<mark>.)"
)


def _symbol(letter: str, index: str | None, prime: str) -> str:
    bare = '<mover accent="true"><mi>y</mi><mo>^</mo></mover>' if letter == "ŷ" else f"<mi>{letter}</mi>"
    inner = bare if not prime else f"<mrow>{bare}<mo>{prime}</mo></mrow>"
    if not index:
        return inner
    below = {"ᵢ": "<mi>i</mi>", "ⱼ": "<mi>j</mi>"}.get(index, f"<mn>{escape(index)}</mn>")
    return f"<msub>{inner}{below}</msub>"


def _by(name: str) -> str:
    found = re.fullmatch(r"(.)([\d,ᵢⱼ]*)(′*)", name)
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
            word, function = escape(found["words"]), expression[found.end() : found.end() + 1] == "("
            out.append(f"<mi>{word}</mi>" if function and " " not in word else f"<mtext>&nbsp;{word}&nbsp;</mtext>")
        elif found["word"] in SUMS:
            out.append(f"<msub><mo>Σ</mo><mi>{SUMS[found['word']]}</mi></msub>")
        elif found["word"]:
            word = found["word"]
            out.append(f"<mi>{escape(word)}</mi>")
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
