"""Trains one trial on one rank: scores its evaluations, asks the pruner, and turns errors into outcomes."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import optuna
from optuna import TrialPruned
from optuna.distributions import BaseDistribution
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ObjectiveError, SearchSpaceError
from hf_rlsearch.metrics.directions import MAXIMIZE
from hf_rlsearch.observation.trial_attributes import (
    CONTINUES,
    FULL_TRAINING,
    LIMIT,
    SEARCH,
    STOP,
    STOPPED,
    TIMEOUT,
)
from hf_rlsearch.trainer.search.distributed import ProcessGroup
from hf_rlsearch.trainer.session.arguments import plain
from hf_rlsearch.trainer.session.compat import allow_shared_weights, found_arguments, may_change_weights_at_the_end
from hf_rlsearch.trainer.session.failures import Failure, divergence, no_objective
from hf_rlsearch.trainer.session.seeds_and_memory import PeakMemory
from hf_rlsearch.trainer.setup.fingerprints import weights_fingerprint
from hf_rlsearch.trainer.setup.objective import Objective
from hf_rlsearch.trainer.setup.task_facts import count_parameters
from hf_rlsearch.trainer.storage.paused import curve_step, make_saving_optional

if TYPE_CHECKING:
    from transformers import Trainer

# Type of a field -> function that makes the value from its JSON; for all other types the JSON is the value.
_FROM_JSON: dict[Any, Callable[[Any], Any]] = {
    TrialState: TrialState,
    tuple[float, ...]: tuple,
    Failure | None: lambda data: None if data is None else Failure(**data),
}


class RankMessage:
    """Base class of the dataclasses that ranks send each other as JSON."""

    def to_json(self) -> Params:
        """Returns the fields by name, as plain data."""
        return dict(plain(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns the value whose ``to_json`` is the given data."""
        types = {each.name: each.type for each in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: _FROM_JSON.get(types[name], lambda value: value)(value) for name, value in data.items()})


@dataclass(frozen=True)
class TrialPlan(RankMessage):
    """The configuration that all ranks train next, and where the training writes.

    Attributes:
        params: Every hyperparameter, those of ``model_init`` included; empty for the baseline.
        values: What ``hp_space`` returned: training arguments and scoped names.
        folder: Where the trial writes.
        name: What ``hp_name`` returned, or "run-<number>".
        role: "baseline", "search" or "confirm".
        resume_from: Checkpoint of this trial, or of the paused trial that this trial resumes; None for a fresh start.
        arguments: All training arguments, as they were stored, of a trial that is trained again.
        changes: Names of what ``hp_space`` changes for this trial besides returning values.
    """

    number: int
    params: Params
    values: Params
    folder: str
    name: str
    role: str = SEARCH
    resume_from: str | None = None
    arguments: Params | None = None
    changes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation(RankMessage):
    """One evaluation of a training, with rank 0's decision whether the training continues.

    Attributes:
        step: Training step.
        values: Objective value(s), which may be nan or inf; empty if the trial failed here.
        state: RUNNING if the training continues; PRUNED or FAIL if it stops.
        saves_checkpoint: A pruned training writes a checkpoint, so that another trial can resume the training.
    """

    step: int
    metrics: Params
    values: tuple[float, ...] = ()
    state: TrialState = TrialState.RUNNING
    failure: Failure | None = None
    saves_checkpoint: bool = False


@dataclass(frozen=True)
class TrialOutcome(RankMessage):
    """How a trial ended.

    Attributes:
        state: COMPLETE, PRUNED or FAIL.
        values: Objective value(s) of the scored evaluation; empty if the trial failed.
        metrics: All metrics of the scored evaluation.
        seconds: Wall-clock time.
        peak_memory: Bytes while the trial ran; of the device, or of the process on a CPU.
        trainable_params: Parameters that the model trains; 0 if it was not made.
        step: Training steps done.
        trained: Share of the trial's own training that was done, in [0, 1].
        in_training: The scored evaluation was made in the training, so that its checkpoint has the scored model.
        checkpoint: Folder that holds exactly the scored model; None if there is none on disk.
        found: Arguments by name that the Trainer itself changed while it trained.
        attributes: User attributes that ``model_init`` set on the trial.
    """

    state: TrialState
    values: tuple[float, ...] = ()
    metrics: Params = field(default_factory=dict)
    failure: Failure | None = None
    seconds: float = 0.0
    peak_memory: int = 0
    trainable_params: int = 0
    step: int = 0
    trained: float = 0.0
    in_training: bool = True
    checkpoint: str | None = None
    found: Params = field(default_factory=dict)
    attributes: Params = field(default_factory=dict)


