"""Rank 0's part of a search: what to train next, what became of it, when to stop."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import SearchFailed
from hf_rlsearch.observation.trial_attributes import (
    BASELINE,
    CHECKPOINT,
    CONFIRM,
    CONTINUES,
    FAILURE,
    FULL_TRAINING,
    HYPERPARAMETERS,
    METRICS,
    OBJECTIVE,
    OWNER,
    PAUSED,
    PEAK_MEMORY,
    REEVALUATES,
    RESIDENT_MEMORY,
    ROLE,
    SEARCH,
    SECONDS,
    SEED,
    SPENT,
    STARTED_AT,
    STEPS,
    STOPPED,
    TRAINED,
    WORLD_SIZE,
    finished,
    newly_spent,
    role,
)
from hf_rlsearch.optuna import confirmation as confirm
from hf_rlsearch.optuna.pruner import RLPruner
from hf_rlsearch.report import explain
from hf_rlsearch.trainer.search.budget import CostModel, RemainingBudget
from hf_rlsearch.trainer.search.distributed import RUN, STOP
from hf_rlsearch.trainer.search.leaderboard import Leaderboard
from hf_rlsearch.trainer.search.planner import Planner
from hf_rlsearch.trainer.search.trial import PruningReporter, TrialOutcome, TrialPlan
from hf_rlsearch.trainer.session.arguments import plain
from hf_rlsearch.trainer.session.failures import Failure, discard_reports, read_report
from hf_rlsearch.trainer.session.progress import Progress, TrialSummary
from hf_rlsearch.trainer.session.seeds_and_memory import resident_memory
from hf_rlsearch.trainer.setup.config import RL_PRUNER, UNSET_TRIALS, SearchConfig
from hf_rlsearch.trainer.setup.default_space import DefaultSpace
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler
from hf_rlsearch.trainer.setup.objective import Objective
from hf_rlsearch.trainer.storage.paused import PausedTrials, curve_step
from hf_rlsearch.trainer.storage.resume import is_leader, requeue_interrupted, trials_of_other_processes
from hf_rlsearch.trainer.storage.study import OpenedStudy


def enqueue_baseline(study: optuna.Study, configurations: ConfigurationSampler, config: Any) -> None:
    """Puts the user's own configuration into the queue, unless another process just has.

    Args:
        study: Of the search.
        configurations: Knows the user's arguments.
        config: Of the user's model.
    """
    if any(role(trial) == BASELINE for trial in study.get_trials(deepcopy=False)):
        return
    recorded, _ = configurations.baseline_params(config)
    study.enqueue_trial(recorded, user_attrs={ROLE: BASELINE})


def enqueue_confirmation(
    study: optuna.Study, leaderboard: Leaderboard, configurations: ConfigurationSampler, settings: SearchConfig
) -> bool:
    """Puts the next confirmation into the queue; False when there is none to make.

    Args:
        study: Of the search.
        leaderboard: What was found so far.
        configurations: Knows the user's arguments.
        settings: Of the search.
    """
    if settings.confirm == 0 or leaderboard.is_multi:
        return False
    trials = study.get_trials(deepcopy=False)
    if any(t.state == TrialState.WAITING and role(t) == CONFIRM for t in trials):
        return True
    own = next((t for t in trials if role(t) == BASELINE and t.state == TrialState.COMPLETE), None)
    numbers = confirm.candidates(leaderboard.ranking(), own, settings.confirm)
    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    run = confirm.next_seed(numbers, trials, seed=int(configurations.frozen.value("seed")), maximize=maximize)
    if run is None:
        return False
    number, seed = run
    attributes = {ROLE: CONFIRM, REEVALUATES: number, SEED: seed}
    study.enqueue_trial(trials[number].params, user_attrs=attributes)
    return True


def remarks(
    study: optuna.Study,
    configurations: ConfigurationSampler,
    objective: Objective,
    settings: SearchConfig,
    world_size: int,
) -> Iterator[str]:
    """One line each: the objective, and what will not go as one may think.

    Args:
        study: Of the search.
        configurations: With the user's arguments and the space.
        objective: What is optimised.
        settings: Of the search.
        world_size: Number of processes.
    """
    yield f"Objective: {', '.join(objective.names)}, {', '.join(objective.directions)} ({objective.why})."
    if isinstance(settings.hp_space, DefaultSpace):
        yield f"No hp_space given: the published ranges are searched ({settings.hp_space})."
    others = {t.user_attrs.get(WORLD_SIZE, world_size) for t in finished(study)} - {world_size}
    if others:
        yield (
            f"Earlier trials ran on {sorted(others)} processes, this run on {world_size}: effective batch sizes, and "
            "with them objectives, are not comparable."
        )
    evaluates = plain(getattr(configurations.frozen.original(), "eval_strategy", None))
    silent = evaluates == "no" and "eval_strategy" not in configurations.searched
    if silent and settings.pruner not in (None, RL_PRUNER):
        yield "The pruner stops no trial, because eval_strategy='no' evaluates none during training."
    elif not silent and isinstance(study.pruner, RLPruner) and settings.pruner == RL_PRUNER:
        yield "The agent may stop trials at their evaluations; pruner=None trains every one to its end."


def reason_to_stop(
    study: optuna.Study, settings: SearchConfig, objective: Objective, leaderboard: Leaderboard, deadline: float
) -> str | None:
    """Why no further trial is to begin, None if one is.

    Args:
        study: Of the search.
        settings: Of the search.
        objective: What is optimised.
        leaderboard: What was found so far.
        deadline: ``time.monotonic()`` at which the time is up.
    """
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    n_done = len([t for t in [*finished(study), *trials_of_other_processes(study)] if role(t) != CONFIRM])
    # What was begun by this search and interrupted is finished; what others have put into the queue may wait.
    if n_done >= settings.max_trials and not any(OWNER in t.user_attrs for t in waiting):
        return "n_trials"
    if getattr(study, "_stop_flag", False):
        return "study.stop"
    if time.monotonic() >= deadline:
        return "timeout"
    if settings.budget is not None and leaderboard.spent() >= settings.budget:
        return "budget"
    target, ranking = settings.target, leaderboard.ranking()
    if target is not None and ranking and not objective.better(target, float(ranking[0].values[0])):
        return "target"
    return None


@contextmanager
def optimize_loop(study: optuna.Study) -> Iterator[None]:
    """Lets samplers and callbacks call ``study.stop()``, as inside ``study.optimize``."""
    inner: Any = study
    inner._stop_flag, inner._thread_local.in_optimize_loop = False, True
    try:
        yield
    finally:
        inner._thread_local.in_optimize_loop = False


@contextmanager
def stop_signals() -> Iterator[None]:
    """Lets SIGTERM end a search as Ctrl-C does: the Trainer is put back and the storage stays consistent."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ended(
    plan: TrialPlan | None, told: FrozenTrial, outcome: TrialOutcome, leaderboard: Leaderboard, world_size: int
) -> TrialSummary:
    """The columns of a trial's line.

    Args:
        plan: Of the trial; None if it ended before there was one.
        told: The trial, as it is in the study.
        outcome: How it ended.
        leaderboard: What was found so far, this trial included.
        world_size: Number of processes.
    """
    ranking, none = leaderboard.ranking(), "" if leaderboard.is_multi else "-"
    best = f"{ranking[0].values[0]:.4g} (trial {ranking[0].number})" if ranking else none
    result = _failed(outcome, world_size) or _result(told, outcome)
    reached = max(told.intermediate_values, default=0) / FULL_TRAINING
    return TrialSummary(
        number=told.number,
        role=role(told),
        params=told.user_attrs.get(HYPERPARAMETERS, told.params),
        result=result,
        best=best,
        fidelity=1.0 if outcome.state == TrialState.COMPLETE else reached,
        seconds=outcome.seconds,
    )


