"""One trial on one rank: train, evaluate, report, stop when told; never raise through a collective."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna import TrialPruned
from optuna.distributions import BaseDistribution
from optuna.trial import FixedTrial

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ObjectiveError, SearchSpaceError
from hf_rlsearch.observation.trial_attributes import CONTINUES, FULL_TRAINING, STOPPED
from hf_rlsearch.trainer.search.distributed import ProcessGroup
from hf_rlsearch.trainer.session.arguments import plain
from hf_rlsearch.trainer.session.failures import NAN, Failure, divergence
from hf_rlsearch.trainer.session.seeds_and_memory import PeakMemory
from hf_rlsearch.trainer.setup.objective import Objective
from hf_rlsearch.trainer.storage.paused import make_saving_optional


@dataclass(frozen=True)
class TrialPlan:
    """What all ranks are to train next; travels as plain data.

    Attributes:
        number: The trial's number in the study.
        params: Every hyperparameter, those of ``model_init`` included; empty for the user's own arguments.
        values: What ``hp_space`` returned: training arguments by name.
        folder: Where the trial writes.
        name: What ``hp_name`` answered, or "run-<number>".
        role: "baseline" (the user's own arguments), "search" or "confirm".
        resume_from: A complete checkpoint of this trial, or of the one that it goes on with; None to begin anew.
    """

    number: int
    params: Params
    values: Params
    folder: str
    name: str
    role: str = "search"
    resume_from: str | None = None

    def to_json(self) -> Params:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TrialPlan":
        """The inverse of ``to_json``."""
        return cls(**data)


class SharedTrial(FixedTrial):
    """What ``model_init(trial)`` and callbacks see on every rank: all values are known, none is drawn.

    Args:
        params: Every hyperparameter of the trial.
        number: The trial's number.
    """

    def __init__(self, params: Params, number: int) -> None:
        super().__init__(dict(params), number)

    @property
    def params(self) -> Params:
        """Every hyperparameter, suggested yet or not."""
        return dict(self._params)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._params:
            raise SearchSpaceError(
                f"model_init asks for {name!r}, which was not drawn for trial {self.number} (drawn: "
                f"{sorted(self._params)}). Let it ask for the same hyperparameters whenever hp_space gives the same "
                "values."
            )
        return super()._suggest(name, distribution)


COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"


@dataclass
class TrialOutcome:
    """How a trial ended.

    Attributes:
        status: "complete", "pruned" or "failed".
        values: Objective value(s) of the scored evaluation; empty if failed.
        metrics: All metrics of the scored evaluation.
        failure: Set if failed.
        seconds: Wall-clock time on this rank.
        peak_memory: Bytes while the trial ran; of the device, or of the process on a CPU.
        step: Training steps done.
        trained: Share of the trial's own training that was done, in [0, 1].
        checkpoint: Folder that holds exactly the scored model, if one was written.
    """

    status: str
    values: tuple[float, ...] = ()
    metrics: Params = field(default_factory=dict)
    failure: Failure | None = None
    seconds: float = 0.0
    peak_memory: int = 0
    step: int = 0
    trained: float = 0.0
    checkpoint: str | None = None


@dataclass
class Evaluation:
    """One evaluation during training.

    Attributes:
        step: Training step.
        metrics: As the Trainer merged them.
        values: Objective value(s).
    """

    step: int
    metrics: Params
    values: tuple[float, ...]


# Called on rank 0 only with the fraction of training done, in 1..FULL_TRAINING, and the objective; True prunes the
# trial.
Report = Callable[[int, float], bool]

# Called on rank 0 only with the Trainer of a trial that is to stop; True keeps a checkpoint that it can go on from.
Pauses = Callable[[Any], bool]


class EvaluationMonitor:
    """Listens to the evaluations of one trial and tells all ranks whether to go on.

    Args:
        plan: The trial.
        objective: How evaluations are scored.
        group: The processes, which have to agree.
        report: Stores a point of the learning curve and asks the pruner; called on rank 0.
        pauses: Whether a trial that the pruner stops is to leave a checkpoint behind; called on rank 0. None where no
            trial is.
    """

    def __init__(
        self, plan: TrialPlan, objective: Objective, group: ProcessGroup, report: Report, pauses: Pauses | None = None
    ) -> None:
        self._plan, self._objective, self._group, self._report = plan, objective, group, report
        self._pauses = pauses
        self.evaluations: list[Evaluation] = []
        self.pruned = False
        self.failure: Failure | None = None

    def __call__(self, trainer: Any, metrics: Mapping[str, Any]) -> None:
        """Scores one evaluation; rank 0 decides, all ranks follow."""
        step = trainer.state.global_step
        decision = self._group.broadcast(self._judge(trainer, metrics) if self._group.is_main else None)
        self.evaluations.append(Evaluation(step, dict(metrics), tuple(decision["values"])))
        self.pruned = decision["stop"] == PRUNED
        if decision["failure"] is not None:
            self.failure = Failure(**decision["failure"])
        if decision["stop"] is not None:
            trainer.control.should_training_stop = True
            trainer.control.should_save = decision["pause"]
            if decision["pause"]:
                make_saving_optional(trainer)

    def _judge(self, trainer: Any, metrics: Mapping[str, Any]) -> Params:
        """Rank 0's decision on one evaluation, as plain data; its own exceptions become a failed trial."""
        state = trainer.state
        step = int(state.global_step)
        try:
            values = self._objective(metrics)
            reason = divergence(values, metrics)
            if reason is not None:
                failure = Failure(kind=NAN, reason=f"Diverged: {reason}", step=step)
                return _decision(FAILED, failure=failure)
            point = max(1, round(FULL_TRAINING * step / max(1, state.max_steps)))
            last = step >= state.max_steps
            prune = len(values) == 1 and self._report(point, values[0]) and not last
            pause = prune and self._pauses is not None and self._pauses(trainer)
        except Exception as error:
            return _decision(FAILED, failure=Failure.from_error(error, step=step))
        return _decision(PRUNED if prune else None, values, pause=pause)


def _decision(
    stop: str | None, values: tuple[float, ...] = (), *, failure: Failure | None = None, pause: bool = False
) -> Params:
    return {
        "stop": stop,
        "values": values,
        "failure": None if failure is None else failure.to_json(),
        "pause": pause,
    }


def run_trial(
    trainer: Any, plan: TrialPlan, monitor: EvaluationMonitor, objective: Objective
) -> tuple[TrialOutcome, Exception | None]:
    """Trains one configuration on this rank.

    Args:
        trainer: Prepared for this trial; reports to ``monitor``.
        plan: The trial.
        monitor: Holds what was evaluated.
        objective: How evaluations are scored.

    Returns:
        The outcome, and the exception that it failed with. KeyboardInterrupt and SystemExit pass through.
    """
    begun, error = time.perf_counter(), None
    with PeakMemory() as memory:
        try:
            outcome = _train(trainer, plan, monitor, objective)
        except TrialPruned as caught:
            outcome, error = _gave_up(trainer, monitor, caught)
        except Exception as caught:
            error = caught
            failure = Failure.from_error(caught, rank=_rank(trainer), step=_step(trainer))
            outcome = TrialOutcome(status=FAILED, failure=failure)
    outcome.seconds = time.perf_counter() - begun
    outcome.peak_memory = memory.peak
    outcome.step = _step(trainer) or 0
    outcome.trained = min(1.0, outcome.step / max(1, getattr(getattr(trainer, "state", None), "max_steps", 0) or 0))
    return outcome, error


def _train(trainer: Any, plan: TrialPlan, monitor: EvaluationMonitor, objective: Objective) -> TrialOutcome:
    trial = SharedTrial(plan.params, plan.number) if plan.params else None
    given: Params = {} if trial is None or getattr(trainer, "model_init", None) is None else {"trial": trial}
    if plan.resume_from is not None:
        given["resume_from_checkpoint"] = plan.resume_from
    trainer.train(**given)
    if monitor.failure is not None:
        return TrialOutcome(status=FAILED, failure=monitor.failure)
    if monitor.pruned:
        last = monitor.evaluations[-1]
        return TrialOutcome(status=PRUNED, values=last.values, metrics=plain(last.metrics))
    return _complete(trainer, _scored(trainer, monitor, objective))


def _complete(trainer: Any, scored: Evaluation) -> TrialOutcome:
    reason = divergence(scored.values, scored.metrics)
    if reason is not None:
        return TrialOutcome(status=FAILED, failure=Failure(kind=NAN, reason=f"Diverged: {reason}", step=_step(trainer)))
    return TrialOutcome(status=COMPLETE, values=scored.values, metrics=plain(scored.metrics))


def _gave_up(trainer: Any, monitor: EvaluationMonitor, error: TrialPruned) -> tuple[TrialOutcome, Exception | None]:
    """A trial that model_init or a callback ended itself; a rank that does so alone has failed the others."""
    if int(getattr(trainer.args, "world_size", 1)) > 1:
        return TrialOutcome(
            status=FAILED, failure=Failure.from_error(error, rank=_rank(trainer), step=_step(trainer))
        ), error
    if not monitor.evaluations:
        return TrialOutcome(status=PRUNED), None
    last = monitor.evaluations[-1]
    return TrialOutcome(status=PRUNED, values=last.values, metrics=plain(last.metrics)), None


def _scored(trainer: Any, monitor: EvaluationMonitor, objective: Objective) -> Evaluation:
    """The evaluation of exactly the model that the trial ends with."""
    state, evaluations = trainer.state, _with_earlier(trainer, monitor.evaluations, objective)
    if trainer.args.load_best_model_at_end and evaluations:
        at_best = [e for e in evaluations if e.step == state.best_global_step]
        if at_best:
            return at_best[-1]
        if len(objective.directions) == 1:
            best = evaluations[0]
            for evaluation in evaluations[1:]:
                best = evaluation if objective.better(evaluation.values[0], best.values[0]) else best
            return best
    if evaluations and evaluations[-1].step == state.global_step:
        return evaluations[-1]
    metrics = trainer.evaluate()
    return Evaluation(state.global_step, dict(metrics), objective(metrics))


def _with_earlier(trainer: Any, evaluations: list[Evaluation], objective: Objective) -> list[Evaluation]:
    """Adds the evaluations of a resumed trial that happened before its checkpoint, from the Trainer's own log."""
    known = {evaluation.step for evaluation in evaluations}
    earlier: dict[int, Params] = {}
    for entry in trainer.state.log_history:
        if entry.get("step") not in known and any(name.startswith("eval_") for name in entry):
            earlier.setdefault(entry["step"], {}).update(entry)
    found = []
    for step, metrics in earlier.items():
        try:
            found.append(Evaluation(step, metrics, objective(metrics)))
        except ObjectiveError:
            continue
    return sorted([*found, *evaluations], key=lambda evaluation: evaluation.step)


def _rank(trainer: Any) -> int:
    return int(getattr(trainer.args, "process_index", 0))


def _step(trainer: Any) -> int | None:
    return getattr(getattr(trainer, "state", None), "global_step", None)


class PruningReporter:
    """Points may come a second time after a kill: they are stored once, and the trial is not asked about twice.

    Args:
        trial: The running one, with what it reported before it was interrupted.
        judged: The pruner may stop it; the user's own configuration and confirmations are trained to their end: they
            are what others are compared to.
    """

    def __init__(self, trial: optuna.Trial, *, judged: bool) -> None:
        self._trial, self._judged = trial, judged
        known = trial.study._storage.get_trial(trial._trial_id)
        self._reported = dict(known.intermediate_values)
        earlier = known.user_attrs.get(CONTINUES)
        trials = trial.study.get_trials(deepcopy=False)
        # Where the trial was told to go on that this one goes on with.
        self._passed = 0 if earlier is None else max(trials[earlier].intermediate_values, default=0)

    def add(self, step: int, value: float) -> bool:
        """Stores a point; True if the pruner stops the trial.

        Args:
            step: Share of the trial's own training, in 1..FULL_TRAINING.
            value: Objective.
        """
        if step <= self._passed:
            return False
        furthest = max(self._reported, default=0)
        self._store(step, value)
        if step < furthest:
            # A resumed trial passed here before, and was told to go on.
            return False
        if not self._judged or step >= FULL_TRAINING:
            return False
        if self._trial.user_attrs.get(STOPPED) == step:
            return True  # killed before the stop was recorded
        stops = bool(self._trial.should_prune())
        if stops:
            self._trial.set_user_attr(STOPPED, step)
        return stops

    def _store(self, step: int, value: float) -> None:
        """A trial that is repeated, not continued, may come to another value than before."""
        if step not in self._reported:
            self._trial.report(value, step)
        elif self._reported[step] != value:
            self._trial.study._storage.set_trial_intermediate_value(self._trial._trial_id, step, value)
        self._reported[step] = value