class SharedTrial(FixedTrial):
    """The trial that ``model_init`` and callbacks get on every rank, with the params that rank 0 sampled."""

    @property
    def params(self) -> Params:
        """Every hyperparameter, suggested yet or not."""
        return dict(self._params)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._params:
            raise SearchSpaceError(
                f"model_init suggests {name!r}, which was not sampled for trial {self.number} (sampled: "
                f"{sorted(self._params)}). Let model_init suggest the same hyperparameters whenever hp_space returns "
                "the same values."
            )
        return super()._suggest(name, distribution)


@dataclass
class EvaluationMonitor:
    """Scores each evaluation of a training and stops the training, on all ranks, where rank 0 decides so.

    Attributes:
        report: Called on rank 0 with the share of the training that is done, in 1..FULL_TRAINING, the objective
            value(s), and the bytes of this rank's peak memory; returns whether to stop the trial. None stops no trial.
        should_pause: Called on rank 0 with the Trainer of a trial that is to be stopped; returns whether to save a
            checkpoint from which the trial can be resumed. None saves none.
        evaluations: All evaluations so far.
        memory: Measures the training.
    """

    objective: Objective
    group: ProcessGroup
    report: Callable[[int, tuple[float, ...], int], bool] | None = None
    should_pause: Callable[["Trainer"], bool] | None = None
    evaluations: list[Evaluation] = field(default_factory=list, init=False)
    memory: PeakMemory = field(default_factory=PeakMemory, init=False)
    # Of the weights that the last evaluation scored; empty where they are not compared.
    _fingerprint: str = field(default="", init=False)

    def __call__(self, trainer: "Trainer", metrics: Mapping[str, Any]) -> None:
        """Scores one evaluation; called on all ranks at the same step."""
        decided = self._decide(trainer, metrics).to_json() if self.group.is_main else None
        # With the metrics of this rank, so that a loss which is NaN on one rank alone fails the trial.
        evaluation = replace(Evaluation.from_json(self.group.broadcast(decided)), metrics=plain(metrics))
        self.evaluations.append(evaluation)
        # Ranks that found different answers would wait for each other.
        if self.group.size == 1 and may_change_weights_at_the_end(trainer):
            self._fingerprint = weights_fingerprint(trainer.model)
        if evaluation.state == TrialState.RUNNING:
            return
        trainer.control.should_training_stop = True
        trainer.control.should_save = evaluation.saves_checkpoint
        if evaluation.saves_checkpoint:
            make_saving_optional(trainer)

    def is_current(self, trainer: "Trainer") -> bool:
        """Whether the model still has the weights of the last evaluation: a callback may average them at the end."""
        return not self._fingerprint or self._fingerprint == weights_fingerprint(trainer.model)

    def _decide(self, trainer: "Trainer", metrics: Mapping[str, Any]) -> Evaluation:
        """Scores an evaluation on rank 0; an exception fails the trial, since the other ranks wait for a decision."""
        step, max_steps = int(trainer.state.global_step), trainer.state.max_steps
        evaluation = Evaluation(step, plain(metrics))
        prunes = pauses = False
        try:
            values = self.objective(metrics)
            if failure := divergence(trainer, metrics, self.objective.undefined, step):
                return replace(evaluation, state=TrialState.FAIL, failure=failure)
            if self.report is not None:
                peak = self.memory.so_far()
                prunes = self.report(curve_step(step, max_steps), values, peak) and step < max_steps
            if prunes and self.should_pause is not None:
                pauses = self.should_pause(trainer)
        except Exception as error:
            return replace(evaluation, state=TrialState.FAIL, failure=Failure.from_error(error, step=step))
        state = TrialState.PRUNED if prunes else TrialState.RUNNING
        return replace(evaluation, values=values, state=state, saves_checkpoint=pauses)


