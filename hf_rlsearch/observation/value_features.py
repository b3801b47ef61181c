"""Reads features from the names and numbers of values, such as the size and family of a model or the kind of optimizer.

To other samplers a category such as ``opt-350m`` is one of four; here it is a decoder of 350 million parameters. The
tables are short on purpose: names outside of them are unknown, which the policy was trained for too.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch._validation import is_number

KINDS: tuple[str, ...] = (
    "unknown",
    "adaptive",
    "sgd",
    "adafactor",
    "sign",
    "linear",
    "cosine",
    "constant",
    "other_schedule",
    "encoder",
    "decoder",
    "encoder_decoder",
    "on",
    "off",
)
"""Kinds of a categorical value; the weights store this order, so new kinds go to the end."""

_KIND_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"adafactor", "adafactor"),
    (r"lion|signum|signsgd", "sign"),
    (r"adam|lamb|novograd|sophia|ademamix|stable_adamw|galore|apollo", "adaptive"),
    (r"\bsgd|sgd$|momentum|nesterov|^gd$", "sgd"),
    (r"constant", "constant"),
    (r"cosine", "cosine"),
    (r"^linear", "linear"),
    (r"polynomial|inverse_sqrt|exponential|step|plateau|warmup_stable_decay", "other_schedule"),
    (r"t5|bart|marian|opus-mt|nllb|m2m|pegasus|whisper|madlad", "encoder_decoder"),
    (r"gpt|opt-|bloom|llama|mistral|qwen|phi|gemma|falcon|pythia|mpt|smollm|xglm|olmo|granite", "decoder"),
    (r"bert|electra|xlm|minilm|mpnet|funnel|vit|deit|swin", "encoder"),
    (r"^(true|yes|on)$", "on"),
    (r"^(false|no|off|none)$", "off"),
)

# Millions of parameters of checkpoints whose names say "base" or "large" rather than a number. Rounded, from their
# model cards and papers (Devlin et al. 2019; Liu et al. 2019; Clark et al. 2020; Raffel et al. 2020).
_NAMED_SIZES: tuple[tuple[str, float], ...] = (
    (r"electra.*small", 14),
    (r"electra.*large", 335),
    (r"electra", 110),
    (r"distilbert", 66),
    (r"distilroberta", 82),
    (r"distilgpt2", 82),
    (r"minilm", 23),
    (r"mobilebert", 25),
    (r"albert.*xxlarge", 223),
    (r"albert.*xlarge", 60),
    (r"albert.*large", 18),
    (r"albert", 12),
    (r"gpt-?2.*xl", 1558),
    (r"gpt-?2.*large", 774),
    (r"gpt-?2.*medium", 355),
    (r"gpt-?2", 124),
    (r"t5.*small", 60),
    (r"t5.*base", 220),
    (r"t5.*large", 770),
    (r"t5.*xxl", 11000),
    (r"t5.*xl", 3000),
    (r"deberta.*large", 400),
    (r"deberta.*xsmall", 22),
    (r"deberta.*small", 44),
    (r"xlm.*large", 560),
    (r"xlm.*base", 270),
    (r"bart.*large", 406),
    (r"bart", 139),
    (r"opus-mt|marian", 75),
    (r"tiny", 4),
    (r"mini", 11),
    (r"small", 30),
    (r"medium", 41),
    (r"large", 340),
    (r"base", 110),
)


# Role -> (scale of the axis, centre, width): a usual value of fine-tuning, and about one "large step".
_ABSOLUTE: dict[str, tuple[str, float, float]] = {
    "learning_rate": ("log10", -4.0, 1.0),
    "batch_size": ("log2", 5.0, 2.0),
    "epochs": ("log2", 2.0, 2.0),
    "weight_decay": ("log10", -2.0, 1.5),
    "warmup": ("linear", 0.1, 0.1),
    "dropout": ("linear", 0.15, 0.15),
    "lora_rank": ("log2", 3.5, 2.0),
    "lora_alpha": ("log2", 4.5, 2.0),
    "momentum": ("complement", 1.0, 0.5),
    "label_smoothing": ("linear", 0.1, 0.1),
    "gradient_clipping": ("log10", 0.0, 1.0),
    "width": ("log2", 9.0, 1.5),
    "depth": ("log2", 2.5, 1.5),
    "heads": ("log2", 3.0, 1.0),
    "vocabulary": ("log2", 13.5, 2.0),
    "layer_decay": ("linear", 0.85, 0.1),
    "accumulation": ("log2", 1.0, 1.5),
    "max_length": ("log2", 8.0, 2.0),
}
_SCALES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "log10": lambda v: np.log10(np.maximum(v, 1e-7)),
    "log2": lambda v: np.log2(np.maximum(v, 2.0**-8)),
    "linear": lambda v: v,
    "complement": lambda v: -np.log10(np.clip(1.0 - v, 1e-4, 1.0)),
}


def kind(value: Any) -> int:
    """Index into `KINDS` of a categorical value; 0 where the name says nothing."""
    if is_number(value):
        return 0
    text = str(value).lower()
    return next((KINDS.index(name) for pattern, name in _KIND_PATTERNS if re.search(pattern, text)), 0)


def log10_parameters(value: Any) -> float:
    """The decimal logarithm of the number of parameters in a checkpoint's name, NaN where the name has none."""
    if not isinstance(value, str):
        return math.nan
    text = value.lower()
    number = re.search(r"(?:^|[-_/])(\d+(?:\.\d+)?)\s*([mb])(?:$|[-_])", text)
    if number:
        return math.log10(float(number[1])) + (6.0 if number[2] == "m" else 9.0)
    return next((6.0 + math.log10(size) for pattern, size in _NAMED_SIZES if re.search(pattern, text)), math.nan)


def absolute(role: str, values: FloatArray) -> FloatArray:
    """Numbers on the role's own axis, so that 3e-5 means the same in every search space.

    Args:
        role: One of the roles of `hf_rlsearch.space`.
        values: Any shape, NaN where a value is not a number.

    Returns:
        Same shape, clipped to [-4, 4]; 0 where the role has no axis or the value is not a number.
    """
    if role not in _ABSOLUTE:
        return np.zeros_like(values, dtype=float)
    scale, centre, width = _ABSOLUTE[role]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        axis = _SCALES[scale](np.asarray(values, dtype=float))
        return np.asarray(np.nan_to_num(np.clip((axis - centre) / width, -4.0, 4.0)))


def size_hint(values: list[Any]) -> tuple[FloatArray, IntArray]:
    """Of each categorical value log10 of the parameters in its name (NaN if none), and its kind."""
    return np.array([log10_parameters(v) for v in values], dtype=float), np.array([kind(v) for v in values], dtype=int)
