"""Names every attribute that a search stores with a study or a trial."""

import math
from collections.abc import Mapping

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._validation import is_number
from hf_rlsearch.observation.curve_features import HOPELESS

# Every name starts with this; hp_space may use any other.
PREFIX = "rl:"

# System attributes, written by RLSampler and RLPruner: why a configuration was chosen, why a trial was stopped.
DECISION = "rl:decision"
STOP = "rl:stop"
# Values of "reason" in STOP of a trial that no pruner stopped: the time of the search was over, or the trial had
# exceeded the memory of ``constraints=``.
TIMEOUT, LIMIT = "timeout", "limit"
# Values of "goes_on" in STOP of a trial that went on without a decision of the stop rule: no other trial was better at
# that point, the trial was better than all complete ones, or it was at chance level and complete trials have not shown
# that its lag behind the best stays.
LEADS, AHEAD, AT_CHANCE = "leads", "ahead", "at chance"

# System attributes in which Optuna stores constraints: a list, as `constraints_func` returns it, and one value for each
# name since Optuna 5. A constraint is violated if its value is above 0.
_CONSTRAINTS = "constraints"

# System attribute of a study: the seed of samplers that were given none.
SAMPLER_SEED = "rl:sampler_seed"

# System attribute of a trial that Optuna's RetryHeartbeatStaleTrialCallback has queued again: the numbers of the failed
# trials that it repeats, whose other attributes are copied.
_RETRY_HISTORY = "retry_history"

# User attributes of a study; SUMMARY is the note that the last search left in the dashboard.
IDENTITY = "rl:identity"
OBJECTIVE = "rl:objective"
N_TRIALS = "rl:n_trials"
STARTED_BY = "rl:started_by"
SUMMARY = "rl:summary"
# Also of a study: the limits of ``constraints=`` by name.
CONSTRAINTS = "rl:constraints"
# Also of a study: which option ended the search, see ``SearchResult.stopped_by``.
STOPPED_BY = "rl:stopped_by"
# Also of a study: ``target=`` as a list, and ``patience=``, of the latest run; missing where none gave any. "rest" says
# what was left of time or budget when the search ended, where that paid for no training.
ENDS = "rl:ends"
# Also of a study: the first trial that counts towards its limits whatever its end. Failures before it do not count:
# nothing was completed before a later start.
COUNTS_FROM = "rl:counts_from"
# Also of a study: what more trials were expected to bring when the search ended, as text.
OUTLOOK = "rl:outlook"
# Also of a study: facts of the task for the agent by name, see ``RLSampler``. They are measured once, before the first
# trial, so that all trials are chosen by the same facts.
TASK_FACTS = "rl:facts"

# Also of a study: the trial whose model was pushed to the Hub last, and the repository.
PUBLISHED = "rl:published"

# User attributes of a study and of a trial: the process that runs it, and its folder. The folder of a study is relative
# to ``output_dir``, all paths of a trial are relative to the study's folder: a copied or moved ``output_dir`` works.
OWNER = "rl:owner"
FOLDER = "rl:folder"
# Also of a study: the ``output_dir`` where it was opened last, to say that it was copied or moved.
PLACE = "rl:place"
# Also of a study: a random text that names its search among all others. Its folder holds the same text, so that no
# search in another storage writes there.
KEY = "rl:key"

# User attributes of a trial when it starts: what it is for, its exact values, and all that a replay needs.
ROLE = "rl:role"
HYPERPARAMETERS = "rl:hyperparameters"
VALUES = "rl:values"
# Searched names of a baseline, and of its confirmations, whose values no param can hold: they are outside of the space.
OUTSIDE = "rl:outside"
# The params that the user gave with ``initial_trials``; they tell which of these configurations are queued already.
INITIAL = "rl:initial"
# The params that an earlier search has left in the Trainer's ``model_init``; the baseline is trained with them.
EARLIER_PARAMS = "rl:earlier_params"
# Names of what ``hp_space`` changes in a trial besides the values that it returns, such as "trainer.gamma".
CHANGES = "rl:changes"
ARGUMENTS = "rl:arguments"
SEED = "rl:seed"
WORLD_SIZE = "rl:world_size"
VERSIONS = "rl:versions"
COST = "rl:cost"
REEVALUATES = "rl:reevaluates"
CONTINUES = "rl:continues"
STARTED_AT = "rl:started_at"
# True for a trial that resumes one which RLPruner had judged.
JUDGED = "rl:judged"
ATTEMPTS = "rl:attempts"

# User attributes of a trial when it ends. TRAINED is the share of its own training that is done, SPENT what the trial
# added to the cost of the search in full trainings, PAUSED the checkpoint from which a pruned trial can be continued.
SECONDS = "rl:seconds"
STEPS = "rl:steps"
METRICS = "rl:metrics"
CHECKPOINT = "rl:checkpoint"
FAILURE = "rl:failure"
PEAK_MEMORY = "rl:peak_memory"
# What was measured for each of the constraints of the search, by name.
MEASURED = "rl:measured"
RESIDENT_MEMORY = "rl:resident_memory"
TRAINED = "rl:trained"
SPENT = "rl:spent"
STOPPED = "rl:stopped"
PAUSED = "rl:paused"

