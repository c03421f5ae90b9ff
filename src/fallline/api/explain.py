"""`fl.explain("huber")`: what a name means: formula, when to use it, when not, its options, its source, and a picture.

Everything is read from where the concept is defined, so that it cannot differ from what runs.
"""

import re
import textwrap
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from fallline._core.errors import FalllineError
from fallline._core.files import write_text
from fallline.teach.concepts import PLURALS, Setting, concept, names, resolve
from fallline.teach.forms import as_html, as_text
from fallline.teach.variants import Variants

WIDTH = 100


@dataclass(frozen=True)
class Explanation:
    """What there is to say of one name; `str()` of it is `.text()`.

    Attributes:
        name: as fallline writes it.
        family: "loss", "weighting", "mining", "optimizer", "wrapper", "activation", "schedule", "penalty" or "metric".
        summary: one sentence.
        formula: lines of Unicode.
        when, when_not: when to use it and when not.
        source: authors, title, venue, address.
        departs: where fallline departs from the source.
        more: what else its module says.
        options: name, default and meaning of each option.
        python, command: how it is written.
        elsewhere: what torch, keras and optax call it.
        variants: of an optimizer: what its forms (`like=`) compute, from the rule's own text; None of anything else.
        picture: the file that was drawn, or "".
        takes: of a loss: what input and target are.
        chosen: of a loss: the options that were given with its name, with which it is drawn.
    """

    name: str
    family: str
    summary: str
    formula: str
    when: str
    when_not: str
    source: str
    departs: str
    more: str
    options: tuple[Setting, ...]
    python: str
    command: str
    elsewhere: tuple[str, ...] = ()
    variants: Variants | None = None
    picture: str = ""
    takes: str = ""
    chosen: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """For a terminal."""
        title = f"{self.name} · {self.family}"
        parts = [f"{title}\n{'═' * len(title)}", textwrap.fill(self.summary, WIDTH)]
        if self.formula:
            parts.append(textwrap.indent(self.formula, "    "))
        told = [
            ("Takes", self.takes),
            ("When to use", self.when),
            ("When not", self.when_not),
            ("Note", self.more),
            ("Departs", self.departs),
        ]
        written = [("Python", self.python), ("Command", self.command), ("Elsewhere", " · ".join(self.elsewhere))]
        parts.append(_paragraphs(told))
        if self.variants and self.variants.told:
            parts.append(as_text(self.variants, WIDTH))
        if self.options:
            parts.append("Options\n" + _options(self.options))
        parts.append(_paragraphs(written))
        parts.append(_paragraphs([("Source", self.source)]))
        if self.picture:
            parts.append(f"Drawn into {self.picture}")
        return "\n\n".join(p for p in parts if p)

    def html(self) -> str:
        """As one self-contained page, with the picture where the concept has one."""
        from fallline.report.page import page

        told = [
            ("Takes", self.takes),
            ("When to use", self.when),
            ("When not", self.when_not),
            ("Departs from the source", self.departs),
            ("Note", self.more),
        ]
        written = [("Python", self.python), ("Command line", self.command), ("Elsewhere", " · ".join(self.elsewhere))]
        rows = "".join(f"<tr><th>{escape(k)}</th><td>{_coded(_capital(v))}</td></tr>" for k, v in told if v)
        rows += "".join(f"<tr><th>{k}</th><td><code>{'<br>'.join(map(escape, v.splitlines()))}</code></td></tr>" for k, v in written if v)
        rows += f"<tr><th>Source</th><td>{_linked(self.source)}</td></tr>" if self.source else ""
        body = f'<figure class="wide formula"><pre>{escape(self.formula)}</pre></figure>' if self.formula else ""
        try:
            drawn = self._drawing()
        except FalllineError as error:
            drawn = f'<p class="note">{escape(_capital(str(error)))}</p>' if self.variants else ""
        body += drawn + f'<section><table class="facts"><tbody>{rows}</tbody></table></section>'
        if self.variants and self.variants.told:
            body += as_html(self.variants)
        if self.options:
            cells = "".join(
                f"<tr><td><code>{escape(o.name)}</code></td><td>{escape(o.default)}</td><td>{escape(o.meaning)}</td></tr>"
                for o in self.options
            )
            head = "<thead><tr><th>option</th><th>default</th><th>meaning</th></tr></thead>"
            body += f'<section><h2>Options</h2><div class="scroll"><table>{head}<tbody>{cells}</tbody></table></div></section>'
        return page(self.name, body, eyebrow=self.family, lead=self.summary, style=STYLE)

    def to_html(self, path: str | Path) -> Path:
        """Write the page to `path`; a `FalllineError` names the path where it cannot be written."""
        write_text(path, self.html())
        return Path(path)

    def plot(self, path: str | Path) -> Path:
        """Draw it into a file (png, svg or pdf): value and slope, the rate of a schedule, the path of an optimizer.

        Raises:
            FalllineError: the concept has no curve, the ending is another, or the path cannot be written.
        """
        from fallline.teach.curves import curves
        from fallline.teach.drawing import save

        return save(curves(self.name, **self.chosen), path)

    def _drawing(self) -> str:
        from fallline.teach.curves import curves
        from fallline.teach.drawing import svg

        picture = curves(self.name, **self.chosen)
        return f'<figure class="wide"><figcaption><h3>{escape(picture.title)}</h3></figcaption>{svg(picture)}</figure>'

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self.html())}" style="width:100%;height:900px;border:0"></iframe>'

    def __str__(self) -> str:
        return self.text()


