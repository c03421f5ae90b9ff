"""The shell of every page: one HTML file that opens offline, in light and dark, on a phone and on paper.

Plotly's script is inlined once, packed with gzip (the page stays under 2 MB where the bare script alone has 4.8), and only where a
page has charts. The page forbids itself every request to a network (Content-Security-Policy). Strings are escaped by jinja2's
autoescape; JSON inside a script has `<`, `>` and `&` written as escapes.
"""

import base64
import functools
import gzip
import importlib.resources
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from fallline._core.files import make_folder, write_text
from fallline.report import colours
from fallline.report.draw import plotly_
from fallline.report.figures.shapes import Curves, Figure, Intervals

_PAGES = Path(__file__).parent / "pages"
_LARGE = 60_000  # letters of JSON from which on charts are packed
_PACKED = bytes.maketrans(b"<>&", b",.:")


class Key(NamedTuple):
    """One entry of a legend: a series, its name, colour token and dash."""

    series: str
    name: str
    token: str
    dash: str
    on: bool = True


class Panel(NamedTuple):
    """A figure ready for the page: its words, its table, its legend, and the name of its chart."""

    figure: Figure
    chart: str
    legend: list[Key]
    wide: bool
    height: int
    can_log: bool
    log: bool


@functools.cache
def environment() -> Environment:
    """The templates, with autoescape on and undefined names refused."""
    made = Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["dashes"] = {"solid": "", "dash": "7 4", "dot": "2 3.5", "dashdot": "8 3 2 3"}
    return made


def render(template: str, **values: Any) -> Markup:
    """One template of `report/pages`, escaped."""
    return Markup(environment().get_template(template).render(**values))


class Group(NamedTuple):
    """Small pictures of one measure side by side; `logs` names their charts for one switch, "" where they have no such scale."""

    title: str
    panels: list[Panel]
    note: str
    logs: str
    log: bool


def legend(names: list[tuple[str, str]], tokens: Mapping[str, str] | None = None, shown: int | None = None) -> list[Key]:
    """Legend entries for (series, name) pairs; those after the first `shown` begin switched off."""
    held = tokens or colours.assign(series for series, _ in names)
    pairs = dict(names).items()
    return [
        Key(series, name, held[series], colours.dash(held[series]), shown is None or place < shown)
        for place, (series, name) in enumerate(pairs)
    ]


def panel(
    figure: Figure, charts: dict[str, Any], *, wide: bool = False, own_legend: bool = True, tokens: Mapping[str, str] | None = None
) -> Panel:
    """Add the figure's chart to `charts` and return what the page shows of it; `tokens`: colours shared with other figures."""
    spec = plotly_.spec(figure, tokens)
    name = f"c{len(charts)}"
    charts[name] = spec
    curves = figure if isinstance(figure, Curves) else None
    pairs = [(line.series, line.name) for line in curves.lines] if curves and own_legend and len(curves.lines) > 1 else []
    keys = legend(pairs, tokens)
    return Panel(
        figure,
        name,
        keys,
        wide or isinstance(figure, Intervals),
        spec["height"],
        bool(curves and curves.can_log),
        bool(curves and curves.log_y),
    )


def group(title: str, figures: list[Curves], charts: dict[str, Any], tokens: Mapping[str, str]) -> Group:
    """Small pictures of one measure, one a facet: one note and one switch for all."""
    can_log = all(f.can_log for f in figures)
    made = [panel(f._replace(note="", can_log=False), charts, own_legend=False, tokens=tokens) for f in figures]
    for p, f in zip(made, figures, strict=True):
        if can_log:
            charts[p.chart]["log"] = plotly_.spec(f, tokens)["log"]
    notes = list(dict.fromkeys(f.note for f in figures if f.note))
    return Group(title, made, max(notes, key=len, default=""), " ".join(p.chart for p in made) if can_log else "", figures[0].log_y)


def filled(panels: list[Panel]) -> list[Panel]:
    """The panels in two columns without a hole: where one would stand alone in the last row, it takes the whole row."""
    narrow = sum(not p.wide for p in panels)
    if narrow % 2 and not panels[-1].wide:
        return [*panels[:-1], panels[-1]._replace(wide=True)]
    return panels


def page(
    title: str,
    body_html: str,
    *,
    eyebrow: str = "",
    lead: str = "",
    contents: list[tuple[str, str]] | None = None,
    charts: Mapping[str, Any] | None = None,
    foot: str = "",
    style: str = "",
) -> str:
    """A whole HTML document round `body_html`.

    Args:
        title: the headline, plain text; it is escaped.
        body_html: trusted HTML (escape what came from data before: `markupsafe.escape`, or a jinja2 template with autoescape).
        eyebrow: a few words above the headline, plain text.
        lead: a paragraph under it, plain text.
        contents: (id, words) of the sections, for the list of contents.
        charts: name -> plotly figure as a dictionary; drawn into `<div class="chart" data-chart="name">`. Colours may be tokens
            ("@accent", "@s6/0.2"). Without charts, plotly is not inlined.
        foot: a few words at the bottom, plain text.
        style: further CSS.

    >>> "<h1>1 &lt; 2</h1>" in page("1 < 2", "<p>Yes.</p>")
    True
    """
    return (
        environment()
        .get_template("shell.html.j2")
        .render(
            title=title,
            body=Markup(body_html),
            eyebrow=eyebrow,
            lead=lead,
            contents=contents or [],
            foot=foot,
            css=Markup(colours.css() + _text("page.css") + style),
            script=Markup(_text("page.js")),
            charts=_charts(dict(charts)) if charts else None,
            plotly=plotly_packed() if charts else None,
        )
    )


def write(html: str, path: str | Path) -> Path:
    """Write a page whole; its folder is made where it is missing.

    Raises:
        FalllineError: the path cannot be written; the sentence says why.

    >>> import tempfile
    >>> write(page("Hello", "<p>World.</p>"), f"{tempfile.mkdtemp()}/hello.html").name
    'hello.html'
    """
    target = Path(path)
    make_folder(target.parent)
    write_text(target, html)
    return target


def _charts(charts: Mapping[str, Any]) -> Markup:
    """The charts as JSON, packed as plotly is where they are large."""
    text = json_in_script(charts)
    return text if len(text) <= _LARGE else packed(text.encode())


def packed(content: bytes) -> Markup:
    """Bytes, gzip, in base85 with the letters that HTML minds exchanged; the same text every time."""
    return Markup(base64.b85encode(gzip.compress(content, compresslevel=9, mtime=0)).translate(_PACKED).decode("ascii"))


def json_in_script(value: Any) -> Markup:
    r"""JSON that is safe inside `<script>`: no `<`, `>`, `&`, no line separators; numbers to 6 digits, non-finite ones null.

    >>> str(json_in_script(["</script>", float("nan"), 1 / 3]))
    '["\\u003c/script\\u003e",null,0.333333]'
    """
    text = json.dumps(_clean(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _clean(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    number = float(value)
    if not math.isfinite(number):
        return None
    short = float(f"{number:.6g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


@functools.cache
def plotly_packed() -> Markup:
    """plotly.js, packed."""
    return packed(importlib.resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes())


def _text(name: str) -> str:
    return (_PAGES / name).read_text(encoding="utf-8")
