"""A still picture of a run, a study or a table: its main figures on one sheet, as PNG, SVG or PDF."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from fallline._core.errors import must
from fallline._core.files import make_folder, write_bytes
from fallline.report import run as run_
from fallline.report import study as study_
from fallline.report import table as table_
from fallline.report.draw import heat as heat_
from fallline.report.draw import matplotlib_
from fallline.report.figures.heat import Heat
from fallline.report.figures.shapes import Curves, Figure, Intervals
from fallline.report.figures.source import Source, dig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

_KINDS = (".png", ".svg", ".pdf")


def still(reader: Source, path: str | Path, *, dpi: int = 160) -> Path:
    """Draw the main figures of a record with matplotlib and write them to `path`.

    Args:
        reader: the record of a run, a study or a table.
        path: a name that ends in .png, .svg or .pdf.
        dpi: pixels per inch, for PNG.

    Raises:
        FalllineError: another ending, a record without anything to draw, or a path that cannot be written.

    >>> import tempfile
    >>> from fallline import record
    >>> w = record.Writer(None)
    >>> for epoch in (1, 2):
    ...     w.scalar("loss", 1 / epoch, step=epoch, epoch=epoch, split="validation")
    >>> still(record.Reader(w), f"{tempfile.mkdtemp()}/run.png").name
    'run.png'
    """
    target = Path(path)
    must(target.suffix.lower() in _KINDS, "the picture's name ends in .png, .svg or .pdf", target.name, "report.png is usual")
    kind = dig(reader.info, "kind")
    figures = _of_study(reader) if kind == "study" else table_.still_figures(reader) if kind == "table" else _of_run(reader)
    must(bool(figures), "the record holds something to draw", "an empty record", "train for one epoch at least", where="a still picture")
    headlines = {"study": study_.headline, "table": table_.headline}
    title = headlines[kind](reader) if kind in headlines else run_.headline(reader.info)
    content = _sheet(figures, title, target.suffix.lower()[1:], dpi, one_legend=kind in headlines)
    make_folder(target.parent)
    write_bytes(target, content)
    return target


def _of_run(reader: Source) -> list[Figure]:
    found = run_.figures(reader)
    return [*found["curves"][:2], *found["result"][:1], *found["curves"][2:]][:3]


def _of_study(reader: Source) -> list[Figure]:
    found = study_.figures(reader)
    validation = [fs[0] for name, fs in found["curves"].items() if name.endswith("-validation")]
    others = [fs[0] for name, fs in found["curves"].items() if name != "time"]
    spread = any(len(fs) > 1 for fs in found["curves"].values())
    drawn = [f._replace(title=f"{f.y_label}, {f.title}") if spread else f for f in validation or others]
    return [*found["first"], *(found["matrix"] if spread else []), *drawn][:3]


def _sheet(figures: "Sequence[Figure | Heat]", title: str, form: str, dpi: int, *, one_legend: bool) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    tall = any(isinstance(f, Intervals) and len(f.rows) > 12 for f in figures)
    with matplotlib_.style():
        sheet = Sheet(figsize=(4.2 * len(figures) + 0.6, (6.4 if tall else 4.2) if one_legend else 3.7), layout="constrained")
        FigureCanvasAgg(sheet)
        sheet.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        axes: list[Axes] = list(sheet.subplots(1, len(figures), squeeze=False)[0])
        for figure, ax in zip(figures, axes, strict=True):
            if isinstance(figure, Heat):
                heat_.draw(figure, ax)
            else:
                matplotlib_.draw(figure, ax, legend=not one_legend)
        if one_legend:
            curves = next((ax for f, ax in zip(figures, axes, strict=True) if isinstance(f, Curves)), None)
            if curves is not None:
                handles, labels = curves.get_legend_handles_labels()
                sheet.legend(handles, labels, loc="outside lower center", ncols=min(9, len(labels)), fontsize=8.5, handlelength=2.6)
        held = io.BytesIO()
        sheet.savefig(held, format=form, dpi=dpi, metadata={"Software": None} if form == "png" else None)
    return held.getvalue()
