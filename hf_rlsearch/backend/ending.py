"""What people are told of a trial that has ended."""

from optuna.trial import FrozenTrial

from hf_rlsearch.backend.paused import PAUSED
from hf_rlsearch.backend.plan import Plan
from hf_rlsearch.backend.progress import Ended
from hf_rlsearch.backend.result import role
from hf_rlsearch.backend.standing import Standing
from hf_rlsearch.backend.trial import COMPLETE, FULL_TRAINING, Outcome


def ended(plan: Plan | None, told: FrozenTrial, outcome: Outcome, standing: Standing, world_size: int) -> Ended:
    """The columns of a trial's line.

    Args:
        plan: Of the trial; None if it ended before there was one.
        told: The trial, as it is in the study.
        outcome: How it ended.
        standing: What was found so far, this trial included.
        world_size: Number of processes.
    """
    ranking, none = standing.ranking(), "" if standing.is_multi else "-"
    best = f"{ranking[0].values[0]:.4g} (trial {ranking[0].number})" if ranking else none
    result = _failed(outcome, world_size) or _result(told, outcome)
    reached = max(told.intermediate_values, default=0) / FULL_TRAINING
    return Ended(
        number=told.number,
        role=role(told),
        params=told.user_attrs.get("hyperparameters", told.params),
        result=result,
        best=best,
        fidelity=1.0 if outcome.status == COMPLETE else reached,
        seconds=outcome.seconds,
    )


def _failed(outcome: Outcome, world_size: int) -> str:
    """How it failed; empty if it did not."""
    if outcome.failure is None:
        return ""
    at = f" at training step {outcome.failure.step}" if outcome.failure.step else ""
    where = f" on rank {outcome.failure.rank}" if world_size > 1 else ""
    return f"failed{at}{where}: {outcome.failure.reason}"


def _result(told: FrozenTrial, outcome: Outcome) -> str:
    values = ", ".join(f"{value:.4g}" for value in outcome.values)
    how = "paused" if PAUSED in told.user_attrs else "pruned"
    return values if outcome.status == COMPLETE else f"{how} at {values or 'the start'}"
