"""Limits on what a trial may need, such as memory: which there are, how each is measured, and when it is exceeded."""

from collections.abc import Mapping
from typing import Any

from hf_rlsearch._validation import did_you_mean, is_finite_number, is_number
from hf_rlsearch.errors import ArgumentsError

MEMORY = "peak_memory_gb"
CONSTRAINTS = (MEMORY, "seconds", "trainable_params", "eval_latency_ms")
"""Names that ``constraints=`` may have."""
# An out-of-memory counts as so much of the limit if less was measured: the allocation that failed is not in it.
_OUT_OF_MEMORY = 1.1
_RUNTIME, _PER_SECOND = "_runtime", "_samples_per_second"


def check_constraints(limits: Any) -> None:
    """Checks the option ``constraints``.

    Raises:
        ArgumentsError: It is no dict of known names and positive numbers.
    """
    if not isinstance(limits, Mapping) or not limits:
        raise ArgumentsError(
            f"constraints={limits!r} given, expected a dict such as {{{MEMORY!r}: 16, 'seconds': 600}}, or None."
        )
    for name, limit in limits.items():
        if name not in CONSTRAINTS:
            raise ArgumentsError(
                f"constraints names {name!r}, expected some of {', '.join(CONSTRAINTS)}."
                f"{did_you_mean(name, CONSTRAINTS)} Other quantities: Trial.set_constraint in a study of your own."
            )
        if not (is_finite_number(limit) and limit > 0):
            raise ArgumentsError(f"constraints has {name}={limit!r}, expected a number greater than 0.")


def measured(
    limits: Mapping[str, float],
    *,
    peak_memory: int,
    seconds: float,
    trainable_params: int,
    metrics: Mapping[str, Any],
    out_of_memory: bool,
) -> dict[str, float]:
    """Returns what a trial needed, by the names of its limits; what was not measured is left out.

    Args:
        limits: The option ``constraints``.
        peak_memory: Bytes, the most of all ranks.
        seconds: Of the whole training.
        trainable_params: Parameters that were trained.
        metrics: Of the scored evaluation.
        out_of_memory: The trial has failed for want of memory. Then nothing else is known of it.
    """
    found = {
        MEMORY: peak_memory / 1e9,
        "seconds": 0.0 if out_of_memory else seconds,
        "trainable_params": float(trainable_params),
        "eval_latency_ms": 0.0 if out_of_memory else eval_latency_ms(metrics),
    }
    if out_of_memory and MEMORY in limits:
        found[MEMORY] = max(found[MEMORY], _OUT_OF_MEMORY * limits[MEMORY])
    return {name: found[name] for name in limits if found[name] > 0}


def excess(limits: Mapping[str, float], needed: Mapping[str, float]) -> dict[str, float]:
    """Returns by how much a trial exceeds each limit, as a share of the limit; at most 0 where it keeps to it."""
    return {name: value / limits[name] - 1 for name, value in needed.items()}


def eval_latency_ms(metrics: Mapping[str, Any]) -> float:
    """Returns the milliseconds that an evaluation took for each of its rows; 0 if the metrics do not say so.

    Of several evaluation data sets the rows count together.
    """
    seconds = rows = 0.0
    for name, runtime in metrics.items():
        per_second = metrics.get(f"{name.removesuffix(_RUNTIME)}{_PER_SECOND}")
        if name.endswith(_RUNTIME) and is_number(runtime) and is_number(per_second):
            seconds, rows = seconds + runtime, rows + runtime * per_second
    return 1000 * seconds / rows if rows > 0 else 0.0
