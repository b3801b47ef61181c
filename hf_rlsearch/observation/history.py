"""Reads Optuna trials into arrays in which a larger objective is better, whatever the study's direction."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.study._multi_objective import _fast_non_domination_rank  # not public in Optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray, Params
from hf_rlsearch.observation.trial_attributes import CONTINUES, DECISION, OUTSIDE, is_feasible

STATUS = ("complete", "pruned", "failed", "running")
"""Names of the values of ``History.status``. The weights store the order, so new ones are appended."""
COMPLETE, PRUNED, FAILED, RUNNING = range(len(STATUS))
_STATUS_OF = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.FAIL: FAILED,
    TrialState.RUNNING: RUNNING,
}


LARGEST = 1e300
"""Objectives and reports are clipped here: the difference of two of them has to be a finite number."""


@dataclass(frozen=True)
class History:
    """The T trials of a search that have started, in order.

    Attributes:
        numbers: (T,) Optuna's trial numbers, ascending.
        params: Of each trial; may hold values between the levels of a search space or beyond them, and names outside of
            it. Of a baseline also the values outside of the space, which no param can hold. Of a running trial also
            params that are decided but not suggested yet; empty while another worker decides.
        values: (T,) objective, larger is better; nan where unknown (failed, or nothing reported yet). Of a pruned or
            running trial the last value of its curve.
        fidelity: (T,) share of a full training that was done, in [0, 1]; 1 for complete trials.
        status: (T,) index into ``STATUS``.
        curves: Of each trial (S, 2): step as reported, value larger is better. The value is the best one so far, or the
            newest one where the last report of a trial is its objective. Reports of nan and inf are left out.

    Values are in [-1e300, 1e300], see ``LARGEST``.
    """

    numbers: IntArray
    params: tuple[Params, ...]
    values: FloatArray
    fidelity: FloatArray
    status: IntArray
    curves: tuple[FloatArray, ...]

    def __len__(self) -> int:
        return len(self.params)

    @classmethod
    def from_trials(
        cls,
        trials: Sequence[FrozenTrial],
        directions: Sequence[StudyDirection],
        *,
        max_resource: float | None = None,
        exclude: int | None = None,
        newest: bool | None = None,
    ) -> "History":
        """Reads trials of one study, in any order; leaves out number ``exclude``, usually the trial being decided.

        With several directions ``values`` is the negative rank of non-dominated sorting: 0 on the Pareto front, -1 on
        the front that is left without it, and so on. A complete trial whose objective is nan or infinite counts as
        failed. Waiting trials are left out, as their params are not decided yet. A trial that another one continues is
        left out too: the later trial repeats its reports, so the two are one training. Where ``max_resource``, the step
        of a full training, is not given, it is the largest step that any trial reported. ``newest`` says whether the
        newest report of a trial counts or the best one; where not given, ``newest_counts`` of these trials.

        A trial that violates a constraint cannot be the best one: once a complete trial violates none, all values and
        reports of the others are at most just below the best of these. With several directions only trials that violate
        none can be on the first front.
        """
        left_out = {*continued(trials), exclude}
        started = [t for t in trials if t.state != TrialState.WAITING and t.number not in left_out]
        started.sort(key=lambda trial: trial.number)
        status = np.array([_STATUS_OF[trial.state] for trial in started], dtype=np.int64)
        signs = np.array([1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in directions])
        curves = _curves(started, signs, newest=newest_counts(started, directions) if newest is None else newest)
        finals = _final_values(started, signs)
        status[(status == COMPLETE) & ~np.isfinite(finals).all(axis=1)] = FAILED
        feasible = np.array([is_feasible(trial) for trial in started], dtype=bool)
        values = _values(finals, curves, status, feasible)
        if not feasible.all():
            values, curves = _below_the_feasible(values, curves, status, feasible)
        return cls(
            numbers=np.array([trial.number for trial in started], dtype=np.int64),
            params=tuple(_params(trial) for trial in started),
            values=values,
            fidelity=_fidelity(curves, status, max_resource),
            status=status,
            curves=curves,
        )

    def best(self, count: int) -> list[Params]:
        """The params of up to ``count`` complete trials, best first; of two equal trials the earlier comes first."""
        indices = np.flatnonzero(self.status == COMPLETE)
        order = np.argsort(-self.values[indices], kind="stable")
        return [self.params[i] for i in indices[order][:count]]

    @property
    def decided(self) -> BoolArray:
        """(T,) False for trials that have started but whose params are not chosen yet."""
        decided = np.ones(len(self), dtype=bool)
        running = np.flatnonzero(self.status == RUNNING).tolist()
        decided[running] = [len(self.params[i]) > 0 for i in running]
        return decided

    def select(self, keep: BoolArray) -> "History":
        """The trials for which (T,) ``keep`` is True."""
        if keep.all():
            return self
        indices = np.flatnonzero(keep).tolist()
        return History(
            numbers=self.numbers[indices],
            params=tuple(self.params[i] for i in indices),
            values=self.values[indices],
            fidelity=self.fidelity[indices],
            status=self.status[indices],
            curves=tuple(self.curves[i] for i in indices),
        )

    def with_params(self, index: int, params: Params) -> "History":
        """A copy in which the trial at ``index`` has other params."""
        return replace(self, params=(*self.params[:index], params, *self.params[index + 1 :]))


def continued(trials: Iterable[FrozenTrial]) -> frozenset[int]:
    """The numbers of the trials whose training another trial continues.

    A failed trial continues nothing: the earlier trial is still all that is known of the training.
    """
    # The rare condition first: this is asked of thousands of trials before each decision.
    found = ((number, t) for t in trials if isinstance(number := t.user_attrs.get(CONTINUES), int))
    return frozenset(number for number, t in found if t.state not in (TrialState.WAITING, TrialState.FAIL))


def newest_counts(trials: Iterable[FrozenTrial], directions: Sequence[StudyDirection]) -> bool:
    """Whether the objective of every complete trial with reports is its last one, and of one trial not its best one."""
    if len(directions) != 1:
        return False
    best_of = max if directions[0] == StudyDirection.MAXIMIZE else min
    one_differs = False
    for trial in trials:
        if trial.state == TrialState.COMPLETE and (reports := trial.intermediate_values):
            if trial.value != reports[max(reports)]:
                return False
            one_differs = one_differs or trial.value != best_of(reports.values())
    return one_differs


def stable_distributions(trials: Iterable[FrozenTrial], *, exclude: int | None = None) -> dict[str, BaseDistribution]:
    """The distributions that the trials of a study, other than number `exclude`, have suggested, in alphabetical order.

    A range that was changed once for all, as between two runs of a script, is the newest one. A name is left out if its
    range moves: that is, if only the latest trial has the newest range, or a range has come back.
    """
    found: dict[str, list[BaseDistribution]] = {}
    n_newest: dict[str, int] = {}
    moved = set()
    suggested = (item for trial in trials if trial.number != exclude for item in trial.distributions.items())
    for name, distribution in suggested:
        ranges = found.setdefault(name, [])
        if ranges and ranges[-1] == distribution:
            n_newest[name] += 1
            continue
        if distribution in ranges:
            moved.add(name)
        ranges.append(distribution)
        n_newest[name] = 1
    moved |= {name for name, ranges in found.items() if len(ranges) > 1 and n_newest[name] == 1}
    return {name: found[name][-1] for name in sorted(found) if name not in moved}


def _params(trial: FrozenTrial) -> Params:
    """The params that a trial has suggested; while it runs also those that are decided but not suggested yet."""
    found = trial.user_attrs.get(OUTSIDE)
    if found is None and trial.state != TrialState.RUNNING:
        return dict(trial.params)  # early, as this is read of thousands of trials before each decision
    # Values are compared with levels by their hash; a list or a dict equals none.
    outside = (
        {n: v if isinstance(v, Hashable) else repr(v) for n, v in found.items()} if isinstance(found, dict) else {}
    )
    if trial.state != TrialState.RUNNING:
        return {**outside, **trial.params}
    decisions = [value for name, value in trial.system_attrs.items() if name.startswith(DECISION) and value]
    decided = {name: value for decision in decisions for name, value in decision.get("params", {}).items()}
    return {**outside, **decided, **trial.system_attrs.get("fixed_params", {}), **trial.params}


def _curves(trials: Sequence[FrozenTrial], signs: FloatArray, *, newest: bool) -> tuple[FloatArray, ...]:
    """Of each trial (S, 2) finite reports in order of steps; Optuna allows reports only with one objective.

    The values are as reported where the newest counts, else the best so far.
    """
    if len(signs) != 1:
        return (np.empty((0, 2)),) * len(trials)
    reports = [trial.intermediate_values for trial in trials]
    # All trials at once: a thousand small arrays would take as long as the agent's decision.
    owner = np.repeat(np.arange(len(trials)), [len(report) for report in reports])
    steps, values = chain.from_iterable(reports), chain.from_iterable(report.values() for report in reports)
    points = np.stack([np.fromiter(numbers, np.float64, len(owner)) for numbers in (steps, values)], axis=1)
    points[:, 1] = _clipped(points[:, 1])
    order = np.lexsort((points[:, 0], owner))
    order = order[np.isfinite(points[order, 1])]
    points, owner = points[order] * [1.0, signs[0]], owner[order]
    if not newest:
        points[:, 1] = _best_so_far(points[:, 1], owner)
    ends = np.searchsorted(owner, np.arange(len(trials) + 1)).tolist()
    return tuple(points[start:end] for start, end in pairwise(ends))


def _best_so_far(values: FloatArray, owner: IntArray) -> FloatArray:
    """P running maxima of the values of each owner, who ascend."""
    ordered = np.sort(values)
    ranks = np.searchsorted(ordered, values) + owner * len(values)  # those of a later owner are higher
    return ordered[np.maximum.accumulate(ranks) - owner * len(values)]


def _final_values(trials: Sequence[FrozenTrial], signs: FloatArray) -> FloatArray:
    """(T, M) objectives, larger is better; nan where a trial has not as many values as the study has directions."""
    unknown, n = [np.nan] * len(signs), len(signs)
    rows = [values if (values := t.values) and len(values) == n else unknown for t in trials]
    return _clipped(np.array(rows, dtype=np.float64).reshape(len(trials), len(signs))) * signs


def _clipped(values: FloatArray) -> FloatArray:
    """Finite values in the range of ``LARGEST``, nan and inf as they are."""
    return np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values)


def _below_the_feasible(
    values: FloatArray, curves: tuple[FloatArray, ...], status: IntArray, feasible: BoolArray
) -> tuple[FloatArray, tuple[FloatArray, ...]]:
    """Values and reports of trials that violate a constraint, cut off just below the best complete trial of the others.

    They are shown as good, not as failed: next to them there may be good trials that violate none.
    """
    rivals = values[feasible & (status == COMPLETE)]
    if not len(rivals):
        return values, curves
    highest = np.nextafter(rivals.max(), -np.inf)
    cut = tuple(
        curve if ok else np.column_stack([curve[:, 0], np.minimum(curve[:, 1], highest)])
        for curve, ok in zip(curves, feasible, strict=True)
    )
    return np.where(feasible, values, np.minimum(values, highest)), cut


def _values(finals: FloatArray, curves: Sequence[FloatArray], status: IntArray, feasible: BoolArray) -> FloatArray:
    complete = status == COMPLETE
    values = np.full(len(status), np.nan)
    if finals.shape[1] > 1:
        values[complete] = -_fast_non_domination_rank(-finals[complete])
        rivals = complete & feasible
        if (rivals != complete).any():
            values[rivals] = -_fast_non_domination_rank(-finals[rivals])
        return values
    if not len(status):  # without a study there may be no directions, and so no column 0
        return values
    values[complete] = finals[complete, 0]
    for i in np.flatnonzero((status == PRUNED) | (status == RUNNING)).tolist():
        if len(curves[i]):
            values[i] = curves[i][-1, 1]
        elif np.isfinite(finals[i, 0]):
            values[i] = finals[i, 0]
    return values


def _fidelity(curves: Sequence[FloatArray], status: IntArray, max_resource: float | None) -> FloatArray:
    last = np.array([curve[-1, 0] if len(curve) else np.nan for curve in curves], dtype=np.float64)
    if max_resource is None and np.isfinite(last).any():
        # Where epochs are counted from 0, one epoch has been trained at step 0.
        offset = float(min(curve[0, 0] for curve in curves if len(curve)) <= 0)
        last, max_resource = last + offset, float(np.nanmax(last)) + offset
    share = np.clip(np.nan_to_num(last) / (max_resource or 1.0), 0.0, 1.0)
    return np.where(status == COMPLETE, 1.0, share)
