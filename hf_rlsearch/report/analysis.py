"""Computes the numbers behind the charts: incumbents, expected best, compute spent, importances, ranges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import optuna

from hf_rlsearch._typing import FloatArray
from hf_rlsearch.optuna.confirmation import Gain
from hf_rlsearch.optuna.confirmation import gain as paired_gain
from hf_rlsearch.report.records import SearchRecord, TrialRecord

MIN_FOR_IMPORTANCE = 10
"""Complete trials below which a random forest says more about its seed than about hyperparameters."""
# Beyond this, differences and squares are too large for a float; what diverged so far is drawn at the edge.
_MOST = 1e150


@dataclass(frozen=True)
class Incumbent:
    """The best objective after a trial.

    Attributes:
        trial: The trial that ended.
        spent: Full trainings spent until then, this trial included.
        best: The best objective of complete trials so far, in the user's sign; None before the first one.
        improved: Whether this trial set it.
    """

    trial: TrialRecord
    spent: float
    best: float | None
    improved: bool


def incumbents(search: SearchRecord) -> list[Incumbent]:
    """One entry per ended search trial, in the order in which they ended."""
    ended = [t for t in search.trials if t.status in {"complete", "pruned", "failed"} and t.role != "confirm"]
    ended.sort(key=lambda t: (t.ended or datetime.max, t.number))
    best: float | None = None
    spent, entries = 0.0, []
    for trial in ended:
        spent += trial.spent
        improved = trial.values is not None and (best is None or search.better(trial.values[0], best))
        if improved and trial.values is not None:
            best = trial.values[0]
        entries.append(Incumbent(trial, spent, best, improved))
    return entries


def expected_best(values: Sequence[float], *, minimize: bool, n_draws: int, first: float | None = None) -> FloatArray:
    """The best objective to expect after 1 .. `n_draws` trials, drawn with replacement from those of this search.

    Args:
        values: V finite objectives of complete trials, at least one.
        minimize: Whether smaller is better.
        n_draws: N, at least one.
        first: The objective of a trial that every order of trials begins with, such as the baseline; it is not drawn.

    Returns:
        N expectations; entry n - 1 is for n draws (and `first`, if given).

    Source:
        Dodge et al. 2019 (arXiv:1909.03004), equation 6: P(best <= v_i) = (i / V)^n for values in ascending order.
    """
    given = np.asarray(values, dtype=float)
    if first is not None:
        given = np.minimum(given, first) if minimize else np.maximum(given, first)
    ascending = np.sort(given)
    if minimize:
        ascending = ascending[::-1]  # from worst to best, so that the same formula counts the best
    shares = np.arange(ascending.size + 1) / ascending.size
    draws = np.arange(1, n_draws + 1)[:, None]
    weights: FloatArray = np.diff(shares[None, :] ** draws, axis=1)
    best: FloatArray = weights @ ascending
    return best


def importances(study: optuna.Study, search: SearchRecord) -> dict[str, float]:
    """How much of the objective each hyperparameter explains on its own, by Optuna's fANOVA.

    Args:
        study: The study itself: the evaluator reads it.
        search: Its record.

    Returns:
        Hyperparameter -> share of the total in [0, 1], the largest first. Empty where fewer than MIN_FOR_IMPORTANCE
        trials are complete, or where nothing varied.
    """
    if len(search.scored()) < MIN_FOR_IMPORTANCE:
        return {}
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
    """What the head of a report says.

    Attributes:
        best: The incumbent.
        baseline: The trial of the user's own arguments.
        gain: How much better the incumbent is, above zero is better; None where either is unknown, and for several
            objectives.
        confirmed: The same under new seeds, with its interval; None without confirmations.
        spent: Full trainings spent.
        full: Full trainings that the same trials would have cost without stopping any.
        seconds: From the first beginning to the last end.
        memory: The largest peak, in bytes.
        counts: Trials per status.
    """

    best: TrialRecord | None
    baseline: TrialRecord | None
    gain: float | None
    confirmed: Gain | None
    spent: float
    full: float
    seconds: float | None
    memory: float | None
    counts: dict[str, int]


def summarize(search: SearchRecord) -> Summary:
    """The head of a report."""
    best, baseline = search.best(), search.baseline()
    gain = None
    if best and baseline and best.values and baseline.values and len(search.minimize) == 1:
        difference = best.values[0] - baseline.values[0]
        gain = -difference if search.minimize[0] else difference
    begun = [t.begun for t in search.trials if t.begun]
    ended = [t.ended for t in search.trials if t.ended]
    ran = [t for t in search.trials if t.status != "running"]
    return Summary(
        best=best,
        baseline=baseline,
        gain=gain,
        confirmed=_confirmed(search, best, baseline),
        spent=sum(t.spent for t in search.trials),
        full=sum(t.spent if t.status == "failed" else t.cost for t in ran if not t.begun_at),
        seconds=(max(ended) - min(begun)).total_seconds() if begun and ended else None,
        memory=max((t.memory for t in search.trials if t.memory), default=None),
        counts={s: n for s in ("complete", "pruned", "failed", "running") if (n := len(search.with_status(s)))},
    )


def front(search: SearchRecord) -> set[int]:
    """Numbers of the trials that no other beats: at least as good in every objective and better in one."""
    points = {t.number: t.values for t in search.scored() if t.values}
    return {n for n, p in points.items() if not any(_beats(search, other, p) for other in points.values())}


def _beats(search: SearchRecord, a: Sequence[float], b: Sequence[float]) -> bool:
    signs = [1 if m else -1 for m in search.minimize]
    pairs = [(s * x, s * y) for s, x, y in zip(signs, a, b, strict=True)]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def _confirmed(search: SearchRecord, best: TrialRecord | None, baseline: TrialRecord | None) -> Gain | None:
    found = {c.number: c for c in search.confirmations}
    if best is None or baseline is None or not {best.number, baseline.number} <= set(found):
        return None
    return paired_gain(found[best.number], found[baseline.number], maximize=not search.minimize[0])
