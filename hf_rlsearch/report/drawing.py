"""Shapes in pixels, free of any library: written as SVG by `svg.py`, as PNG by `raster.py`.

Charts are drawn once, with these, so that the page, the SVG files and the PNG files cannot differ. Colours are names of
the palette, not values, so that the page can follow the reader's light or dark theme.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]

# The light theme, also that of exported files; page.css holds the same names for the dark theme.
PALETTE: dict[str, str] = {
    "ink": "#1b2330",
    "soft": "#5d6878",
    "rule": "#e3e7ee",
    "paper": "#ffffff",
    "accent": "#3457d5",
    "good": "#16895f",
    "warn": "#c77700",
    "bad": "#c8373f",
    "mute": "#a9b3c2",
    "second": "#8a4fd0",
}
# From the worst to the best objective, for filled cells: monotone in lightness (viridis, five anchors).
RAMP: tuple[str, ...] = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
# The same for thin lines, which must be seen on white and on black: grey to blue.
LINE_RAMP: tuple[str, ...] = ("#b4bccb", "#8fa6cf", "#5f86d8", "#3457d5")
# Pixels of a drawing by how much of a page's width it takes; on a phone all take what there is.
WIDTHS: dict[str, float] = {"wide": 1160.0, "half": 560.0, "small": 370.0}
NARROW = 340.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What every shape has.

    Attributes:
        color: A name of PALETTE or a hex value.
        opacity: In [0, 1].
        trial: The trial that it stands for; the page highlights all shapes of one trial together.
        tip: Text that is shown when the pointer rests on it.
    """

    color: str = "ink"
    opacity: float = 1.0
    trial: int | None = None
    tip: str = ""


@dataclass(frozen=True, kw_only=True)
class Line(Shape):
    """An open polyline; `dash` is an SVG dash pattern such as "4 3"."""

    points: tuple[Point, ...]
    width: float = 1.5
    dash: str = ""


@dataclass(frozen=True, kw_only=True)
class Area(Shape):
    """A filled polygon."""

    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Rect(Shape):
    """A filled rectangle with rounded corners of radius `round`."""

    x: float
    y: float
    width: float
    height: float
    round: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Dot(Shape):
    """A filled marker of radius `size`: circle, diamond, cross, or up and down, arrow heads for what lies outside."""

    x: float
    y: float
    size: float = 3.5
    kind: str = "circle"


@dataclass(frozen=True, kw_only=True)
class Text(Shape):
    """A line of text; `anchor` is start, middle or end; `turn` in degrees, counter-clockwise; y is its baseline."""

    x: float
    y: float
    text: str
    size: float = 11.5
    anchor: str = "start"
    bold: bool = False
    turn: float = 0.0


AnyShape: TypeAlias = Line | Area | Rect | Dot | Text


@dataclass
class Drawing:
    """A picture: its name in files and links, a title, a caption, and its shapes from back to front; sizes in pixels.

    `kind` is its place on the page: wide, half or small (see WIDTHS).
    """

    name: str
    title: str
    caption: str
    width: float
    height: float
    kind: str = "half"
    shapes: list[AnyShape] = field(default_factory=list)

    def add(self, *shapes: AnyShape) -> None:
        """Puts `shapes` in front of what is there."""
        self.shapes.extend(shapes)


def sheet(name: str, title: str, caption: str, *, kind: str, height: float, narrow: bool) -> Drawing:
    """An empty drawing of the width that belongs to `kind`, or of a phone's width."""
    width = NARROW if narrow else WIDTHS[kind]
    return Drawing(name=name, title=title, caption=caption, width=width, height=height, kind=kind)


def blend(share: float, ramp: tuple[str, ...] = RAMP) -> str:
    """The colour at `share` in [0, 1] of the way along `ramp`, as hex; outside values are clipped."""
    place = min(max(share, 0.0), 1.0) * (len(ramp) - 1)
    low = min(int(place), len(ramp) - 2)
    pairs = zip(_channels(ramp[low]), _channels(ramp[low + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - low)):02x}" for a, b in pairs)


def _channels(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
