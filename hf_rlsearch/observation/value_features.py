"""Reads features from the names and numbers of values, such as the size and family of a model or the kind of optimizer.

To other samplers a category such as ``opt-350m`` is one of four; here it is a decoder of 350 million parameters.
"""

import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch._validation import is_number

# `value_features.toml` describes its tables.
_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
KINDS: tuple[str, ...] = tuple(_DATA["kinds"])
"""Kinds of a categorical value; the weights store indices into this tuple."""
_SCALES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "log10": lambda v: np.log10(np.maximum(v, 1e-7)),
    "log10_tiny": lambda v: np.log10(np.maximum(v, 1e-12)),
    "log2": lambda v: np.log2(np.maximum(v, 2.0**-8)),
    "linear": lambda v: v,
    "complement": lambda v: -np.log10(np.clip(1.0 - v, 1e-4, 1.0)),  # of a momentum: 0.9 -> 1, 0.99 -> 2
}


def kind(value: Any) -> int:
    """Index into `KINDS` of a categorical value; 0 where the name says nothing."""
    if is_number(value):
        return 0
    text = str(value).lower()
    return next((KINDS.index(name) for pattern, name in _DATA["kind_patterns"] if re.search(pattern, text)), 0)


def log10_parameters(value: Any) -> float:
    """The decimal logarithm of the number of parameters in a checkpoint's name, NaN where the name has none."""
    if not isinstance(value, str):
        return math.nan
    text = value.lower()
    number = re.search(r"(?:^|[-_/])(\d+(?:\.\d+)?)\s*([mb])(?:$|[-_])", text)
    if number:
        return math.log10(float(number[1])) + (6.0 if number[2] == "m" else 9.0)
    return next(
        (6.0 + math.log10(size) for pattern, size in _DATA["named_sizes"] if re.search(pattern, text)), math.nan
    )


def on_scale(role: str, values: FloatArray) -> FloatArray:
    """Numbers on the scale of a role that has an axis, such as log10 of learning rates."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _SCALES[_DATA["axes"][role][0]](np.asarray(values, dtype=float))


def absolute(role: str, values: FloatArray) -> FloatArray:
    """Numbers on the role's own axis, so that 3e-5 means the same in every search space.

    Returns:
        The shape of the values, clipped to [-4, 4]; 0 where the role has no axis or the value is NaN.
    """
    if role not in _DATA["axes"]:
        return np.zeros_like(values, dtype=float)
    _, centre, width = _DATA["axes"][role]
    with np.errstate(over="ignore"):
        return np.asarray(np.nan_to_num(np.clip((on_scale(role, values) - centre) / width, -4.0, 4.0)))


def size_hint(values: list[Any]) -> tuple[FloatArray, IntArray]:
    """Of each categorical value log10 of the parameters in its name (NaN if none), and its kind."""
    return np.array([log10_parameters(v) for v in values], dtype=float), np.array([kind(v) for v in values], dtype=int)
