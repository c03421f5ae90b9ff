"""The picture of a range test in a file: a page that opens offline, or a still picture."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fallline._core.errors import must
from fallline._core.files import make_folder, write_bytes
from fallline.report.draw import matplotlib_
from fallline.report.figures.lr import lr_curves
from fallline.report.figures.shapes import Figure
from fallline.report.page import page, panel, render, write

if TYPE_CHECKING:
    from fallline.study.ramp import LRResult

_STILL = (".png", ".svg", ".pdf")


def draw_lr(found: "LRResult", path: str | Path, *, optimizer: str, title: str) -> Path:
    """Draw a range test into `path`.

    Args:
        found: what the range test found.
        path: a name that ends in .html, .png, .svg or .pdf.
        optimizer: its name.
        title: the headline.

    Raises:
        FalllineError: another ending, or a path that cannot be written.

    >>> import tempfile
    >>> from fallline.study import Walk, range_test
    >>> found = range_test(lambda order: Walk(lambda lr: 1.0, lambda: 1.0), low=0.001, high=1.0, default=0.1)
    >>> draw_lr(found, f"{tempfile.mkdtemp()}/lr.png", optimizer="sgd", title="Nothing falls").name
    'lr.png'
    """
    target = checked(path)
    kind = target.suffix.lower()
    figure = lr_curves(found, optimizer)
    if kind == ".html":
        charts: dict[str, Any] = {}
        shown = panel(figure, charts, wide=True)
        return write(page(title, render("lr.html.j2", shown=shown), eyebrow="learning rate", lead="", charts=charts), target)
    make_folder(target.parent)
    write_bytes(target, _still(figure, kind[1:]))
    return target


def checked(path: str | Path) -> Path:
    """The path of a picture, its ending looked at.

    Raises:
        FalllineError: another ending.
    """
    target = Path(path)
    must(
        target.suffix.lower() in (".html", *_STILL), "the picture's name ends in .html, .png, .svg or .pdf", target.name, "lr.html is usual"
    )
    return target


def _still(figure: Figure, form: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet
    from matplotlib.ticker import LogLocator

    with matplotlib_.style():
        sheet = Sheet(figsize=(7.2, 4.4), layout="constrained")
        FigureCanvasAgg(sheet)
        ax = matplotlib_.draw(figure, sheet.subplots(), legend=False)
        ax.xaxis.set_major_locator(LogLocator(numticks=8))
        ax.xaxis.set_major_formatter("{x:g}")
        sheet.legend(loc="outside lower center", ncols=2, fontsize=8.5, handlelength=2.6)
        held = io.BytesIO()
        sheet.savefig(held, format=form, dpi=160, metadata={"Software": None} if form == "png" else None)
    return held.getvalue()
