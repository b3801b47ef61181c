"""What is optimised, settled before the first training: by name, or by following what ``compute_objective`` does."""

from collections.abc import Callable, Sequence
from typing import Any

from hf_rlsearch.backend.directions import (
    MAXIMIZE,
    MINIMIZE,
    implied,
    is_certain,
    off_switch,
    opposite,
    settle,
    stated,
    towards,
    when,
)
from hf_rlsearch.backend.objective import UNSET_DIRECTION, Objective, UnsetDirection, missing, number, scored_names
from hf_rlsearch.backend.slopes import Metrics, Watched, may_look_elsewhere, slopes_of
from hf_rlsearch.errors import ObjectiveError


def resolve(
    probe: Metrics,
    *,
    args: Any,
    compute_objective: Callable[[dict[str, Any]], Any] | None = None,
    metric: str | Sequence[str] | None = None,
    direction: str | Sequence[str] = UNSET_DIRECTION,
) -> Objective:
    """Settles what is optimised, and which way, before anything is trained.

    Args:
        probe: Metrics of an evaluation of the untrained model.
        args: The Trainer's arguments; ``metric_for_best_model`` and ``greater_is_better`` count.
        compute_objective: The user's function, None for the Trainer's default one.
        metric: The user's choice, with or without the ``eval_`` in front; several for several directions.
        direction: "minimize", "maximize", a list of these, or ``UNSET_DIRECTION``.

    Raises:
        ObjectiveError: Nothing to optimise, more than one thing, a name that does not exist, an objective that no
        metric
            changes, or a direction that contradicts the metric.
    """
    given = _given_directions(direction)
    multi = not isinstance(direction, str)
    if compute_objective is not None:
        if metric is not None:
            raise ObjectiveError(
                f"metric={metric!r} and compute_objective are both given. Pass one of them: metric names what to "
                f"optimise, "
                "compute_objective computes it."
            )
        return _resolve_function(probe, compute_objective, given, multi, args)
    names, why = _resolve_names(probe, args, metric, n_wanted=len(given) if multi else 1)
    directions = tuple(
        settle(name, given[i] if given else None, implied(name, args, given[i] if given else None))
        for i, name in enumerate(names)
    )
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


def _resolve_names(
    probe: Metrics, args: Any, metric: str | Sequence[str] | None, n_wanted: int
) -> tuple[tuple[str, ...], str]:
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
            f"{n_wanted} of "
            f"{found}, or a compute_objective that returns {n_wanted} values."
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
            f"(label_names=...) or a "
            "compute_metrics."
        )
    raise ObjectiveError(
        f"Evaluation gives several metrics: {', '.join(others or found)}. Pass metric={(others or found)[0]!r} or "
        f"another of "
        "them, set metric_for_best_model, or pass compute_objective."
    )


def _full_name(name: str, probe: Metrics, argument: str) -> str:
    for candidate in (name, f"eval_{name}"):
        if candidate in probe:
            number(candidate, probe[candidate])
            return candidate
    raise missing(name, probe, argument)


def _resolve_function(
    probe: Metrics, function: Callable[[dict[str, Any]], Any], given: tuple[str, ...], multi: bool, args: Any
) -> Objective:
    name = getattr(function, "__name__", type(function).__name__)
    metrics = Watched(probe)
    try:
        found = function(metrics)
    except Exception as error:
        raise ObjectiveError(
            f"compute_objective raised {type(error).__name__}: {error} on the metrics {sorted(probe)} of the "
            f"untrained model. "
            "Change it to use these names."
        ) from error
    n_values = len(found) if isinstance(found, (list, tuple)) else 1
    wanted = len(given) if multi else 1
    if n_values != wanted:
        raise ObjectiveError(
            f"compute_objective returned {n_values} value(s) ({found!r}), expected {wanted}: direction is "
            f"{list(given) if multi else (given[0] if given else MINIMIZE)!r}."
        )
    for value in found if isinstance(found, (list, tuple)) else (found,):
        number("compute_objective", value)
    names = (name,) if n_values == 1 else tuple(f"{name}[{i}]" for i in range(n_values))
    names_read = [one for one in scored_names(probe) if one in metrics.read]
    elsewhere = not metrics.read and may_look_elsewhere(function)
    # A pure function that shows no reading may have copied the metrics in a way that is not seen.
    tried = names_read if metrics.read or elsewhere else scored_names(probe)
    slopes = slopes_of(probe, function, tried, n_values)
    if not elsewhere and not all(any(of_one.values()) for of_one in slopes):
        raise ObjectiveError(
            f"compute_objective is constant: it does not change with any of {sorted(scored_names(probe))}. Let it "
            f"return one of them, or pass metric= instead."
        )
    directions = tuple(
        _function_direction(of_one, given[i] if given else None, args) for i, of_one in enumerate(slopes)
    )
    follows = _followed(slopes[0], directions[0]) if n_values == 1 else None
    why = "compute_objective, which reads no metric of the evaluation" if elsewhere else "compute_objective"
    return Objective(names=names, directions=directions, multi=multi, function=function, why=why, follows=follows)


def _followed(slopes: dict[str, int], direction: str) -> tuple[str, bool] | None:
    used = {name: slope for name, slope in slopes.items() if slope}
    if len(used) != 1:
        return None
    ((name, slope),) = used.items()
    return (name, (direction == MAXIMIZE) == (slope > 0)) if slope in (-1, 1) else None


def _function_direction(slopes: dict[str, int], given: str | None, args: Any) -> str:
    used = {name: slope for name, slope in slopes.items() if slope}
    implied = {towards(name, slope) for name, slope in used.items()} - {None}
    if len(implied) != 1:
        # Nothing to go by: the Trainer's documented default.
        return given or MINIMIZE
    (only,) = implied
    if given is None or given == only or not all(is_certain(name) and used[name] in (-1, 1) for name in used):
        return given or str(only)
    name, slope = next((n, s) for n, s in used.items() if towards(n, s) == only)
    wanted = given if slope > 0 else opposite(given)
    if stated(name, args) != wanted:
        raise ObjectiveError(
            f"direction={given!r} contradicts compute_objective, which follows {name!r} so that {only} is better. Pass "
            f"direction={only!r} or turn the sign in compute_objective. If {when(wanted)} {name!r} really is better, "
            f"{off_switch(name, wanted)}"
        )
    return given