@dataclass(frozen=True)
class Index:
    """Every name of one or of all families with its sentence; `str()` of it is `.text()`."""

    families: dict[str, dict[str, str]]

    def text(self) -> str:
        """For a terminal."""
        wide = max(len(n) for table in self.families.values() for n in table)
        parts = []
        for family, table in self.families.items():
            lines = [f"  {name.ljust(wide)}  {textwrap.shorten(says, WIDTH, placeholder=' …')}" for name, says in table.items()]
            parts.append("\n".join([family.capitalize(), *lines]))
        return "\n\n".join([*parts, "`fallline explain NAME` tells formula, source and use of each."])

    def __str__(self) -> str:
        return self.text()


STYLE = """
.formula{margin-top:32px}.formula pre{margin:0;font-size:17px;line-height:1.7;overflow-x:auto}
.curves{display:block;width:100%;max-width:860px;margin:8px auto 0;font-size:12.5px}.curves text{fill:var(--soft)}
.curves .g{stroke:var(--grid);stroke-width:1}.curves .o{stroke:var(--faint)}
.curvekeys{display:flex;flex-wrap:wrap;gap:4px 22px;justify-content:center;margin:8px 0 0;font-size:14px}
.forms td,.forms th{vertical-align:baseline}.forms math{font-size:17px;text-align:left;margin:3px 0}.forms .when td{border-bottom:0;
padding-top:20px;color:var(--soft)}.forms .none{color:var(--faint)}.forms .case{color:var(--soft);font-size:14px;
margin-right:14px}
.curvekey{display:inline-flex;gap:8px;align-items:center}figure.wide{margin-top:20px}
"""


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:] if words[:1].isascii() else words  # ψ stays what it is


def _coded(words: str) -> str:
    """Escaped, with what stands between backticks set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words))


def _linked(words: str) -> str:
    out = []
    for word in words.split():
        bare = word.rstrip(".,;)")
        safe = escape(word)
        out.append(f'<a href="{escape(bare)}">{escape(bare)}</a>{escape(word[len(bare) :])}' if word.startswith("https://") else safe)
    return " ".join(out)


def _paragraphs(pairs: list[tuple[str, str]]) -> str:
    lines = []
    for head, words in pairs:
        if "\n" in words:
            lines.append(textwrap.indent(words, " " * 13).replace(" " * 13, head.ljust(13), 1))
        elif words:
            lines.append(
                textwrap.fill(
                    words, WIDTH, initial_indent=head.ljust(13), subsequent_indent=" " * 13, break_long_words=False, break_on_hyphens=False
                )
            )
    return "\n".join(lines)


def _options(options: tuple[Setting, ...]) -> str:
    heads = [f"{o.name} {o.default}" if o.default == "(required)" else f"{o.name}={o.default}" if o.default else o.name for o in options]
    wide = max(map(len, heads))
    rows = []
    for o, head in zip(options, heads, strict=True):
        first = f"  {head.ljust(wide)}  "
        rows.append(
            textwrap.fill(o.meaning, max(WIDTH, wide + 44), initial_indent=first, subsequent_indent=" " * len(first)) or first.rstrip()
        )
    return "\n".join(rows)


def explain(name: str | None = None, *, plot: bool | str | Path | None = None) -> Explanation | Index:
    """Tell what something is: its formula, its source, when to use it and when not.

    Args:
        name: a loss, mining, optimizer, wrapper, activation, schedule, penalty or metric, as fallline, torch or Keras writes it
            ("leaky_relu", "LeakyReLU", "torch.optim.RMSprop", "ridge"), with or without options ("huber:delta=2", a loss is drawn with
            them); the name of a family ("losses") lists it; None lists every name.
        plot: a file to draw it into (png, svg, pdf); True draws into NAME.png in the current folder.

    Returns:
        An `Explanation`, with `.text()`, `.html()`, `.to_html(path)` and `.plot(path)`; an `Index` for a family or for None.

    Raises:
        FalllineError: nothing has that name (the nearest ones are offered), or it has no curve to draw.

    >>> print(explain("mse").formula)
    ℓ = (y − x)²
    >>> explain("LeakyReLU").name
    'leaky_relu'
    """
    if name is None or not name.strip() or name.strip().lower() in {*PLURALS, *PLURALS.values()}:
        if plot:
            raise FalllineError("a list of names has no curve to draw; write `fallline explain NAME --plot FILE`.")
        return _index(None if name is None or not name.strip() else name.strip().lower())
    found = concept(resolve(name.partition(":")[0]))
    said = found.entry
    chosen = _chosen(said.name, said.family, name.partition(":")[2])
    made = Explanation(
        said.name,
        said.family,
        said.summary,
        said.formula,
        said.when,
        said.when_not,
        said.source,
        said.departs,
        said.more,
        found.settings,
        found.python,
        found.command,
        found.elsewhere,
        found.forms(),
        takes=found.takes,
        chosen=chosen,
    )
    if not plot:
        return made
    return replace(made, picture=str(made.plot(f"{said.name}.png" if plot is True else plot)))


def _chosen(name: str, family: str, options: str) -> dict[str, Any]:
    """The options written after a name. They are checked; only a loss is drawn with them."""
    from fallline.losses import LOSSES, parse

    if not options.strip() or family != "loss" or name not in LOSSES:
        return {}
    return parse(f"{name}:{options}")[1]


def _index(family: str | None) -> Index:
    wanted = next((f for f, plural in PLURALS.items() if family in {f, plural}), None)
    table: dict[str, dict[str, str]] = {}
    for name, of in names().items():
        if wanted is None or of == wanted:
            table.setdefault(PLURALS[of], {})[name] = concept(name).entry.summary
    return Index(table)