def run_trial(trainer: "Trainer", plan: TrialPlan, monitor: EvaluationMonitor) -> tuple[TrialOutcome, Exception | None]:
    """Trains one configuration on this rank, with a Trainer that calls the monitor at each evaluation.

    Returns:
        The outcome, and the exception that the trial failed with. KeyboardInterrupt and SystemExit pass through.
    """
    started, error = time.perf_counter(), None
    shared = SharedTrial(plan.params, plan.number)
    allow_shared_weights(trainer)
    with monitor.memory as memory:
        try:
            outcome = _train(trainer, plan, monitor, shared)
        except Exception as caught:
            # With several ranks the others are still training, so a TrialPruned of user code is a failure there.
            if isinstance(caught, TrialPruned) and monitor.group.size == 1:
                last = monitor.evaluations[-1] if monitor.evaluations else Evaluation(0, {})
                outcome = TrialOutcome(TrialState.PRUNED, last.values, last.metrics)
            else:
                error = caught
                failure = Failure.from_error(caught, rank=monitor.group.rank, step=trainer.state.global_step)
                outcome = TrialOutcome(TrialState.FAIL, failure=failure)
    step = trainer.state.global_step
    outcome = replace(
        outcome,
        seconds=time.perf_counter() - started,
        peak_memory=memory.peak,
        trainable_params=0 if getattr(trainer, "model", None) is None else count_parameters(trainer.model)[1],
        step=step,
        trained=min(1.0, step / max(1, trainer.state.max_steps)),
        found={} if error is not None else found_arguments(trainer),
        attributes=plain(shared.user_attrs),
    )
    return outcome, error


def _train(trainer: "Trainer", plan: TrialPlan, monitor: EvaluationMonitor, shared: SharedTrial) -> TrialOutcome:
    given: Params = {}
    if plan.params and getattr(trainer, "model_init", None) is not None:
        given["trial"] = shared
    if plan.resume_from is not None:
        given["resume_from_checkpoint"] = plan.resume_from
    trainer.train(**given)
    last = monitor.evaluations[-1] if monitor.evaluations else None
    if last is not None and last.failure is not None:
        return TrialOutcome(TrialState.FAIL, failure=last.failure)
    if last is not None and last.state == TrialState.PRUNED:
        return TrialOutcome(TrialState.PRUNED, last.values, last.metrics)
    step, scored = trainer.state.global_step, _scored_in_training(trainer, monitor)
    in_training = scored is not None
    if scored is None:
        metrics = trainer.evaluate()
        scored = Evaluation(step, plain(metrics), monitor.objective(metrics))
    failure = divergence(trainer, scored.metrics, monitor.objective.undefined, step)
    if failure := failure or no_objective(scored.values, step):
        return TrialOutcome(TrialState.FAIL, failure=failure)
    return TrialOutcome(TrialState.COMPLETE, scored.values, scored.metrics, in_training=in_training)


def _scored_in_training(trainer: "Trainer", monitor: EvaluationMonitor) -> Evaluation | None:
    """Returns the evaluation of exactly the model that the training ended with; None if the training made none."""
    state, objective = trainer.state, monitor.objective
    evaluations = _with_earlier(trainer, monitor)
    if trainer.args.load_best_model_at_end and evaluations:
        at_best = [each for each in evaluations if each.step == state.best_global_step]
        if at_best:
            return at_best[-1]
        finite = [each for each in evaluations if _are_finite(each.values)]
        if finite and len(objective.directions) == 1:
            best_of = max if objective.directions[0] == MAXIMIZE else min
            return best_of(finite, key=lambda evaluation: evaluation.values[0])
    if evaluations and evaluations[-1].step == state.global_step and monitor.is_current(trainer):
        return evaluations[-1]
    return None


