"""The axes of a chart: where the data area lies, its ticks, its grid and its legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_rlsearch.report.drawing import Dot, Drawing, Line, Point, Rect, Text
from hf_rlsearch.report.scales import Scale

# Colour and marker of a trial by how it ended: shape as well as colour, so that nobody has to tell red from green.
STATUS_LOOK: dict[str, tuple[str, str]] = {
    "complete": ("accent", "circle"),
    "pruned": ("warn", "diamond"),
    "failed": ("bad", "cross"),
    "running": ("mute", "circle"),
}


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A data area inside a drawing, with one scale per axis; all lengths in pixels."""

    drawing: Drawing
    x: Scale
    y: Scale
    left: float = 58.0
    right: float = 14.0
    top: float = 30.0
    bottom: float = 44.0

    @property
    def width(self) -> float:
        """Of the data area."""
        return self.drawing.width - self.left - self.right

    @property
    def height(self) -> float:
        """Of the data area."""
        return self.drawing.height - self.top - self.bottom

    @property
    def floor(self) -> float:
        """The pixel row of the low end of y."""
        return self.top + self.height

    def at_x(self, value: Any) -> float:
        """Pixel column of a value, kept inside the data area."""
        return self.left + min(max(self.x.place(value), 0.0), 1.0) * self.width

    def at_y(self, value: Any) -> float:
        """Pixel row of a value, kept inside the data area."""
        return self.floor - min(max(self.y.place(value), 0.0), 1.0) * self.height

    def at(self, x: Any, y: Any) -> Point:
        """Pixel of a pair of values."""
        return self.at_x(x), self.at_y(y)

    def axes(self, x_label: str = "", y_label: str = "", *, grid_x: bool = False) -> None:
        """Draws grid, ticks and the names of both axes."""
        self._x_ticks(grid=grid_x)
        self._y_ticks()
        self.drawing.add(_line((self.left, self.floor), (self.left + self.width, self.floor), "mute"))
        if x_label:
            middle = self.left + self.width / 2
            self.drawing.add(
                Text(x=middle, y=self.drawing.height - 8, text=x_label, anchor="middle", color="soft")
            )
        if y_label:  # above the axis, level: nobody has to turn their head
            self.drawing.add(Text(x=6, y=15, text=y_label, color="soft"))

    def _x_ticks(self, *, grid: bool) -> None:
        for place, label in self.x.ticks():
            x = self.left + place * self.width
            if grid:
                self.drawing.add(_line((x, self.top), (x, self.floor), "rule"))
            self.drawing.add(_line((x, self.floor), (x, self.floor + 4), "mute"))
            self.drawing.add(Text(x=x, y=self.floor + 17, text=label, anchor="middle", color="soft"))

    def _y_ticks(self) -> None:
        for place, label in self.y.ticks():
            y = self.floor - place * self.height
            self.drawing.add(_line((self.left, y), (self.left + self.width, y), "rule"))
            self.drawing.add(Text(x=self.left - 7, y=y + 4, text=label, anchor="end", color="soft"))

    def step_line(self, xs: Sequence[float], ys: Sequence[float]) -> tuple[Point, ...]:
        """The points of a staircase that keeps each y until the next x."""
        points: list[Point] = []
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            if i:
                points.append(self.at(x, ys[i - 1]))
            points.append(self.at(x, y))
        return tuple(points)


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a marker kind, or "line", "dash" and "block"."""

    kind: str
    color: str
    text: str


def legend(drawing: Drawing, keys: Sequence[Key], *, right: float = 14.0, y: float = 12.0) -> None:
    """Draws `keys` in one row that ends at the right edge."""
    widths = [26 + 6.4 * len(key.text) for key in keys]
    x = drawing.width - right - sum(widths)
    for key, width in zip(keys, widths, strict=True):
        drawing.add(_sample(key, x, y), Text(x=x + 18, y=y + 4, text=key.text, color="soft"))
        x += width


def _sample(key: Key, x: float, y: float) -> Line | Rect | Dot:
    if key.kind in {"line", "dash"}:
        return Line(points=((x, y), (x + 14, y)), color=key.color, width=2, dash="4 3" if key.kind == "dash" else "")
    if key.kind == "block":
        return Rect(x=x + 2, y=y - 5, width=10, height=10, color=key.color, round=2)
    return Dot(x=x + 8, y=y, kind=key.kind, color=key.color, size=3.8)


def status_keys(statuses: Sequence[str]) -> list[Key]:
    """Legend entries of the statuses that occur, in a fixed order."""
    return [Key(kind, color, status) for status, (color, kind) in STATUS_LOOK.items() if status in statuses]


def _line(a: Point, b: Point, color: str) -> Line:
    return Line(points=(a, b), color=color, width=1)
