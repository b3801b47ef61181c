"""Computes the numbers of a report beside the trials: expected best, importances, ranges, gain, Pareto front."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import optuna
from optuna.storages import InMemoryStorage
from optuna.study._multi_objective import _fast_non_domination_rank  # not public in Optuna
from optuna.trial import TrialState

from hf_rlsearch._typing import FloatArray
from hf_rlsearch.observation.trial_attributes import BASELINE, CONFIRM
from hf_rlsearch.optuna.confirmation import Gain
from hf_rlsearch.optuna.confirmation import gain as paired_gain
from hf_rlsearch.report.records import SearchRecord, TrialRecord

T = TypeVar("T")
MIN_FOR_IMPORTANCE = 10
"""Complete trials below which a random forest says more about its seed than about hyperparameters."""
MOST_FOR_IMPORTANCE = 400
"""Complete trials that the forest is made of: its time grows with the square of their number, 400 take six seconds."""
MOST_SHOWN = 1000
"""Trials that charts show and explanations are written of; a browser has trouble with more."""
# Differences and squares of larger values overflow a float; such diverged trials are drawn at the edge.
_MOST = 1e150


def expected_best(
    values: Sequence[float], *, minimize: bool, draws: FloatArray, first: float | None = None
) -> FloatArray:
    """The best objective to expect after some trials that are drawn with replacement from those of this search.

    Args:
        values: V finite objectives of complete trials, at least one.
        minimize: Whether smaller is better.
        draws: (N,) numbers of drawn trials, at least one each.
        first: The objective of a trial that every order of trials begins with, such as the baseline; it is not drawn.

    Returns:
        N expectations, one for each number of draws (and `first`, if given).

    Source:
        Dodge et al. 2019 (arXiv:1909.03004), equation 6: P(best <= v_i) = (i / V)^n for values in ascending order.
    """
    given = np.asarray(values, dtype=float)
    if first is not None:
        given = np.minimum(given, first) if minimize else np.maximum(given, first)
    ascending = np.sort(given)[:: -1 if minimize else 1]  # from worst to best
    shares = np.arange(ascending.size + 1) / ascending.size
    weights: FloatArray = np.diff(shares[None, :] ** draws[:, None], axis=1)
    best: FloatArray = weights @ ascending
    return best


def importances(study: optuna.Study, search: SearchRecord) -> dict[str, float]:
    """How much of the objective each hyperparameter explains on its own, by Optuna's fANOVA.

    Args:
        study: The study itself: the evaluator reads it.
        search: Its record.

    Returns:
        Hyperparameter -> share of the total in [0, 1], the largest first. Empty where fewer than MIN_FOR_IMPORTANCE
        trials are complete, or where nothing varied. Of more than MOST_FOR_IMPORTANCE an even sample is used.
    """
    if len(search.scored()) < MIN_FOR_IMPORTANCE:
        return {}
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) > MOST_FOR_IMPORTANCE:
        study = optuna.create_study(directions=study.directions, storage=InMemoryStorage())
        study.add_trials(_evenly(complete, MOST_FOR_IMPORTANCE))
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about trials with NaN and single-valued hyperparameters
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0), target=lambda t: t.values[0]
            )
    except (ValueError, RuntimeError, ArithmeticError, AssertionError):  # all equal, or out of range
        return {}
    finally:
        optuna.logging.set_verbosity(level)
    return {name: share for name, share in found.items() if math.isfinite(share)}


def value_range(
    values: Sequence[float], *, minimize: bool, keep: Sequence[float] = (), share: float = 0.75
) -> tuple[float, float]:
    """A range for objectives that a few diverged trainings cannot flatten.

    Args:
        values: At least one, in the user's sign.
        minimize: Whether smaller is better; only the bad side is ever cut.
        keep: Values that should be inside, and are unless they would shrink everything else to an eighth.
        share: Of the values that are certain to be inside, in (0, 1].

    Returns:
        From the best value to the worst, or to somewhat beyond `share` of them where the rest is far off; low, high.
    """
    ordered = sorted((min(max(v, -_MOST), _MOST) for v in values), reverse=not minimize)
    best, most, worst = ordered[0], ordered[int(share * (len(ordered) - 1))], ordered[-1]
    far = abs(worst - best) > 3 * abs(most - best) > 0
    limit = best + 1.5 * (most - best) if far else worst
    inside = [best, limit, *(v for v in keep if abs(v - best) <= 8 * abs(limit - best))]
    low, high = min(inside), max(inside)
    air = (high - low) * 0.06 or abs(low) * 0.1 or 0.5
    return low - air, high + air


@dataclass(frozen=True)
class Summary:
    """The numbers at the head of a report.

    Attributes:
        gain: How much better the best trial is than the baseline, above zero is better; None where either is unknown,
            and for several objectives.
        confirmed: The same under new seeds, with its interval; None without confirmations.
        spent: Full trainings spent.
        full: Full trainings that the same trials would have cost without stopping any.
        seconds: From the first start to the last end.
        counts: Trials per status.
    """

    gain: float | None
    confirmed: Gain | None
    spent: float
    full: float
    seconds: float | None
    counts: dict[str, int]


def summarize(search: SearchRecord) -> Summary:
    """Computes the numbers at the head of a report."""
    best, baseline = search.best(), search.baseline()
    gain = confirmed = None
    if best and baseline and best.values and baseline.values and len(search.minimize) == 1:
        gain = (best.values[0] - baseline.values[0]) * (-1 if search.minimize[0] else 1)
    repeated = {c.number: c for c in search.confirmations}
    if best and baseline and {best.number, baseline.number} <= set(repeated):
        confirmed = paired_gain(repeated[best.number], repeated[baseline.number], maximize=not search.minimize[0])
    ended = [t.ended for t in search.trials if t.ended]
    statuses = Counter(t.status for t in search.trials)
    fresh = [t for t in search.trials if t.status != "running" and not t.started_at]
    return Summary(
        gain=gain,
        confirmed=confirmed,
        spent=sum(t.spent for t in search.trials),
        full=sum(t.spent if t.status == "failed" else t.cost for t in fresh),
        seconds=(max(ended) - min(t.started for t in search.trials)).total_seconds() if ended else None,
        counts={s: statuses[s] for s in ("complete", "pruned", "failed", "running") if s in statuses},
    )


def shown_trials(search: SearchRecord) -> frozenset[int]:
    """The numbers of the trials that charts show: all, or MOST_SHOWN of them.

    These are the best and the baseline, the Pareto front, the confirmations, the better half by score, and an even
    sample of the others.
    """
    if len(search.trials) <= MOST_SHOWN:
        return frozenset(trial.number for trial in search.trials)
    scores = search.scores()
    ranked = sorted(scores, key=lambda n: scores[n], reverse=not search.minimize[0])
    best, on_front = search.best(), set(front(search)) if len(search.minimize) > 1 else set()
    chosen = {t.number for t in search.trials if t is best or t.role in (BASELINE, CONFIRM) or t.values in on_front}
    chosen |= {*ranked[: MOST_SHOWN // 2]}
    others = [trial.number for trial in search.trials if trial.number not in chosen]
    return frozenset({*chosen, *_evenly(others, max(MOST_SHOWN - len(chosen), 0))})


def _evenly(items: Sequence[T], most: int) -> list[T]:
    """At most that many of the items, at even distances."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int).tolist()]


