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


def thinned(ticks: Sequence[tuple[float, str]], room: int) -> Sequence[tuple[float, str]]:
    """Every so many-th of `ticks`, so that at most `room` are left, at least one."""
    return ticks[:: max(-(-len(ticks) // max(room, 1)), 1)]


def tick_count(drawing: Drawing) -> int:
    """How many ticks of x have room."""
    return max(int(drawing.width / 100), 3)


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

    def marker(self, y: Any, kind: str) -> str:
        """`kind`, or an arrow head where `y` lies outside of the range and is drawn at its edge."""
        place = self.y.place(y)
        return "up" if place > 1 else "down" if place < 0 else kind

    def at(self, x: Any, y: Any) -> Point:
        """Pixel of a pair of values."""
        return self.at_x(x), self.at_y(y)

    def axes(self, x_label: str = "", y_label: str = "", *, grid_x: bool = False) -> None:
        """Draws grid, ticks and the names of both axes."""
        self.x_ticks(grid=grid_x)
        self._y_ticks()
        self.drawing.add(_line((self.left, self.floor), (self.left + self.width, self.floor), "mute"))
        if x_label:
            middle = self.left + self.width / 2
            self.drawing.add(Text(x=middle, y=self.drawing.height - 8, text=x_label, anchor="middle", color="soft"))
        if y_label:  # above the axis, level: nobody has to turn their head
            self.drawing.add(Text(x=6, y=15, text=y_label, color="soft"))

    def x_ticks(self, *, grid: bool = False) -> None:
        """Draws the ticks of x, with lines through the data area if `grid`."""
        ticks = self.x.ticks()
        needed = 10 + 6.6 * max((len(label) for _, label in ticks), default=0)
        for place, label in thinned(ticks, int(self.width / needed)):
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


def legend(drawing: Drawing, keys: Sequence[Key], label: str = "") -> float:
    """Draws `keys` beside the name of the y axis, or in rows below it where they have no room.

    Args:
        drawing: What to draw on.
        keys: The entries.
        label: The name of the y axis, which is drawn by `Frame.axes`.

    Returns:
        The pixel row where the data area may begin.
    """
    widths = [28 + sum(8.4 if c.isupper() else 6.5 for c in key.text) for key in keys]
    beside = drawing.width - 14 - sum(widths)
    if beside > 6.6 * len(label) + 16:
        _row(drawing, keys, widths, x=beside, y=12)
        return 30.0
    y, row = 32.0, 0.0
    for key, width in zip(keys, widths, strict=True):
        if row + width > drawing.width - 12:
            y, row = y + 18, 0.0
        _row(drawing, [key], [width], x=8 + row, y=y)
        row += width
    return y + 18


def _row(drawing: Drawing, keys: Sequence[Key], widths: Sequence[float], *, x: float, y: float) -> None:
    for key, width in zip(keys, widths, strict=True):
        drawing.add(_sample(key, x, y), Text(x=x + 19, y=y + 4, text=key.text, color="soft"))
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
