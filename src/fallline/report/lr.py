"""The picture of a range test in a file: a page that opens offline, or a still picture."""

from pathlib import Path
from typing import TYPE_CHECKING

from fallline._core.errors import must
from fallline._core.files import make_folder, write_bytes
from fallline.report.figures.lr import lr_curves
from fallline.report.page import page, panel, render, write
from fallline.report.still import _KINDS, _sheet

if TYPE_CHECKING:
    from fallline.study.ramp import LRResult


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
    target = Path(path)
    kind = target.suffix.lower()
    must(kind in (".html", *_KINDS), "the picture's name ends in .html, .png, .svg or .pdf", target.name, "lr.html is usual")
    figure = lr_curves(found, optimizer)
    if kind == ".html":
        charts = {}
        shown = panel(figure, charts, wide=True)
        return write(page(title, render("lr.html.j2", shown=shown), eyebrow="learning rate", lead="", charts=charts), target)
    content = _sheet([figure], title, kind[1:], 160, one_legend=False)
    make_folder(target.parent)
    write_bytes(target, content)
    return target
