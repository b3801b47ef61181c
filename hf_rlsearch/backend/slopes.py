"""How an objective follows the metrics: which ``compute_objective`` reads, and what happens when they change."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Metrics = Mapping[str, Any]


def slopes_of(
    probe: Metrics, function: Callable[[dict[str, Any]], Any], names: Sequence[str], n_values: int
) -> list[dict[str, int]]:
    """What each value of ``compute_objective`` does when one metric changes.

    Args:
        probe: Metrics of an evaluation.
        function: ``compute_objective``; called on made-up values of the metrics.
        names: The metrics to change.
        n_values: How many values the function returns.

    Returns:
        For each value, by metric: 1 or -1 where it rises or falls with it, 2 where it does either, 0 where neither.
    """
    base = {k: (0.5 if is_number(v) and not math.isfinite(v) else v) for k, v in probe.items()}
    found: list[dict[str, int]] = [{} for _ in range(n_values)]
    try:
        before = _values(function(dict(base))) if names else ()
    except Exception:
        return [dict.fromkeys(names, 2) for _ in found]
    for name in names:
        for index, slope in enumerate(_slope(base, name, function, before)):
            found[index][name] = slope
    return found


def _slope(
    base: dict[str, Any], name: str, function: Callable[[dict[str, Any]], Any], before: tuple[float, ...]
) -> list[int]:
    signs: list[set[int]] = [set() for _ in before]
    for value in (base[name] + 0.1, base[name] - 0.1, base[name] + 10.0, 0.0, 1.0, base[name] * 2):
        try:
            after = _values(function({**base, name: value}))
        except Exception:
            return [2] * len(before)
        for seen, old, new in zip(signs, before, after, strict=False):
            change, moved = new - old, value - base[name]
            if moved and change and math.isfinite(change):
                seen.add(1 if (change > 0) == (moved > 0) else -1)
    return [0 if not seen else (seen.pop() if len(seen) == 1 else 2) for seen in signs]


def _values(found: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in (found if isinstance(found, (list, tuple)) else (found,)))


def may_look_elsewhere(function: Any) -> bool:
    """Whether a function can measure something that is not in its argument, such as another data set."""
    code = getattr(function, "__code__", None)
    return code is None or bool(code.co_names or code.co_freevars)


class Watched(dict[str, Any]):
    """Metrics that remember which of them were read."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As of a dict."""
        self.read.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """As of a dict."""
        self.read.add(name)
        return super().pop(name, *default)

    def __iter__(self) -> Iterator[str]:
        self.read.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        """As of a dict; all that follow may be read."""
        self.read.update(super().keys())
        return super().keys()

    def values(self) -> Any:
        """As of a dict."""
        self.read.update(super().keys())
        return super().values()

    def items(self) -> Any:
        """As of a dict."""
        self.read.update(super().keys())
        return super().items()

    def copy(self) -> dict[str, Any]:
        """As of a dict."""
        return dict(self.items())


def is_number(value: Any) -> bool:
    """Whether a metric is one number, of whatever library."""
    if isinstance(value, bool):
        return False
    if isinstance(value, (int, float)):
        return True
    return hasattr(value, "item") and getattr(value, "ndim", 0) == 0 and isinstance(value.item(), (int, float))
