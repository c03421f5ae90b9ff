"""A heat map drawn twice: as plotly reads it, and by matplotlib on axes."""

import math
from typing import TYPE_CHECKING, Any

from fallline.report import colours
from fallline.report.draw.plotly_ import plain
from fallline.report.figures.heat import Heat

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DEEP = 0.62  # of the way to the full colour, from which on letters are light


def share(heat: Heat, value: float) -> float:
    """How deep the colour of a value is, from 0 to 1; 0.5 where all cells are equal."""
    if not math.isfinite(value):
        return 0.0
    return (value - heat.low) / (heat.high - heat.low) if heat.high != heat.low else 0.5


def spec(heat: Heat) -> dict[str, Any]:
    """The heat map as `{"data": [...], "layout": {...}, "height": pixels}`, colours as tokens of the page."""
    many = len(heat.columns) > 6
    notes = [
        {
            "x": j,
            "y": i,
            "text": "<br>".join([f"<b>{plain(spot.text)}</b>", *(plain(line) for line in spot.small)] if not many else [plain(spot.text)]),
            "showarrow": False,
            "font": {"size": 11 if many else 13, "color": "@onheat" if share(heat, spot.value) > _DEEP else "@ink"},
        }
        for i, row in enumerate(heat.spots)
        for j, spot in enumerate(row)
    ]
    data = [
        {
            "type": "heatmap",
            "z": [[share(heat, spot.value) if math.isfinite(spot.value) else None for spot in row] for row in heat.spots],
            "x": list(range(len(heat.columns))),
            "y": list(range(len(heat.rows))),
            "zmin": 0,
            "zmax": 1,
            "xgap": 3,
            "ygap": 3,
            "colorscale": [[0, "@heat/0.1"], [_DEEP, "@heat/0.5"], [1, "@heat/0.92"]],
            "showscale": False,
            "customdata": [[plain(spot.title, 200) for spot in row] for row in heat.spots],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
    ]
    axis: dict[str, Any] = {"showgrid": False, "zeroline": False, "ticks": "", "automargin": True, "fixedrange": True, "tickmode": "array"}

    def named(words: list[str], title: str, **more: Any) -> dict[str, Any]:
        said = {"title": {"text": plain(title), "standoff": 10, "font": {"size": 13}}} if title else {}
        return {**axis, "tickvals": list(range(len(words))), "ticktext": [plain(w, 22) for w in words], **said, **more}

    layout = {
        "xaxis": named(heat.columns, heat.x_label, side="top"),
        "yaxis": named(heat.rows, heat.y_label, autorange="reversed"),
        "annotations": notes,
        "showlegend": False,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "hovermode": "closest",
    }
    tallest = max((len(spot.small) for row in heat.spots for spot in row), default=0)
    return {"data": data, "layout": layout, "height": (44 + 20 * (0 if many else tallest)) * len(heat.rows) + 70}


def draw(heat: Heat, ax: "Axes") -> "Axes":
    """Draw the heat map on `ax` and return it; inside `matplotlib_.style()` it looks like the page."""
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("fallline", [colours.LIGHT["sunken"], colours.LIGHT["heat"]])
    depth = np.array([[share(heat, spot.value) for spot in row] for row in heat.spots])
    ax.imshow(0.92 * depth, cmap=ramp, vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(heat.spots):
        for j, spot in enumerate(row):
            ink = "white" if depth[i, j] > _DEEP else "black"
            ax.text(j, i, "\n".join([spot.text, *spot.small]), ha="center", va="center", fontsize=7.5, color=ink)
    ax.set_xticks(range(len(heat.columns)), heat.columns)
    ax.set_yticks(range(len(heat.rows)), heat.rows)
    ax.set_title(heat.title)
    ax.set_xlabel(heat.x_label)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax
