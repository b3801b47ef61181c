"""Writes numbers, times, sizes and names as people read them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from hf_rlsearch._validation import is_finite_number

# Which option ended a search -> what that means.
_ENDS = {
    "n_trials": "all trials were made",
    "budget": "it is used up",
    "timeout": "the time is over",
    "target": "a trial has reached it",
    "patience": "too many trials in a row brought no improvement",
    "patience=auto": "ten more trials are expected to improve the best by too little",
    "min_gain_per_hour": "less than that is expected of another hour",
    "study.stop": "a sampler or a callback called it",
    "space": "all configurations of the space have been tried: wider ranges or more n_points make it larger",
}


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


def show_params(params: Mapping[str, Any]) -> str:
    """Hyperparameters as ``learning_rate=0.001, weight_decay=0``."""
    return ", ".join(f"{name}={show(value)}" for name, value in params.items())


def choice_labels(choices: Sequence[Any], width: int = 16) -> list[str]:
    """One text per choice, each at most `width` characters and all different: 1 and "1" are two choices."""
    labels: list[str] = []
    for choice in choices:
        text = shorten(printable(show(choice)), width)
        if text in labels:
            text = shorten(printable(repr(choice)), width)
        labels.append(text if text not in labels else f"{text} ({len(labels)})")
    return labels


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


def exceeded(limits: Any, needed: Any) -> list[str]:
    """A text such as "peak_memory_gb 17.2 of 16" for each limit that a trial exceeds, from both as they are stored."""
    if not isinstance(limits, Mapping) or not isinstance(needed, Mapping):
        return []
    pairs = [(name, needed.get(name), limit) for name, limit in limits.items()]
    return [
        f"{name} {number(value)} of {number(limit)}"
        for name, value, limit in pairs
        if is_finite_number(value) and is_finite_number(limit) and value > limit
    ]


def ended_by(reason: str, options: Mapping[str, Any]) -> str:
    """Which option ended a search, as in ``SearchResult.stopped_by``, and what that means; empty while it runs.

    `options` are those that are stored with the search; "rest" says what was left where that paid for no training.
    """
    rest = options.get("rest") if reason in ("budget", "timeout") else None
    meaning = rest or _ENDS.get(f"{reason}={options.get(reason)}", _ENDS.get(reason))
    return f"ended by {reason}" + (f": {meaning}" if meaning else "") if reason else ""


def percent(share: float) -> str:
    """A share in [0, 1] as a person would write it: 12%, less than 1%."""
    return "less than 1%" if 0 < share < 0.01 else f"{share:.0%}"


def objectives(values: Sequence[float]) -> str:
    """The objectives of a trial, separated by commas; minus zero is 0."""
    return ", ".join(f"{value + 0.0:.4g}" for value in values)


def shorten(text: str, width: int) -> str:
    """`text` cut to `width` characters, the cut marked."""
    return text if len(text) <= width else text[: width - 1] + "…"


def shorten_name(name: str, width: int) -> str:
    """`name` cut in its middle to `width` characters, since similar names mostly differ at their ends."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def printable(text: str) -> str:
    """`text` with a replacement for each control character and lone surrogate: XML and JSON parsers refuse them."""
    return "".join("\ufffd" if unicodedata.category(c) in {"Cc", "Cs"} else c for c in text)
