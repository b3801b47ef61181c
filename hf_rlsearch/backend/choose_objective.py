"""Chooses the objective of a search before the first training: a metric by its name, or ``compute_objective``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hf_rlsearch.backend.directions import MAXIMIZE, MINIMIZE, metric_direction
from hf_rlsearch.backend.found_space import AccessRecorder
from hf_rlsearch.backend.objective import (
    UNSET_DIRECTION,
    ComputeObjective,
    Metrics,
    Objective,
    UnsetDirection,
    metric_value,
    scored_names,
)
from hf_rlsearch.errors import ObjectiveError


def choose_objective(
    probe: Metrics,
    *,
    args: Any,
    compute_objective: ComputeObjective | None = None,
    metric: str | Sequence[str] | None = None,
    direction: str | Sequence[str] = UNSET_DIRECTION,
) -> Objective:
    """Chooses what is optimised, and in which direction.

    Args:
        probe: Metrics of an evaluation of the untrained model.
        args: The Trainer's arguments; ``metric_for_best_model`` and ``greater_is_better`` count.
        compute_objective: The user's function, None for the Trainer's default one.
        metric: The user's choice, with or without the ``eval_`` in front; several for several directions.
        direction: "minimize", "maximize", a list of these, or ``UNSET_DIRECTION``.

    Raises:
        ObjectiveError: Nothing to optimise, more than one thing, a name that does not exist, a constant objective, a
            ``compute_objective`` without a direction, or a direction that contradicts the metric.
    """
    given = _given_directions(direction)
    multi = not isinstance(direction, str)
    if compute_objective is not None:
        if metric is not None:
            raise ObjectiveError(
                f"metric={metric!r} and compute_objective are both given. Pass one of them: metric names what to "
                "optimise, compute_objective computes it."
            )
        return _computed_objective(probe, compute_objective, given, multi, args)
    names, why = _metric_names(probe, args, metric, n_wanted=len(given) if multi else 1)
    directions = tuple(metric_direction(name, args, given[i] if given else None) for i, name in enumerate(names))
    follows = (names[0], directions[0] == MAXIMIZE) if len(names) == 1 else None
    return Objective(names=names, directions=directions, multi=multi, function=None, why=why, follows=follows)


def _given_directions(direction: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(direction, UnsetDirection):
        return ()
    given = (direction,) if isinstance(direction, str) else tuple(direction)
    for one in given:
        if one not in (MINIMIZE, MAXIMIZE):
            raise ObjectiveError(f"direction={one!r} given, expected 'minimize' or 'maximize'.")
    if not given:
        raise ObjectiveError("direction=[] given, expected one direction for each value of compute_objective.")
    return given


def _metric_names(
    probe: Metrics, args: Any, metric: str | Sequence[str] | None, n_wanted: int
) -> tuple[tuple[str, ...], str]:
    """The full keys of the metrics to optimise, and where the choice comes from."""
    found = scored_names(probe)
    if metric is not None:
        asked = (metric,) if isinstance(metric, str) else tuple(metric)
        if len(asked) != n_wanted:
            raise ObjectiveError(
                f"metric={list(asked)} names {len(asked)} metric(s), but there are {n_wanted} direction(s)."
            )
        return tuple(_full_name(name, probe, "metric") for name in asked), "metric="
    if n_wanted > 1:
        raise ObjectiveError(
            f"{n_wanted} directions are given but neither compute_objective nor metric. Pass metric=[...] with "
            f"{n_wanted} of {found}, or a compute_objective that returns {n_wanted} values."
        )
    best = getattr(args, "metric_for_best_model", None)
    others = [name for name in found if not name.endswith("loss")]
    # TrainingArguments fills in "loss" by itself with load_best_model_at_end, so that word alone is no choice.
    if best is not None and (best not in ("loss", "eval_loss") or not others):
        return (_full_name(best, probe, "metric_for_best_model"),), "metric_for_best_model"
    if len(others) == 1:
        return (others[0],), "the only metric of compute_metrics"
    if not others and found:
        losses = ["eval_loss"] if "eval_loss" in found else found
        if len(losses) == 1:
            return (losses[0],), "no other metric is computed"
    if not found:
        raise ObjectiveError(
            f"Evaluation gives no number to optimise, only {sorted(probe)}. Give the Trainer labels "
            "(label_names=...) or a compute_metrics."
        )
    raise ObjectiveError(
        f"Evaluation gives several metrics: {', '.join(others or found)}. Pass metric={(others or found)[0]!r} or "
        "another of them, set metric_for_best_model, or pass compute_objective."
    )


def _full_name(name: str, probe: Metrics, argument: str) -> str:
    full = name if name in probe or f"eval_{name}" not in probe else f"eval_{name}"
    metric_value(full, probe, argument)
    return full


def _computed_objective(
    probe: Metrics, function: ComputeObjective, given: tuple[str, ...], multi: bool, args: Any
) -> Objective:
    if not given:
        raise ObjectiveError(
            "compute_objective is given without direction. Pass direction='maximize' if larger values of it are "
            "better, or direction='minimize', which other backends take where none is given."
        )
    read: set[str] = set()
    try:
        found = function(AccessRecorder(probe, read))
    except Exception as error:
        raise ObjectiveError(
            f"compute_objective raised {type(error).__name__}: {error} on the metrics {sorted(probe)} of the "
            "untrained model. Change it to use these names."
        ) from error
    name = getattr(function, "__name__", type(function).__name__)
    names = tuple(f"{name}[{i}]" for i in range(len(given))) if len(given) > 1 else (name,)
    objective = Objective(names=names, directions=given, multi=multi, function=function, why="compute_objective")
    objective.checked(found)
    if not read and _may_measure_elsewhere(function):
        return replace(objective, why="compute_objective, which reads no metric of the evaluation")
    if _is_constant(objective, probe):
        raise ObjectiveError(
            f"compute_objective is constant: it does not change with any of {sorted(scored_names(probe))}. Let it "
            "return one of them, or pass metric= instead."
        )
    followed = _followed_metric(objective, probe, read)
    if followed is None:
        return objective
    metric_direction(followed, args, given[0])  # refuses a direction that contradicts the metric
    return replace(objective, follows=(followed, given[0] == MAXIMIZE))


def _is_constant(objective: Objective, probe: Metrics) -> bool:
    """Returns whether a value of an objective stays the same while all metrics change."""
    names = scored_names(probe)
    values = []
    for scale in (0.1, 1.0, 10.0, 1000.0):
        try:
            values.append(objective({**probe, **{name: scale / (i + 1) for i, name in enumerate(names)}}))
        except Exception:
            return False  # made-up metrics that the function refuses are no reason to refuse the function
    return any(len(set(column)) == 1 for column in zip(*values, strict=True))


def _followed_metric(objective: Objective, probe: Metrics, read: set[str]) -> str | None:
    """Returns the metric that a computed objective simply returns, None where it computes something."""
    names = [name for name in scored_names(probe) if name in read]
    try:
        return names[0] if len(names) == 1 and objective({**probe, names[0]: 0.375}) == (0.375,) else None
    except Exception:
        return None


def _may_measure_elsewhere(function: Any) -> bool:
    """Returns whether a function uses global names, attributes or variables of an enclosing function."""
    code = getattr(function, "__code__", None)
    return code is None or bool(code.co_names or code.co_freevars)