def front(search: SearchRecord) -> list[tuple[float, ...]]:
    """The objectives, ascending, that no others beat: at least as good in every objective and better in one.

    Trials that violate a constraint beat nothing and are not on it.
    """
    signs = np.array([1.0 if minimize else -1.0 for minimize in search.minimize])
    points = [t.values for t in search.rankable() if t.values]
    if not points:
        return []
    ranks = _fast_non_domination_rank(np.array(points) * signs, n_below=1)
    return sorted(point for point, rank in zip(points, ranks.tolist(), strict=True) if rank == 0)


def knee(search: SearchRecord) -> TrialRecord | None:
    """The trial on the front with the least loss in all objectives together; None without a front of three or more.

    The loss in an objective is the distance to the best on the front, as a share of the distance from the best to the
    worst. With two objectives this is the point farthest from the line between the two ends.

    Source:
        Das 1999 (On characterizing the "knee" of the Pareto curve, Structural Optimization 18), for that property.
    """
    found = front(search)
    if len(search.minimize) < 2 or len(found) < 3:
        return None
    points = np.array(found, dtype=float) * [1 if minimize else -1 for minimize in search.minimize]
    low, high = points.min(0), points.max(0)
    loss = ((points - low) / np.where(high > low, high - low, 1.0)).sum(1)
    best = found[int(loss.argmin())]
    return next(trial for trial in search.rankable() if trial.values == best)
