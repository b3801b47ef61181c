"""A drawing as SVG text, for the page (colours by CSS class) or for a file of its own (colours as values)."""

from __future__ import annotations

import re
from functools import singledispatch
from html import escape

from hf_rlsearch.report.drawing import PALETTE, AnyShape, Area, Dot, Drawing, Line, Point, Rect, Shape, Text

# Control characters and halves of pairs: no XML document may hold them.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# Corners of the markers that are polygons, for radius 1; y points down.
_CORNERS: dict[str, tuple[Point, ...]] = {
    "diamond": ((0, -1), (1, 0), (0, 1), (-1, 0)),
    "up": ((0, -1), (1, 0.8), (-1, 0.8)),
    "down": ((0, 1), (1, -0.8), (-1, -0.8)),
}


def to_svg(drawing: Drawing, *, standalone: bool = False) -> str:
    """Writes a drawing.

    Args:
        drawing: What to write.
        standalone: True adds size, background and the light palette, so that the text is a file that any viewer shows.

    Returns:
        An ``<svg>`` element.
    """
    body = "".join(_write(shape) for shape in drawing.shapes)
    box = f'viewBox="0 0 {drawing.width:g} {drawing.height:g}"'
    label = f'role="img" aria-label="{xml_text(drawing.title)}"'
    if not standalone:
        return f'<svg {box} {label} class="plot">{body}</svg>'
    size = f'width="{drawing.width:g}" height="{drawing.height:g}" xmlns="http://www.w3.org/2000/svg"'
    back = f'<rect width="100%" height="100%" fill="{PALETTE["paper"]}"/>'
    return f'<svg {size} {box} {label} font-family="DejaVu Sans, Helvetica, sans-serif">{_style()}{back}{body}</svg>'


def xml_text(text: str) -> str:
    """`text` for an SVG or HTML document; what neither can hold, as control characters, is marked."""
    return escape(_NOT_XML.sub("\ufffd", text))


def palette_css(palette: dict[str, str]) -> str:
    """CSS rules that give the classes of the drawings their colours: ``f-`` fills, ``s-`` strokes."""
    rules = (f".f-{name}{{fill:{value}}}.s-{name}{{stroke:{value}}}" for name, value in palette.items())
    return "".join(rules)


def _style() -> str:
    return f"<style>{palette_css(PALETTE)}</style>"


@singledispatch
def _write(shape: AnyShape) -> str:
    raise TypeError(f"cannot draw a {type(shape).__name__}")


@_write.register
def _line(shape: Line) -> str:
    dash = f' stroke-dasharray="{shape.dash}"' if shape.dash else ""
    head = f'<polyline fill="none"{_ink(shape, "s")} stroke-width="{shape.width:g}"{dash} stroke-linejoin="round"'
    return _close(f'{head} points="{_points(shape.points)}"', shape, "polyline")


@_write.register
def _area(shape: Area) -> str:
    return _close(f'<polygon{_ink(shape, "f")} points="{_points(shape.points)}"', shape, "polygon")


@_write.register
def _rect(shape: Rect) -> str:
    place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" width="{max(shape.width, 0):.1f}" height="{max(shape.height, 0):.1f}"'
    corner = f' rx="{shape.round:g}"' if shape.round else ""
    return _close(f"<rect{_ink(shape, 'f')} {place}{corner}", shape, "rect")


@_write.register
def _dot(shape: Dot) -> str:
    x, y, r = shape.x, shape.y, shape.size
    if shape.kind == "circle":
        return _close(f'<circle{_ink(shape, "f")} cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"', shape, "circle")
    if shape.kind in _CORNERS:
        points = tuple((x + dx * r, y + dy * r) for dx, dy in _CORNERS[shape.kind])
        return _close(f'<polygon{_ink(shape, "f")} points="{_points(points)}"', shape, "polygon")
    path = f"M{x - r:.1f} {y - r:.1f}l{2 * r:.1f} {2 * r:.1f}m0 {-2 * r:.1f}l{-2 * r:.1f} {2 * r:.1f}"
    return _close(f'<path fill="none"{_ink(shape, "s")} stroke-width="1.8" d="{path}"', shape, "path")


@_write.register
def _text(shape: Text) -> str:
    bold = ' font-weight="600"' if shape.bold else ""
    anchor = f' text-anchor="{shape.anchor}"' if shape.anchor != "start" else ""
    turn = f' transform="rotate({-shape.turn:g} {shape.x:.1f} {shape.y:.1f})"' if shape.turn else ""
    head = f'<text{_ink(shape, "f")} x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size:g}"{anchor}{bold}{turn}'
    title = f"<title>{xml_text(shape.tip)}</title>" if shape.tip else ""
    return f"{head}>{xml_text(shape.text)}{title}</text>"


def _points(points: tuple[Point, ...]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _ink(shape: Shape, kind: str) -> str:
    """Colour, opacity and trial of a shape as attributes; `kind` is f for fill or s for stroke."""
    attribute = "fill" if kind == "f" else "stroke"
    color = f' class="{kind}-{shape.color}"' if shape.color in PALETTE else f' {attribute}="{shape.color}"'
    opacity = f' opacity="{shape.opacity:g}"' if shape.opacity != 1 else ""
    trial = f' data-t="{shape.trial}"' if shape.trial is not None else ""
    return color + opacity + trial


def _close(head: str, shape: Shape, tag: str) -> str:
    return f"{head}><title>{xml_text(shape.tip)}</title></{tag}>" if shape.tip else f"{head}/>"
