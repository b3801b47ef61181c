"""Describes a running trial to the stop rule, by its learning curve against all other curves of the search.

Meta-training and live searches both use it. Steps become fractions of a full training and values are measured on the
search's own scale, so neither the metric nor the number of evaluations matters.

Letters: B searches, T other trials.
"""

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray

CURVE_FEATURES = (
    "fidelity",
    "log_fidelity",
    "gap_to_incumbent",
    "rank_here",
    "n_here",
    "gap_to_best_here",
    "gap_to_median_here",
    "slope",
    "usual_gain",
    "high_gain",
    "power_law",
    "power_law_gap_here",
    "n_complete",
    "share_left",
    "n_left",
    "n_done",
    "n_trials",
    "made_up",
    "early_ranks_tell",
    "price",
    "learnt",
)
FORECAST_FEATURES = (
    "forecast_known",
    "forecast_gap",
    "forecast_spread",
    "forecast_chance",
    "forecast_log_ei",
    "fresh_log_ei",
)
"""The predictor's forecast of the running trial's end, and of the best candidate to train instead; zeros without it."""
STOP_FEATURES = (*CURVE_FEATURES, *FORECAST_FEATURES)
N_ALTERNATIVES = 128
"""Number of candidates to train instead: enough for one nearly as good as the best of all."""
HOPELESS = 0.05
"""Forecast chance to become the best that keeps no trial from being stopped, and below which none is resumed."""
DECISIONS_PER_TRAINING = 12
"""A trial is judged at most this often, and not before a twelfth of its training. Every decision is a chance to stop a
good trial by mistake, the greater the earlier: see docs/background/log/2026-11-23-searches-with-stopping.md."""
# Tolerance at the edges of these fractions, as a share of one: fidelities are rounded to ten-thousandths.
_ROUNDING = 1e-3
# At chance level an early value says nothing unless complete trials say so: see `may_still_rise`.
_MADE_UP_AT_CHANCE = 0.2
# Exponent of the power law used for extrapolation: between the 0.4 and 0.9 that cover most of the prior's curves.
_EXPONENT = 0.6


def is_due(before: FloatArray, now: FloatArray) -> BoolArray:
    """True where the latest report is the first in one of the fractions of a training at which trials are judged.

    The arguments are the fidelities of the report before the latest, 0 where there is none, and of the latest.
    """
    slots = np.floor(np.stack([before, now]) * DECISIONS_PER_TRAINING + _ROUNDING)
    return np.asarray(slots[1] > slots[0])


