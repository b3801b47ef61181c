"""A drawing as a PNG file, drawn by matplotlib, which is loaded on use."""

from __future__ import annotations

import warnings
from functools import singledispatch
from pathlib import Path
from typing import Any

from hf_rlsearch.report.drawing import PALETTE, AnyShape, Area, Dot, Drawing, Line, Rect, Shape, Text

_DPI = 100  # one pixel of a drawing is 1/100 inch, so sizes in points are 0.72 times those in pixels
_POINTS = 72 / _DPI
_MARKERS = {"circle": "o", "diamond": "D", "cross": "x", "up": "^", "down": "v"}
_ALIGN = {"start": "left", "middle": "center", "end": "right"}


def to_png(drawing: Drawing, path: Path, *, zoom: float = 2.0) -> Path:
    """Writes a drawing as PNG.

    Args:
        drawing: What to write.
        path: The file.
        zoom: Pixels of the file per pixel of the drawing, above zero.

    Returns:
        `path`.

    Raises:
        ImportError: matplotlib is not installed; it comes with ``pip install 'hf-rlsearch[report]'``.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("PNG files need matplotlib: pip install 'hf-rlsearch[report]', or write SVG.") from error
    figure = Figure(figsize=(drawing.width / _DPI, drawing.height / _DPI), dpi=_DPI * zoom)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.axis("off")
    for order, shape in enumerate(drawing.shapes):
        _draw(shape, axes, {"zorder": order, "alpha": shape.opacity, "color": _color(shape)})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # a box is drawn in its place
        figure.savefig(path, facecolor=PALETTE["paper"])
    return path


def _color(shape: Shape) -> str:
    return PALETTE.get(shape.color, shape.color)


@singledispatch
def _draw(shape: AnyShape, axes: Any, style: dict[str, Any]) -> None:
    raise TypeError(f"cannot draw a {type(shape).__name__}")


@_draw.register
def _line(shape: Line, axes: Any, style: dict[str, Any]) -> None:
    xs, ys = zip(*shape.points, strict=True) if shape.points else ((), ())
    (line,) = axes.plot(xs, ys, linewidth=shape.width * _POINTS, solid_joinstyle="round", **style)
    if shape.dash:
        line.set_dashes([float(part) * _POINTS for part in shape.dash.split()])


@_draw.register
def _area(shape: Area, axes: Any, style: dict[str, Any]) -> None:
    from matplotlib.patches import Polygon

    axes.add_patch(Polygon(shape.points, linewidth=0, **style))


@_draw.register
def _rect(shape: Rect, axes: Any, style: dict[str, Any]) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((shape.x, shape.y), shape.width, shape.height, linewidth=0, **style))


@_draw.register
def _dot(shape: Dot, axes: Any, style: dict[str, Any]) -> None:
    axes.plot(
        [shape.x], [shape.y], marker=_MARKERS[shape.kind], markersize=2 * shape.size * _POINTS, linestyle="", **style
    )


@_draw.register
def _text(shape: Text, axes: Any, style: dict[str, Any]) -> None:
    axes.text(
        shape.x,
        shape.y,
        shape.text.replace("$", r"\$"),  # a dollar sign would start a formula
        fontsize=shape.size * _POINTS,
        ha=_ALIGN[shape.anchor],
        va="baseline",
        rotation=shape.turn,
        rotation_mode="anchor",
        fontweight="bold" if shape.bold else "normal",
        **style,
    )
