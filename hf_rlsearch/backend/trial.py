"""One trial on one rank: train, evaluate, report, stop when told; never raise through a collective."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna import TrialPruned

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.distributed import ProcessGroup
from hf_rlsearch.backend.failures import NAN, Failure, diverged
from hf_rlsearch.backend.memory import PeakMemory
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.plain_data import plain
from hf_rlsearch.backend.plan import Plan, SharedTrial
from hf_rlsearch.backend.saving import save_or_leave
from hf_rlsearch.errors import ObjectiveError

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
# The axis of learning curves: this many units are the whole of a trial's own training, whatever its batch size.
FULL_TRAINING = 10_000


@dataclass
class Outcome:
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


class Monitor:
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
        self, plan: Plan, objective: Objective, group: ProcessGroup, report: Report, pauses: Pauses | None = None
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
                save_or_leave(trainer)

    def _judge(self, trainer: Any, metrics: Mapping[str, Any]) -> Params:
        """Rank 0's decision on one evaluation, as plain data; its own exceptions become a failed trial."""
        state = trainer.state
        step = int(state.global_step)
        try:
            values = self._objective(metrics)
            reason = diverged(values, metrics)
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


def run_trial(trainer: Any, plan: Plan, monitor: Monitor, objective: Objective) -> tuple[Outcome, Exception | None]:
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
            outcome = Outcome(status=FAILED, failure=failure)
    outcome.seconds = time.perf_counter() - begun
    outcome.peak_memory = memory.peak
    outcome.step = _step(trainer) or 0
    outcome.trained = min(1.0, outcome.step / max(1, getattr(getattr(trainer, "state", None), "max_steps", 0) or 0))
    return outcome, error


def _train(trainer: Any, plan: Plan, monitor: Monitor, objective: Objective) -> Outcome:
    trial = SharedTrial(plan.params, plan.number) if plan.params else None
    given: Params = {} if trial is None or getattr(trainer, "model_init", None) is None else {"trial": trial}
    if plan.resume_from is not None:
        given["resume_from_checkpoint"] = plan.resume_from
    trainer.train(**given)
    if monitor.failure is not None:
        return Outcome(status=FAILED, failure=monitor.failure)
    if monitor.pruned:
        last = monitor.evaluations[-1]
        return Outcome(status=PRUNED, values=last.values, metrics=plain(last.metrics))
    return _complete(trainer, _scored(trainer, monitor, objective))


def _complete(trainer: Any, scored: Evaluation) -> Outcome:
    reason = diverged(scored.values, scored.metrics)
    if reason is not None:
        return Outcome(status=FAILED, failure=Failure(kind=NAN, reason=f"Diverged: {reason}", step=_step(trainer)))
    return Outcome(status=COMPLETE, values=scored.values, metrics=plain(scored.metrics))


def _gave_up(trainer: Any, monitor: Monitor, error: TrialPruned) -> tuple[Outcome, Exception | None]:
    """A trial that model_init or a callback ended itself; a rank that does so alone has failed the others."""
    if int(getattr(trainer.args, "world_size", 1)) > 1:
        return Outcome(
            status=FAILED, failure=Failure.from_error(error, rank=_rank(trainer), step=_step(trainer))
        ), error
    if not monitor.evaluations:
        return Outcome(status=PRUNED), None
    last = monitor.evaluations[-1]
    return Outcome(status=PRUNED, values=last.values, metrics=plain(last.metrics)), None


def _scored(trainer: Any, monitor: Monitor, objective: Objective) -> Evaluation:
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