@np.errstate(over="ignore")  # differences in tiny units may be infinite, and are clipped
def curve_features(
    *,
    fidelity: FloatArray,
    value: FloatArray,
    value_at_half: FloatArray,
    others_here: FloatArray,
    others_best: FloatArray,
    others_complete: BoolArray,
    budget: FloatArray,
    price: FloatArray,
    learnt: FloatArray,
) -> FloatArray:
    """Describes B running trials, beside T other trials each.

    Args:
        fidelity: B, of the running trial, in (0, 1].
        value: B what the running trial is worth now, larger is better: its best value so far, or its newest one where
            the last evaluation of a training counts. So are the values below.
        value_at_half: B the same at half of that fidelity; NaN where nothing was reported so early.
        others_here: B x T of each other trial at the same fidelity, NaN for shorter trials.
        others_best: B x T of each other trial at its end so far, NaN for padding and failures.
        others_complete: B x T, True where a trial was trained to its end.
        budget: B x 2 full trainings that are left, and in all; NaN where there is no budget.
        price: B costs of the running trial's whole training, over the mean of the other trials'; 1 without others.
        learnt: B, 1 where the running trial is above the untrained model by more than noise, -1 where it is not, 0
            where nobody knows.

    Returns:
        B x len(CURVE_FEATURES), float32 in [-3, 3].
    """
    here = np.concatenate([others_here, value[:, None]], axis=1)
    final = np.concatenate([others_best, value[:, None]], axis=1)
    incumbent, unit, unit_here = np.nanmax(final, axis=1), _unit(final), _unit(here)
    gain = np.where(others_complete, others_best - others_here, np.nan)
    slope = np.where(np.isnan(value_at_half), 0.0, value - value_at_half)
    growth = (1 - fidelity**_EXPONENT) / (2**_EXPONENT - 1)
    reached = ~np.isnan(others_here)
    n_here = reached.sum(1)
    beaten = (others_here < value[:, None]) & reached
    best_other = np.where(n_here > 0, np.where(reached, others_here, -np.inf).max(1, initial=-np.inf), value)
    # Without a budget a usual one is assumed.
    left, total = np.where(np.isnan(budget[:, 1:]), (10.0, 20.0), budget).T
    columns = [
        fidelity,
        np.log10(np.maximum(fidelity, 1e-3)) / 2,
        _squash((value - incumbent) / unit),
        np.where(n_here > 0, beaten.sum(1) / np.maximum(n_here, 1), 0.5),
        np.log1p(n_here) / 3,
        _squash((value - best_other) / unit_here),
        _squash((value - _quantile(here, 0.5)) / unit_here),
        _squash(slope / unit),
        _squash((value + np.nan_to_num(_quantile(gain, 0.5)) - incumbent) / unit),
        _squash((value + np.nan_to_num(_quantile(gain, 0.9)) - incumbent) / unit),
        _squash((value + slope * growth - incumbent) / unit),
        _squash((value - np.nanmax(here, axis=1)) / unit_here),
        np.log1p(others_complete.sum(1)) / 3,
        left / np.maximum(total, 1e-6),
        np.log1p(np.maximum(left, 0)) / 3,
        np.log1p(np.maximum(total - left, 0)) / 3,
        np.log1p((~np.isnan(others_best)).sum(1)) / 4,
        2 * _share_that_made_up(gain, incumbent - value) - 1,
        _early_ranks_tell(others_here, others_best, others_complete & reached),
        np.log(np.maximum(price, 1e-6)),
        learnt,
    ]
    return np.asarray(np.clip(np.stack(columns, axis=1), -3, 3), np.float32)


def _share_that_made_up(gain: FloatArray, gap: FloatArray) -> FloatArray:
    """B shares of the complete trials that gained at least the gap from here on, with one success and failure added.

    Without complete trials a half: nothing is known then. Source: the rule of succession (Laplace).
    """
    n = (~np.isnan(gain)).sum(1)
    return np.asarray(((gain >= gap[:, None]).sum(1) + 1) / (n + 2))


def _early_ranks_tell(here: FloatArray, final: FloatArray, complete: BoolArray) -> FloatArray:
    """B rank correlations between values here and final values of the n complete trials, times n / (n + 4)."""
    n = complete.sum(1)
    return np.asarray(rank_correlation(here, final, complete) * n / (n + 4))


def rank_correlation(first: FloatArray, second: FloatArray, mask: BoolArray) -> FloatArray:
    """B rank correlations (Spearman) of B x T values where the mask is True; 0 where all of one kind are equal."""
    n = mask.sum(1)
    ranks = [mean_ranks(np.where(mask, values, np.inf)) for values in (first, second)]
    centred = [np.where(mask, rank - (n[:, None] - 1) / 2, 0.0) for rank in ranks]
    spread = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    return np.asarray((centred[0] * centred[1]).sum(1) / np.maximum(spread, 1e-9))


def mean_ranks(values: FloatArray) -> FloatArray:
    """B x T ranks from 0 within each row; equal values share their mean rank."""
    ranks = [v.argsort(axis=1, kind="stable").argsort(axis=1) for v in (values, values[:, ::-1])]
    return np.asarray((ranks[0] + ranks[1][:, ::-1]) / 2)  # equal values in their order, and in the opposite one