# User attribute of a trial of ``SearchResult.tune_generation``: the fields of the generation configuration.
GENERATION = "rl:generation"

# User attribute of a trial that Ray Tune trains: the id of the ``RLSearch`` that chose it.
RAY_SEARCH = "rl:ray_search"

# Values of ROLE.
BASELINE, SEARCH, CONFIRM = "baseline", "search", "confirm"

# The axis of learning curves: this many units are the whole of a trial's own training, whatever its batch size.
FULL_TRAINING = 10_000
ROUNDING = 1e-3
"""Relative tolerance of shares and costs of trainings, which searches round to units of that axis."""


def role(trial: FrozenTrial) -> str:
    """The purpose of a trial: "baseline", "search" or "confirm"."""
    return str(trial.user_attrs.get(ROLE, SEARCH))


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have ended: complete, pruned and failed."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def finished_within_limits(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials that count towards the limits of a search.

    Confirmations do not count, nor do failures of earlier starts if no trial was completed there.
    """
    since = study.user_attrs.get(COUNTS_FROM, 0)
    trials = [trial for trial in finished(study) if role(trial) != CONFIRM]
    return [trial for trial in trials if trial.state != TrialState.FAIL or trial.number >= since]


def constraints_of(trial: FrozenTrial) -> dict[str, float]:
    """The constraint values of a trial by name, at most 0 where the constraint holds; empty where none is stored.

    Reads what ``Trial.set_constraint`` and the ``constraints_func`` of samplers store, in Optuna 4 and 5.
    """
    attributes = trial.system_attrs
    if not any(name.startswith(_CONSTRAINTS) for name in attributes):
        return {}  # early, as this is asked of thousands of trials before each decision
    stored = attributes.get(_CONSTRAINTS)
    found = {str(i): value for i, value in enumerate(stored if isinstance(stored, list | tuple) else ())}
    prefix = f"{_CONSTRAINTS}:"
    found |= {k.removeprefix(prefix): value for k, value in attributes.items() if k.startswith(prefix)}
    return {name: float(value) for name, value in found.items() if is_number(value) and not math.isnan(value)}


def store_constraints(trial: optuna.Trial, values: Mapping[str, float]) -> None:
    """Stores the constraint values of a running trial where Optuna's studies, samplers and dashboard read them."""
    if hasattr(trial, "set_constraint"):  # since Optuna 5
        known = trial.constraints
        for name, value in values.items():
            if name not in known:
                trial.set_constraint(name, value)
    else:
        trial.storage.set_trial_system_attr(trial._trial_id, _CONSTRAINTS, list(values.values()))


def repeats(trial: FrozenTrial) -> int | None:
    """The number of the failed trial that a callback of the storage has queued again as this one; None for others."""
    history = trial.system_attrs.get(_RETRY_HISTORY)
    return history[-1] if isinstance(history, list) and history and isinstance(history[-1], int) else None


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial violates no constraint; True as well where none is stored, as in Optuna."""
    return all(value <= 0 for value in constraints_of(trial).values())


def spent_on(trial: FrozenTrial) -> float:
    """Full trainings that a finished trial added to the cost of the search; estimated where SPENT is not stored."""
    stored = trial.user_attrs.get(SPENT)
    return share_trained(trial) if stored is None else float(stored)


def counted(trial: FrozenTrial) -> float:
    """How much of ``n_trials`` a trial uses up: 1, or the share that it newly trained if RLPruner has judged it."""
    if not (trial.system_attrs.get(STOP) or trial.user_attrs.get(JUDGED)):
        return 1.0  # as in Optuna, whatever another pruner does
    trained = share_trained(trial) if trial.state == TrialState.PRUNED else 1.0
    return max(trained - float(trial.user_attrs.get(STARTED_AT, 0)) / FULL_TRAINING, 0.0)


def is_hopeless(trial: FrozenTrial) -> bool:
    """Whether RLPruner stopped a trial with next to no forecast chance to become the best."""
    chance = (trial.system_attrs.get(STOP) or {}).get("chance")
    return chance is not None and chance < HOPELESS


def n_trials_used(study: optuna.Study) -> float:
    """How much of ``n_trials`` the finished trials of a search use up."""
    return sum(map(counted, finished_within_limits(study)))


def share_trained(trial: FrozenTrial) -> float:
    """Share of a trial's own training up to its last evaluation, in [0, 1]."""
    if trial.state == TrialState.COMPLETE:
        return 1.0
    if trial.last_step is None:  # as of every trial with several objectives, which have no reports in Optuna
        return float(trial.user_attrs.get(TRAINED, 0.0))
    return trial.last_step / FULL_TRAINING


def newly_spent(trial: optuna.Trial | FrozenTrial, trained: float) -> float:
    """Full trainings that a trial adds to the search's cost if it ends with this share of its own training done."""
    started_at = trial.user_attrs.get(STARTED_AT, 0) / FULL_TRAINING
    return float(trial.user_attrs.get(COST, 1.0) * max(0.0, trained - started_at))