def _failed(outcome: TrialOutcome, world_size: int) -> str:
    """How it failed; empty if it did not."""
    if outcome.failure is None:
        return ""
    at = f" at training step {outcome.failure.step}" if outcome.failure.step else ""
    where = f" on rank {outcome.failure.rank}" if world_size > 1 else ""
    return f"failed{at}{where}: {outcome.failure.reason}"


def _result(told: FrozenTrial, outcome: TrialOutcome) -> str:
    values = ", ".join(f"{value:.4g}" for value in outcome.values)
    how = "paused" if PAUSED in told.user_attrs else "pruned"
    return values if outcome.state == TrialState.COMPLETE else f"{how} at {values or 'the start'}"


class FailureLimit:
    """Counts the trials that have failed since the search was started or continued.

    Who starts a search again after too many failures has mended something. Diverged trials do not count, they are an
    answer.

    Args:
        study: Of the search.
        settings: Of the search.
    """

    def __init__(self, study: optuna.Study, settings: SearchConfig) -> None:
        self._study, self._max_trials = study, settings.max_trials
        n_trials = settings.max_trials if settings.n_trials is not None else UNSET_TRIALS
        self._max_failed_trials = settings.max_failed_trials or max(3, n_trials // 4)
        self._n_before = len(self._failed())

    def check(self, error: BaseException | None) -> None:
        """Ends the search if there are too many.

        Raises:
            SearchFailed: With the last reason, from ``error``.
        """
        failed = self._failed()[self._n_before :]
        if len(failed) < self._max_failed_trials:
            return
        last = (failed[-1].user_attrs.get(FAILURE) or {}).get("reason", "unknown")
        raise SearchFailed(
            f"{len(failed)} of {self._max_trials} trials have failed, the last one with: {last}. The search "
            f"stops at {self._max_failed_trials} (max_failed_trials). The finished trials are kept in study "
            f"{self._study.study_name!r}; see the attribute {FAILURE!r} of each trial for its traceback."
        ) from error

    def _failed(self) -> list[FrozenTrial]:
        return [t for t in finished(self._study) if t.state == TrialState.FAIL and _kind(t) != "nan"]


def _kind(trial: FrozenTrial) -> str:
    return str((trial.user_attrs.get(FAILURE) or {}).get("kind", "error"))


# User attribute of the study: what its note in the dashboard said when the search last ended.
_SUMMARY = "summary"


class SearchCoordinator:
    """Owns study, sampler and pruner.

    Args:
        opened: The study.
        configurations: Samples configurations.
        objective: What is optimised.
        settings: Of the search.
        config: Of the user's model, for the hyperparameters of his own configuration.
        n_rows: Of the training data, None where they have no length.
        world_size: Number of processes.
        alone: No other search can be working on the study.
        quiet: Nothing is printed.
    """

    def __init__(
        self,
        opened: OpenedStudy,
        configurations: ConfigurationSampler,
        objective: Objective,
        settings: SearchConfig,
        *,
        config: Any,
        n_rows: int | None,
        world_size: int,
        alone: bool,
        quiet: bool,
    ) -> None:
        self.study, self.folder = opened.study, opened.folder
        self._configurations, self._objective, self._settings = configurations, objective, settings
        self._world_size, self._alone = world_size, alone
        self._trial: optuna.Trial | None = None
        self._curve: PruningReporter | None = None
        self._deadline = math.inf if settings.timeout is None else time.monotonic() + settings.timeout
        self._pausing = PausedTrials(self.study, settings, minimize=objective.directions[0] == "minimize")
        self._planner = Planner(
            self.study,
            self.folder,
            configurations,
            settings,
            self._pausing,
            config=config,
            n_rows=n_rows,
            world_size=world_size,
        )
        self.leaderboard = Leaderboard(self.study, objective, settings, self._pausing)
        prices = CostModel(configurations, n_rows, world_size)
        self._allowance = RemainingBudget(self.study, settings, self._deadline, prices)
        self._may_be_finished = opened.resumed and alone
        again = requeue_interrupted(self.study, alone=alone)
        if opened.resumed and settings.sampler is not None:
            # A seeded sampler would draw again what it drew in the first run.
            self.study.sampler.reseed_rng()
        n_done = len([t for t in finished(self.study) if role(t) != CONFIRM])
        _, own = configurations.baseline_params(config)
        self.progress = Progress(n_trials=settings.displayed_n_trials, n_done=n_done, baseline=own, quiet=quiet)
        for line in (
            opened.note,
            *remarks(self.study, configurations, objective, settings, world_size),
            *(f"Trial {n} was interrupted and is taken up again." for n in again),
        ):
            self.progress.say(line)
        self.tolerance = FailureLimit(self.study, settings)
        if OBJECTIVE not in self.study.user_attrs:
            self.study.set_user_attr(OBJECTIVE, objective.to_json())
        if opened.resumed and alone:
            self.leaderboard.discard_checkpoints()
        if settings.baseline and not self.study.get_trials(deepcopy=False) and (alone or is_leader(self.study)):
            enqueue_baseline(self.study, configurations, config)

    @property
    def role(self) -> str:
        """The role of the running trial."""
        return str(self._trial.user_attrs.get(ROLE, SEARCH)) if self._trial is not None else SEARCH

    @property
    def hyperparameters(self) -> Params:
        """The exact values of the running trial."""
        return dict(self._trial.user_attrs.get(HYPERPARAMETERS, {})) if self._trial is not None else {}

    def next(self) -> Params:
        """The next message to all ranks: RUN with a plan, or STOP with the reason.

        Raises:
            SearchFailed: Too many trials have failed.
        """
        while True:
            if not self._alone:
                # What another process was killed over is not left to the next start.
                requeue_interrupted(self.study, alone=False)
            reason = reason_to_stop(self.study, self._settings, self._objective, self.leaderboard, self._deadline)
            if reason is not None and (reason == "timeout" or not self._confirms()):
                if self._may_be_finished and reason != "timeout":
                    self.progress.say(
                        f"This search is finished ({reason}): its stored result is given back and nothing is trained. "
                        "A larger n_trials or budget continues it, resume=False begins a new search."
                    )
                return {"kind": STOP, "reason": reason}
            self._may_be_finished = False
            self._allowance.tell()
            self._trial = self.study.ask()
            if not self._alone and self._one_too_many(self._trial):
                # Back into the queue, for a search of more trials.
                self.study._storage.set_trial_state_values(self._trial._trial_id, TrialState.WAITING)
                continue
            try:
                plan = self._begin(self._trial)
            except optuna.TrialPruned:
                # hp_space or model_init refuses the combination: no failure, and nothing was trained.
                self.record(None, TrialOutcome(TrialState.PRUNED))
            except Exception as error:
                self.record(None, TrialOutcome(TrialState.FAIL, failure=Failure.from_error(error)))
                self.tolerance.check(error)
            else:
                if plan is not None:
                    return {"kind": RUN, **plan.to_json()}
                self.tolerance.check(None)

    def _one_too_many(self, trial: optuna.Trial) -> bool:
        """Whether other processes have begun the last trials since this one looked how many are left."""
        if OWNER in trial.user_attrs or trial.user_attrs.get(ROLE) == CONFIRM:
            return False
        begun = [*finished(self.study), *trials_of_other_processes(self.study)]
        before = [t for t in begun if t.number < trial.number and role(t) != CONFIRM]
        return len(before) >= self._settings.max_trials

    def report(self, step: int, value: float) -> bool:
        """Stores a point of the running trial's learning curve; True if the pruner stops the trial."""
        assert self._curve is not None
        return self._curve.report(step, value)

    def should_pause(self, trainer: Any) -> bool:
        """Whether the running trial, which is to stop, leaves a checkpoint behind that it can go on from."""
        assert self._trial is not None
        return self._pausing.should_pause(self.study._storage.get_trial(self._trial._trial_id), trainer)

    def record(self, plan: TrialPlan | None, outcome: TrialOutcome) -> None:
        """Writes a finished trial to the storage, attributes first, so that a finished trial is always whole."""
        trial = self._trial
        assert trial is not None
        attributes: Params = {
            SECONDS: outcome.seconds,
            PEAK_MEMORY: outcome.peak_memory,
            RESIDENT_MEMORY: resident_memory(),
            STEPS: outcome.step,
            METRICS: outcome.metrics,
            CHECKPOINT: outcome.checkpoint,
            FAILURE: None if outcome.failure is None else outcome.failure.to_json(),
            TRAINED: outcome.trained,
            SPENT: newly_spent(trial, outcome.trained),
            PAUSED: self._paused(trial) if outcome.state == TrialState.PRUNED else None,
        }
        for name, value in attributes.items():
            if value not in (None, {}):
                trial.set_user_attr(name, value)
        if outcome.state == TrialState.COMPLETE:
            told = self.study.tell(trial, list(outcome.values), skip_if_finished=True)
        else:
            told = self.study.tell(trial, state=outcome.state, skip_if_finished=True)
        if plan is not None:
            discard_reports(plan.folder)
        self._trial = None
        _leave_note(trial, lambda: explain(self.study, told.number).to_text())
        line = ended(plan, told, outcome, self.leaderboard, self._world_size)
        self.progress.trial_finished(replace(line, seconds_left=self._allowance.seconds_left()))
        self.leaderboard.discard_checkpoints()

    def conclude(self, summary: str) -> None:
        """Says the result, and leaves it as the study's note.

        Args:
            summary: Lines.
        """
        self.progress.close(finished=True)
        self.progress.say(summary)
        _leave_note(self.study, lambda: summary, in_place_of=self.study.user_attrs.get(_SUMMARY, ""))
        self.study.set_user_attr(_SUMMARY, summary)

    def _confirms(self) -> bool:
        """Puts the next confirmation into the queue; False when there is none to make."""
        return enqueue_confirmation(self.study, self.leaderboard, self._configurations, self._settings)

    def _begin(self, trial: optuna.Trial) -> TrialPlan | None:
        """The plan of a trial; None for one that had ended already when the process died, which is recorded instead."""
        plan, exact = self._planner.plan(trial)
        known = self.study._storage.get_trial(trial._trial_id)
        failure = read_report(plan.folder, plan.number)
        if failure is not None:
            trained = max(known.intermediate_values, default=0) / FULL_TRAINING
            self.record(plan, TrialOutcome(TrialState.FAIL, failure=failure, trained=trained))
            return None
        self._curve = PruningReporter(trial, may_prune=plan.role == SEARCH and not self.leaderboard.is_multi)
        earlier = known.user_attrs.get(CONTINUES)
        stopped = known.user_attrs.get(STOPPED)
        if stopped is not None and plan.resume_from is not None and curve_step(plan.resume_from) == stopped:
            value = known.intermediate_values[stopped]
            self.record(plan, TrialOutcome(TrialState.PRUNED, values=(value,), trained=stopped / FULL_TRAINING))
            return None
        if earlier is not None and known.user_attrs[STARTED_AT]:
            share = known.user_attrs[STARTED_AT] / FULL_TRAINING
            self.progress.say(f"Trial {plan.number} goes on with trial {earlier}, of which {share:.0%} are trained.")
        self.progress.trial_started(plan.number, plan.role, exact)
        return plan

    def _paused(self, trial: optuna.Trial) -> str | None:
        """The checkpoint that a trial can go on from which the pruner has stopped."""
        stopped = trial.user_attrs.get(STOPPED)
        return None if stopped is None or not self._settings.max_paused else self._planner.checkpoint_at(trial, stopped)


def _leave_note(about: optuna.Study | optuna.Trial, text: Callable[[], str], *, in_place_of: str = "") -> None:
    """Writes a note for optuna-dashboard, where that is installed; what somebody else has written there stays.

    Args:
        about: The study, or a trial of it.
        text: Makes the lines of the note.
        in_place_of: The lines of an earlier note of ours.
    """
    try:
        from optuna_dashboard import get_note, save_note
    except ImportError:
        return
    if get_note(about) in ("", _as_markdown(in_place_of)):
        save_note(about, _as_markdown(text()))


def _as_markdown(lines: str) -> str:
    return lines.replace("\n", "\n\n")
