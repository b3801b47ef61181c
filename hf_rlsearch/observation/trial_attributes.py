"""TODO."""

import optuna
from optuna.trial import FrozenTrial, TrialState

STOP_KEY = "rl:stop"
DECISION_KEY = "rl:decision"
CONTINUES = "rl:continues"
COST = "rl:cost"
FOLDER, N_TRIALS, OBJECTIVE = "folder", "n_trials", "objective"


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count towards ``n_trials``: complete, pruned and failed."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


# User attributes: of a trial that the pruner stopped, where on the axis of learning curves that was; of a pruned one,
# the checkpoint that it can go on from; of any, where on the axis it began.
STOPPED, PAUSED, BEGUN_AT = "stopped", "paused", "begun_at"

# The axis of learning curves: this many units are the whole of a trial's own training, whatever its batch size.
FULL_TRAINING = 10_000

# User attributes of a finished trial: the share of its own training that is done, and what it newly cost.
TRAINED, SPENT = "trained", "spent"


def spent_on(trial: FrozenTrial) -> float:
    """Full trainings that were newly trained in a finished trial; of older studies, what its reports tell."""
    stored = trial.user_attrs.get(SPENT)
    if stored is not None:
        return float(stored)
    return 1.0 if trial.state == TrialState.COMPLETE else max(trial.intermediate_values, default=0) / FULL_TRAINING


def newly_spent(trial: optuna.Trial, trained: float) -> float:
    """Full trainings that are newly trained in a trial that ends now.

    Args:
        trial: Still running.
        trained: Share of its own training that is done, in [0, 1].
    """
    begun_at = trial.user_attrs.get(BEGUN_AT, 0) / FULL_TRAINING
    return float(trial.user_attrs.get(COST, 1.0) * max(0.0, trained - begun_at))


BASELINE, SEARCH, CONFIRM = "baseline", "search", "confirm"


def role(trial: FrozenTrial) -> str:
    """What a trial was for: "baseline", "search" or "confirm"."""
    return str(trial.user_attrs.get("role", SEARCH))
