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
# From the worst to the best objective: dark violet to yellow-green, monotone in lightness (viridis, five anchors).
RAMP: tuple[str, ...] = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")


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
    """A filled marker: a circle, a diamond or a cross, of radius `size`."""

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
    """A picture: its size in pixels, a title and a caption, and its shapes from back to front.

    `wide` ones take the whole width of the page and may be scrolled on a phone.
    """

    name: str
    title: str
    caption: str
    width: float = 560.0
    height: float = 320.0
    wide: bool = False
    shapes: list[AnyShape] = field(default_factory=list)

    def add(self, *shapes: AnyShape) -> None:
        """Puts `shapes` in front of what is there."""
        self.shapes.extend(shapes)


def blend(share: float, ramp: tuple[str, ...] = RAMP) -> str:
    """The colour at `share` in [0, 1] of the way along `ramp`, as hex; outside values are clipped."""
    place = min(max(share, 0.0), 1.0) * (len(ramp) - 1)
    low = min(int(place), len(ramp) - 2)
    pairs = zip(_channels(ramp[low]), _channels(ramp[low + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - low)):02x}" for a, b in pairs)


def _channels(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
