"""From a value to a place on an axis, with the ticks that a reader expects, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

# Beyond this, differences and squares are too large for a float; what diverged so far is drawn at the edge.
_MOST = 1e150


class Scale(Protocol):
    """Anything that can place a value in [0, 1] and name its ticks."""

    def place(self, value: Any) -> float:
        """Where `value` is, 0 at the low end."""

    def ticks(self) -> list[tuple[float, str]]:
        """(place, label) from low to high."""


@dataclass(frozen=True)
class Linear:
    """Even spacing from `low` to `high`, with about `count` ticks, all of them whole numbers if `whole`."""

    low: float
    high: float
    count: int = 5
    whole: bool = False

    @classmethod
    def around(cls, values: Sequence[float], *, margin: float = 0.05, count: int = 5) -> Linear:
        """A range that holds all `values` with some air; a single value gets a range around it."""
        low, high = (min(max(v, -_MOST), _MOST) for v in (min(values, default=0.0), max(values, default=1.0)))
        air = (high - low) * margin or abs(low) * 0.1 or 0.5
        return cls(low - air, high + air, count)

    def place(self, value: Any) -> float:
        """See Scale."""
        return (float(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Multiples of 1, 2, 2.5 or 5 times a power of ten, about `count` of them."""
        step = nice_step((self.high - self.low) / self.count)
        step = max(round(step), 1) if self.whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.place(i * step), number(i * step)) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Log:
    """Even spacing of powers from `low` to `high`, both above zero."""

    low: float
    high: float

    def place(self, value: Any) -> float:
        """See Scale; zero and below have no place on a logarithmic axis and get one left of it."""
        if float(value) <= 0:
            return -1.0
        start = math.log(self.low)  # differences of logarithms: the ratio itself may be too large for a float
        return (math.log(float(value)) - start) / (math.log(self.high) - start)

    def ticks(self) -> list[tuple[float, str]]:
        """Powers of ten; where fewer than two lie inside, 1, 2, 3 and 5 times a power."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 3, 5)):
            values = [f * 10.0**p for p in powers for f in factors]
            inside = [v for v in values if self.low * 0.999 <= v <= self.high * 1.001]
            if len(inside) >= 3:
                break
        return [(self.place(v), number(v)) for v in inside]


@dataclass(frozen=True)
class Category:
    """One place per choice, each in the middle of its share."""

    choices: tuple[Any, ...]

    def place(self, value: Any) -> float:
        """See Scale; 8 and 8.0 are the same choice, 1 and True are not."""
        index = next(i for i, choice in enumerate(self.choices) if _same(choice, value))
        return (index + 0.5) / len(self.choices)

    def ticks(self) -> list[tuple[float, str]]:
        """Every choice."""
        return [(self.place(c), shorten(show(c), 14)) for c in self.choices]


def scale_of(distribution: BaseDistribution, values: Sequence[Any]) -> Linear | Log | Category:
    """The scale of a hyperparameter: its range, or its choices and any `values` outside of them."""
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        for value in values:  # one at a time: a value may be of a kind that no set can hold
            choices += [] if any(_same(c, value) for c in choices) else [value]
        return Category(tuple(choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)  # Optuna has no others
    numbers = [float(v) for v in values if isinstance(v, int | float) and (v > 0 or not distribution.log)]
    low, high = min([distribution.low, *numbers]), max([distribution.high, *numbers])
    if low == high:
        return Linear.around([low])
    return Log(low, high) if distribution.log else Linear(low, high, whole=isinstance(distribution, IntDistribution))


def _same(a: Any, b: Any) -> bool:
    both_nan = a != a and b != b
    return both_nan or (bool(a == b) and isinstance(a, bool) == isinstance(b, bool))


def nice_step(step: float) -> float:
    """The one of 1, 2, 2.5, 5 and 10 times a power of ten that is nearest to `step`, which is above zero, by ratio."""
    power = 10.0 ** math.floor(math.log10(step))
    return min((f * power for f in (1, 2, 2.5, 5, 10)), key=lambda nice: abs(math.log(nice / step)))


def robust(values: Sequence[float], *, minimize: bool, keep: Sequence[float] = (), share: float = 0.75) -> Linear:
    """A range for objectives that a few diverged trainings cannot flatten.

    Args:
        values: At least one, in the user's sign.
        minimize: Whether smaller is better; only the bad side is ever cut.
        keep: Values that should be seen, and are unless they would shrink everything else to an eighth.
        share: Of the values that are certain to be seen, in (0, 1].

    Returns:
        From the best value to the worst, or to somewhat beyond `share` of them where the rest is far off.
    """
    ordered = sorted(values, reverse=not minimize)
    best, most, worst = ordered[0], ordered[int(share * (len(ordered) - 1))], ordered[-1]
    far = abs(worst - best) > 3 * abs(most - best) > 0
    limit = best + 1.5 * (most - best) if far else worst
    reach = 8 * abs(limit - best)
    return Linear.around([best, limit, *(v for v in keep if abs(v - best) <= reach)], margin=0.06)


def number(value: float, digits: int = 4) -> str:
    """A number as a person would write it: 0.0301, 2e-05, 12,800."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    if abs(value) < 1e-3 or abs(value) >= 1e7:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def show(value: Any) -> str:
    """Any value of a hyperparameter as text."""
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def duration(seconds: float | None) -> str:
    """Seconds as 4.2 s, 3 min 12 s, 2 h 05 min; an unknown one as a dash."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(n_bytes: float | None) -> str:
    """Bytes as 812 MB or 3.4 GB; an unknown one as a dash."""
    if n_bytes is None:
        return "–"
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def shorten(text: str, width: int) -> str:
    """`text` cut to `width` characters, the cut marked."""
    return text if len(text) <= width else text[: width - 1] + "…"


def shorten_name(name: str, width: int) -> str:
    """`name` cut in its middle to `width` characters: names that are alike mostly differ at their end."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"