def _are_finite(values: tuple[float, ...]) -> bool:
    return all(map(math.isfinite, values))


def _with_earlier(trainer: "Trainer", monitor: EvaluationMonitor) -> list[Evaluation]:
    """Adds the evaluations that a resumed training made before its checkpoint, from the Trainer's own log."""
    known = {evaluation.step for evaluation in monitor.evaluations}
    logged: dict[int, Params] = {}
    for entry in trainer.state.log_history:
        if entry.get("step") not in known and any(name.startswith("eval_") for name in entry):
            logged.setdefault(int(entry["step"]), {}).update(entry)
    earlier = []
    for step, metrics in logged.items():
        try:
            earlier.append(Evaluation(step, metrics, monitor.objective(metrics)))
        except ObjectiveError:
            continue  # an evaluation of other data, which lacks the metric
    return sorted([*earlier, *monitor.evaluations], key=lambda evaluation: evaluation.step)


def stored_trial(trial: optuna.Trial) -> FrozenTrial:
    """Returns a trial as it is in the storage, with what it reported before an interruption."""
    return trial.study._storage.get_trial(trial._trial_id)


class PruningReporter:
    """Reports the learning curve of the running trial, and stops it where the pruner, a limit or the time says so.

    A resumed training repeats evaluations: each point is stored once, and the pruner is asked once about each. The
    pruner never stops the baseline and confirmations, since others are compared with them.
    """

    def __init__(self, trial: optuna.Trial, *, may_prune: bool, out_of_time: Callable[[], bool]) -> None:
        self._trial, self._may_prune, self._out_of_time = trial, may_prune, out_of_time
        stored = stored_trial(trial)
        self._reported = dict(stored.intermediate_values)
        resumed = stored.user_attrs.get(CONTINUES)
        trials = trial.study.get_trials(deepcopy=False)
        # The last point of the paused trial that this trial resumes.
        self._start = 0 if resumed is None else trials[resumed].last_step or 0

    def report(self, step: int, values: tuple[float, ...], *, exceeds: bool = False) -> bool:
        """Stores the objective at a step in 1..FULL_TRAINING and returns whether the trial is stopped.

        Optuna stores no learning curves of several objectives, so no pruner stops trials then. A value that is no
        finite number is not stored, and no pruner is asked about it: a metric may have no value at the beginning.

        Args:
            step: In 1..FULL_TRAINING.
            values: The objective(s).
            exceeds: The trial needs more than ``constraints=`` allows, which no more training would change.
        """
        if step <= self._start:
            return self._out_of_time() and self._stop(step, TIMEOUT)
        furthest = max(self._reported, default=0)
        is_finite = _are_finite(values)
        if is_finite and len(values) == 1:
            self._store(step, values[0])
        if step >= FULL_TRAINING:
            return False
        if self._trial.user_attrs.get(STOPPED) == step:
            return True  # interrupted between the decision and the end of the trial
        is_new = step >= furthest  # below that the trial was judged before an interruption
        if is_new and exceeds:
            return self._stop(step, LIMIT)
        if is_new and is_finite and self._may_prune and self._trial.should_prune():
            return self._stop(step)
        return self._out_of_time() and self._stop(step, TIMEOUT)

    def _stop(self, step: int, why: str | None = None) -> bool:
        """Stores that the trial is stopped, and the reason where the pruner has stored none; returns True."""
        if why is not None:
            reason: Params = {"reason": why, "fidelity": step / FULL_TRAINING}
            self._trial.study._storage.set_trial_system_attr(self._trial._trial_id, STOP, reason)
        self._trial.set_user_attr(STOPPED, step)
        return True

    def _store(self, step: int, value: float) -> None:
        if step not in self._reported:
            self._trial.report(value, step)
        elif self._reported[step] != value:
            # A restarted training may give another value than before; `Trial.report` would keep the first.
            self._trial.study._storage.set_trial_intermediate_value(self._trial._trial_id, step, value)
        self._reported[step] = value