def leads(value: FloatArray, others_here: FloatArray) -> BoolArray:
    """B, True where no other trial was better at the same fidelity: such a trial is never stopped."""
    return np.asarray(~(np.nan_to_num(others_here, nan=-np.inf) > value[:, None]).any(1))


def chance_to_go_on(spent: FloatArray | float, left: FloatArray | float) -> FloatArray:
    """The forecast chance to become the best from which on no trial is stopped.

    It is the chance that the next trial becomes the best after so many full trainings, where all trials are alike.
    Early in a search a trial may then be stopped as soon as it promises less than another would, late only if it is
    nearly hopeless. Where a stop pays for no other training, the limit is `HOPELESS`, and it is never below that.
    Source: the n-th of exchangeable values is their record with a chance of 1/n (Renyi 1962).

    Args:
        spent: Full trainings so far.
        left: Full trainings that the budget still pays for; NaN where there is no budget, so that a stop saves time
            only.
    """
    record = np.maximum(1.0 / (1.0 + np.asarray(spent)), HOPELESS)
    return np.where(np.asarray(left) >= 1, record, HOPELESS)


def stands_still(own: FloatArray, others: FloatArray) -> BoolArray:
    """B, True where all reports of a running trial are one value at which another trial has begun and stayed.

    So does a model that gives every row the most frequent class: such trials have the same accuracy, to the last digit,
    and an early value says as little as that of an untrained model. Two trials that pass the same value once, as they
    do where few rows are evaluated, do not stand still.

    Args:
        own: B x S reports so far, in their order, NaN for padding.
        others: B x T x S reports of the other trials, as above; no more than the first two are read.
    """
    first = own[:, :1]
    constant = ((own == first) | np.isnan(own)).all(1)
    began = others[..., :2] == first[:, None]  # B x T x 2; a trial with one report has begun there
    stayed = began.all(2) | (began[..., 0] & np.isnan(others[..., 1:2]).all(2))
    return np.asarray(constant & stayed.any(1))


def may_still_rise(features: FloatArray, still: BoolArray) -> BoolArray:
    """B, True where a trial at chance level is not stopped, as no complete trials have shown that such a gap stays.

    A trial is at chance level that is not above the untrained model, or that stands still. It may be stopped where at
    most a fifth of the complete trials, with one success and one failure added, have made up such a gap: of three none,
    of eight one. See docs/background/log/2026-11-30-prices-and-chance-level.md.

    Args:
        features: B x len(CURVE_FEATURES) or more, see `curve_features`.
        still: B, see `stands_still`.
    """
    column = {name: features[:, CURVE_FEATURES.index(name)] for name in ("learnt", "made_up")}
    at_chance = still | (column["learnt"] < 0)
    return np.asarray(at_chance & ((column["made_up"] + 1) / 2 > _MADE_UP_AT_CHANCE))


def _squash(x: FloatArray) -> FloatArray:
    """Linear near zero, logarithmic beyond: differences of losses have heavy tails."""
    return np.asarray(np.sign(x) * np.log1p(np.abs(x)))


def _unit(values: FloatArray) -> FloatArray:
    """B distances from best to median, else to worst; infinite where all are equal but for rounding.

    A trial that equals all others leads and is never stopped, whatever its features.
    """
    best, median, worst = np.nanmax(values, axis=1), _quantile(values, 0.5), np.nanmin(values, axis=1)
    unit = np.where(best > median, best - median, best - worst)
    return np.asarray(np.where(unit > 1e-12 * np.maximum(np.abs(best), np.abs(worst)), unit, np.inf))


def _quantile(values: FloatArray, q: float) -> FloatArray:
    """B quantiles of the numbers in each row, NaN for a row without any; nanquantile would warn and is slow."""
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    ordered = np.sort(values, axis=1)
    count = (~np.isnan(values)).sum(1)
    at = np.clip(np.round(q * (count - 1)).astype(int), 0, None)
    return np.where(count > 0, ordered[np.arange(len(values)), at], np.nan)
