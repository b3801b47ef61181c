"""Runs the search on rank 0: asks Optuna for trials, records their outcomes, decides when to end."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import SearchFailed, StorageError
from hf_rlsearch.observation import trial_attributes as attr
from hf_rlsearch.observation.history import History
from hf_rlsearch.observation.trial_attributes import finished, n_trials_used, newly_spent, role, share_trained
from hf_rlsearch.optuna import RLSampler
from hf_rlsearch.optuna import confirmation as confirm
from hf_rlsearch.optuna.filters import is_exhausted
from hf_rlsearch.optuna.pruner import RLPruner
from hf_rlsearch.report import explain
from hf_rlsearch.report.format import exceeded, objectives, percent, show_params
from hf_rlsearch.space.presets import SMOOTHING
from hf_rlsearch.trainer.search.budget import Outlook, RemainingBudget
from hf_rlsearch.trainer.search.leaderboard import Leaderboard, rankable, ranking, trials_without_improvement
from hf_rlsearch.trainer.search.planner import Planner
from hf_rlsearch.trainer.search.result import SearchResult
from hf_rlsearch.trainer.search.trial import PruningReporter, TrialOutcome, TrialPlan, stored_trial
from hf_rlsearch.trainer.session.arguments import plain
from hf_rlsearch.trainer.session.compat import is_smoothed, without_effect
from hf_rlsearch.trainer.session.failures import DEVICE, NAN, OOM, DeviceLost, Failure
from hf_rlsearch.trainer.session.progress import Progress, TrialSummary
from hf_rlsearch.trainer.session.seeds_and_memory import resident_memory
from hf_rlsearch.trainer.setup.config import AUTO, RL_PRUNER, UNSET_TRIALS, SearchConfig
from hf_rlsearch.trainer.setup.constraints import MEMORY, excess, measured
from hf_rlsearch.trainer.setup.default_space import DefaultSpace
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler
from hf_rlsearch.trainer.setup.objective import Objective
from hf_rlsearch.trainer.storage import checkpoints
from hf_rlsearch.trainer.storage.paused import PausedTrials, checkpoint_curve_step
from hf_rlsearch.trainer.storage.resume import is_leader, may_be_mended, name_of_owner, trials_of_other_processes
from hf_rlsearch.trainer.storage.study import OpenedStudy

if TYPE_CHECKING:
    from transformers import Trainer


# Reason for which a search has ended, AUTO for ``patience="auto"`` -> what continues it.
_CONTINUES = {
    "space": "No other option",
    "target": "A harder target",
    "patience": "A larger patience",
    AUTO: "patience=None or a number of trials",
    "min_gain_per_hour": "A smaller one",
}


@dataclass(kw_only=True)
class SearchCoordinator:
    """Runs the search on rank 0.

    Attributes:
        may_be_finished: Nothing may be left to do: an earlier process alone has worked on the search.
    """

    study: optuna.Study
    settings: SearchConfig
    objective: Objective
    configurations: ConfigurationSampler
    planner: Planner
    leaderboard: Leaderboard
    budget: RemainingBudget
    outlook: Outlook
    paused: PausedTrials
    progress: Progress
    may_be_finished: bool
    # Whether an earlier run has begun the search and not come to its end.
    was_interrupted: bool = field(init=False, default=False)
    _n_failed_before: int = field(init=False)
    # Of the running trial.
    trial: optuna.Trial = field(init=False)
    reporter: PruningReporter = field(init=False)
    stopped_by: str = field(init=False, default="")
    _rest: str = field(init=False, default="")

    @property
    def is_shared(self) -> bool:
        """Whether other processes may work on the same study."""
        return self.settings.storage is not None

    @property
    def _limits(self) -> Mapping[str, float]:
        return self.settings.constraints or {}

    @property
    def _is_multi(self) -> bool:
        return len(self.study.directions) > 1

    @property
    def hyperparameters(self) -> Params:
        """The exact values of the running trial."""
        return dict(self.trial.user_attrs.get(attr.HYPERPARAMETERS, {}))

    def start(self, opened: OpenedStudy) -> None:
        """Prints the first messages, completes an interrupted start, and queues the first trials."""
        self._n_failed_before = len(self._failed_trials())
        for note in opened.note.splitlines():
            self.progress.say(note)
        checkpoints.check_stored_paths(self.study.get_trials(deepcopy=False), self.planner.folder)
        for message in self._startup_messages():
            self.progress.say(message)
        for trial in self.planner.lease.requeue():
            self.progress.say(f"Trial {trial.number} was interrupted and runs again.")
        if opened.resumed and self.settings.sampler is not None:
            # A seeded sampler would draw again what it drew in the first run.
            self.study.sampler.reseed_rng()
        self.was_interrupted = opened.resumed and not self.study.user_attrs.get(attr.STOPPED_BY)
        if self.study.user_attrs.get(attr.STOPPED_BY):
            for name in (attr.STOPPED_BY, attr.OUTLOOK):
                self.study.set_user_attr(name, None)  # until it ends again
        if self._limits and attr.CONSTRAINTS not in self.study.user_attrs:
            self.study.set_user_attr(attr.CONSTRAINTS, dict(self._limits))
        if attr.OBJECTIVE not in self.study.user_attrs:
            self.study.set_user_attr(attr.OBJECTIVE, self.objective.to_json())
        self._store_ends(self._ends())
        if opened.resumed and not self.is_shared:
            self.leaderboard.discard_checkpoints()
        self._queue_first_trials()
        self._say_initial()

    def _store_ends(self, ends: Params) -> None:
        if ends != self.study.user_attrs.get(attr.ENDS, {"target": [], "patience": None}):
            self.study.set_user_attr(attr.ENDS, ends)

    def _ends(self) -> Params:
        return {"target": list(self.objective.targets), "patience": self.settings.patience}

    def _queue_first_trials(self) -> None:
        """Queues the baseline and then the initial configurations, unless an earlier or another process has done so."""
        lacks_baseline = self._lacks_baseline()
        if not (lacks_baseline or self._not_queued()) or (self.is_shared and not is_leader(self.study)):
            return
        # While the leader was elected, another process may have queued them, or begun a trial of its own.
        if lacks_baseline and not self._has_baseline():
            recorded, exact = self.planner.baseline
            outside = {name: value for name, value in exact.items() if name not in recorded}
            attributes = {attr.ROLE: attr.BASELINE, **({attr.OUTSIDE: outside} if outside else {})}
            self.study.enqueue_trial(recorded, user_attrs=attributes)
        for params in self._not_queued():
            self.study.enqueue_trial(params, user_attrs={attr.INITIAL: params})

    def _not_queued(self) -> list[Params]:
        """The initial configurations that are in no trial, whether that waits, runs or has ended."""
        return [params for params, trial in self._initial_trials() if trial is None]

    def _initial_trials(self) -> list[tuple[Params, FrozenTrial | None]]:
        """The initial configurations, each with the trial that trains it or has trained just that already."""
        trials = self.study.get_trials(deepcopy=False)
        return [
            (params, next((trial for trial in trials if self._trains(trial, params)), None))
            for params in self.configurations.initial
        ]

    def _trains(self, trial: FrozenTrial, params: Params) -> bool:
        if role(trial) == attr.BASELINE:
            return trial.state != TrialState.FAIL and self.configurations.repeats_baseline(
                params, self.planner.baseline
            )
        is_known = role(trial) == attr.SEARCH and trial.state == TrialState.COMPLETE and trial.params == params
        return is_known or trial.user_attrs.get(attr.INITIAL) == params

    def _say_initial(self) -> None:
        """Prints which initial configurations need no training of their own, and how many have to wait."""
        given = self._initial_trials()
        for params, trial in given:
            if trial is not None and attr.INITIAL not in trial.user_attrs:
                number, shown = trial.number, show_params(params)
                self.progress.say(f"{shown} of initial_trials is trial {number}, and is not trained twice.")
        n_given = sum(trial is None or role(trial) != attr.BASELINE for _, trial in given)
        n_fitting = self.settings.max_trials - self.settings.baseline
        if n_given > n_fitting:
            self.progress.say(
                f"n_trials={self.settings.max_trials} has room for {n_fitting} of {n_given} initial_trials: the others "
                "wait for a larger n_trials."
            )

    def _lacks_baseline(self) -> bool:
        """Whether the study is new, or an earlier start came to no end of its baseline that counts."""
        if not self.settings.baseline:
            return False
        if not self.study.get_trials(deepcopy=False):
            return True
        has_failed = bool(self._baselines()) and not self._has_baseline()
        return has_failed and self.budget.reached() != "n_trials"  # a finished search trains none

    def _has_baseline(self) -> bool:
        """Whether a baseline waits, runs or has ended, other than by the end of the time or by an error of the script.

        The script may have been corrected, unless the same error has come twice. To be asked before this process trains
        anything.
        """
        counts_from = self.study.user_attrs.get(attr.COUNTS_FROM, 0)
        errors = [trial.user_attrs[attr.FAILURE] for trial in self._baselines() if may_be_mended(trial)]
        comes_again = len(errors) > 1 and errors[-1].get("reason") == errors[-2].get("reason")
        return not all(
            _is_timed_out(trial) or trial.number < counts_from or (may_be_mended(trial) and not comes_again)
            for trial in self._baselines()
        )

    def _baselines(self) -> list[FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if role(trial) == attr.BASELINE]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Accepts ``study.stop()`` as ``study.optimize`` does; at the end closes the bar."""
        study: Any = self.study
        study._stop_flag, study._thread_local.in_optimize_loop = False, True
        try:
            yield
        finally:
            study._thread_local.in_optimize_loop = False
            self.progress.close()

    def next_plan(self) -> TrialPlan | None:
        """Returns the plan of the next trial; None when the search ends.

        Raises:
            SearchFailed: Too many trials have failed.
        """
        while True:
            self._take_over()
            self.budget.update_sampler_and_pruner(self.paused.resumable())
            self._rest = ""
            reason = self.reason_to_stop() or self._too_little_left()
            if reason is not None and (reason == "timeout" or not self._enqueue_confirmation()):
                is_last = self.is_shared and reason in ("n_trials", "budget", "space")
                if is_last and self.planner.lease.wait_for_signs_of_others():
                    continue  # with the trial of a process that is gone
                if self.may_be_finished and reason != "timeout":
                    is_auto = reason == "patience" and self.settings.patience == AUTO
                    more = _CONTINUES.get(AUTO if is_auto else reason, "A larger n_trials or budget")
                    self.progress.say(
                        f"This search is finished ({reason}): its stored result is returned and nothing is trained. "
                        f"{more} continues it, resume=False starts a new search."
                    )
                if reason == "timeout" and self._next_confirmation() is not None:
                    self.progress.say(
                        f"No time was left for confirm={self.settings.confirm}, so the best trial is not confirmed. To "
                        "confirm it, give more time and an n_trials= that is reached."
                    )
                if self._rest and self.budget.trains_alone():
                    self.progress.say(f"The search ends: {self._rest}.")
                self.stopped_by = reason
                return None
            self.may_be_finished = False
            plan = self._ask()
            if plan is not None:
                return plan
            self.check_failures()

    def _take_over(self) -> None:
        """Requeues the trials of other processes that share the study and have died meanwhile."""
        if not self.is_shared:
            return
        for trial in self.planner.lease.requeue():
            owner = trial.user_attrs.get(attr.OWNER)
            gone = f"{name_of_owner(owner)}, which trained the trial," if owner else "the process that began it"
            self.progress.say(f"Trial {trial.number} is taken over: {gone} has ended.")

    def check_failures(self, error: BaseException | None = None) -> None:
        """Ends the search after ``max_failed_trials`` failures since this process started.

        Diverged trials (NaN) do not count: they are a valid result. Failures before a restart do not count either:
        a user who starts the search again has usually fixed their cause.

        Raises:
            SearchFailed: From ``error``, the last trial's if known, with the reason of the last failure.
        """
        n_trials = UNSET_TRIALS if self.settings.n_trials is None else self.settings.max_trials
        limit = self.settings.max_failed_trials or max(3, n_trials // 4)
        failed = self._failed_trials()[self._n_failed_before :]
        if len(failed) < limit:
            return
        last = (failed[-1].user_attrs.get(attr.FAILURE) or {}).get("reason", "unknown")
        raise SearchFailed(
            f"{len(failed)} of {self.settings.max_trials} trials have failed, the last one with: {last}. The search "
            f"stops at {limit} (max_failed_trials). The finished trials are kept in study {self.study.study_name!r}; "
            f"see the attribute {attr.FAILURE!r} of each trial for its traceback."
        ) from error

    def _failed_trials(self) -> list[FrozenTrial]:
        failed = [trial for trial in finished(self.study) if trial.state == TrialState.FAIL]
        return [trial for trial in failed if (trial.user_attrs.get(attr.FAILURE) or {}).get("kind") != NAN]

    def reason_to_stop(self) -> str | None:
        """Returns which option ends the search now, apart from confirmations; None if another trial is to start."""
        if limit := self.budget.reached():
            return limit
        if getattr(self.study, "_stop_flag", False):
            return "study.stop"
        if self.objective.targets and any(self.objective.reaches_target(t.values) for t in rankable(self.study)):
            return "target"
        patience = self.settings.patience
        if isinstance(patience, int) and trials_without_improvement(self.study) >= patience - 1e-6:
            return "patience"
        if reason := self.outlook.reached():
            return reason
        return "space" if self._is_exhausted() else None

    def _is_exhausted(self) -> bool:
        """Whether a new trial would repeat one, bit by bit; waiting trials are trained whatever they repeat."""
        trials, sampler = self.study.get_trials(deepcopy=False), self.study.sampler
        if any(trial.state == TrialState.WAITING for trial in trials):
            return False
        if isinstance(sampler, RLSampler):
            return sampler.is_exhausted(self.study)
        space = self.configurations.space  # other samplers choose values between the levels, where there are any
        history = History.from_trials(trials, self.study.directions)
        return all(h.has_all_values for h in space.hyperparameters) and is_exhausted(space, history)

    def _too_little_left(self) -> str | None:
        """Returns which of "timeout" and "budget" leaves too little for any training; None where a trial fits."""
        found = self.budget.too_little_left()
        if found is None:
            return None
        reason, self._rest = found
        return reason

    def should_pause(self, trainer: "Trainer") -> bool:
        """Returns whether the running trial, which the pruner stops, is to leave a checkpoint to resume from."""
        return self.paused.should_pause(stored_trial(self.trial), trainer)

    def report(self, step: int, values: tuple[float, ...], peak_memory: int = 0) -> bool:
        """Reports an evaluation of the running trial, unless another process has taken over.

        Args:
            step: In 1..FULL_TRAINING.
            values: The objective(s).
            peak_memory: Bytes until now.

        Returns:
            Whether the trial ends here: the pruner says so, the time is over, or it has exceeded the memory, which
            grows only. The baseline and confirmations go on to their end.
        """
        self.planner.lease.check()
        pairs = zip(self.objective.names, values, strict=True)
        shown = ", ".join(f"{name} {objectives([value])}" for name, value in pairs)
        self.progress.trial_evaluated(self.trial.number, step / attr.FULL_TRAINING, shown)
        exceeds = peak_memory / 1e9 > self._limits.get(MEMORY, math.inf)
        return self.reporter.report(step, values, exceeds=exceeds and role(stored_trial(self.trial)) == attr.SEARCH)

    def keeps(self, trial_role: str, outcome: TrialOutcome) -> Params:
        """Returns which copies of a complete trial's model to keep, unless another process has taken over."""
        self.planner.lease.check()
        return self.leaderboard.keeps(trial_role, outcome, feasible=not exceeded(self._limits, self._needed(outcome)))

    def switch_to(self, trial: optuna.Trial) -> None:
        """Makes a trial the running one, which is reported or recorded next, where several run at once."""
        self.trial = trial
        self.reporter = PruningReporter(
            trial,
            may_prune=trial.user_attrs[attr.ROLE] == attr.SEARCH and not self._is_multi,
            out_of_time=self.budget.is_out_of_time,
        )

    def record(self, outcome: TrialOutcome) -> None:
        """Stores how the running trial ended, prints its line, and deletes checkpoints that are needed no longer."""
        self.planner.lease.check()
        # A trial whose failure an earlier process has reported is not trained again.
        outcome = replace(outcome, trained=max(outcome.trained, share_trained(stored_trial(self.trial))))
        # The attributes first, so that a finished trial is always complete.
        for name, value in self._attributes(outcome).items():
            if value not in (None, {}):
                self.trial.set_user_attr(name, value)
        if self._limits:
            attr.store_constraints(self.trial, excess(self._limits, self._needed(outcome)))
        if outcome.state == TrialState.COMPLETE:
            recorded = self.study.tell(self.trial, list(outcome.values), skip_if_finished=True)
        else:
            recorded = self.study.tell(self.trial, state=outcome.state, skip_if_finished=True)
        _save_note(self.trial, lambda: explain(self.study, recorded.number).to_text())
        self.progress.trial_finished(self._trial_summary(recorded, outcome))
        self.leaderboard.discard_checkpoints()

    def interrupted(self) -> str:
        """Prints that the search was interrupted, and what continues it, as one line; returns the line."""
        n_done = n_trials_used(self.study)
        of = "" if self.settings.displayed_n_trials is None else f" of {self.settings.displayed_n_trials}"
        best = f", best {text}" if (text := self._best_text()) not in ("", "-") else ""
        command = "The same command" if self.settings.resume else "The same command with resume=True"
        line = f"Interrupted after {round(n_done, 1):g}{of} trials{best}. {command} continues."
        self.progress.close()
        self.progress.say(line)
        return line

    def conclude(self) -> SearchResult:
        """Stores why the search has ended, prints its summary, saves that as a note, and returns the result."""
        outlook = self.outlook.to_text()
        # What other processes train may still resume a stopped trial, or confirm another one than the best.
        is_last = not (self.is_shared and trials_of_other_processes(self.study))
        self.leaderboard.discard_checkpoints(confirmed=is_last)
        result = SearchResult(
            study=self.study,
            metric=", ".join(self.objective.names),
            output_dir=self.planner.folder,
            stopped_by=self.stopped_by,
            n_trials=self.settings.displayed_n_trials,
        )
        self.study.set_user_attr(attr.STOPPED_BY, self.stopped_by)
        self._store_ends(self._ends() | ({"rest": self._rest} if self._rest else {}))
        self.study.set_user_attr(attr.OUTLOOK, outlook)
        summary = result.summary()
        self.progress.close(finished=True)
        self.progress.say(summary)
        _save_note(self.study, lambda: summary, replaces=self.study.user_attrs.get(attr.SUMMARY, ""))
        self.study.set_user_attr(attr.SUMMARY, summary)
        return result

    def _ask(self) -> TrialPlan | None:
        """Asks the study for a trial and plans it; None if the trial ended before it could be trained."""
        # Before a trial begins that would be left behind.
        self.planner.lease.check()
        trial = self._first_to_train()
        if trial is None:
            return None
        self.trial = trial
        try:
            return self._plan()
        except optuna.TrialPruned:
            # hp_space or model_init refuses the combination: no failure, and nothing was trained.
            self.record(TrialOutcome(TrialState.PRUNED))
        except StorageError:
            raise  # says nothing about the configuration
        except Exception as error:
            failure = Failure.from_error(error)
            self.record(TrialOutcome(TrialState.FAIL, failure=failure))
            if failure.kind == DEVICE:
                raise DeviceLost(f"Trial {self.trial.number} failed with {failure.reason}") from error
            self.check_failures(error)
        return None

    def _first_to_train(self) -> optuna.Trial | None:
        """Asks the study for a trial; those beyond ``n_trials`` go back into the queue, for a search of more trials.

        They go back after the others were asked for: the study gives the first that waits.
        """
        surplus: list[optuna.Trial] = []
        try:
            while True:
                trial = self.study.ask()
                if not (self.is_shared and self.budget.is_surplus(trial)):
                    return trial
                surplus.append(trial)
                if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                    return None
        finally:
            for trial in surplus:
                self.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def _plan(self) -> TrialPlan | None:
        """Plans the trial; None if it had already ended when its process died, so that it only has to be recorded."""
        plan = self.planner.plan(self.trial)
        trial = stored_trial(self.trial)
        outcome = _unrecorded_outcome(plan, trial)
        if outcome is not None:
            self.record(outcome)
            return None
        self.switch_to(self.trial)
        earlier, share = trial.user_attrs.get(attr.CONTINUES), 0.0
        if earlier is not None and trial.user_attrs[attr.STARTED_AT]:
            share = trial.user_attrs[attr.STARTED_AT] / attr.FULL_TRAINING
            self.progress.say(f"Trial {plan.number} resumes trial {earlier} at {100 * share:.0f} %.")
        best = self._best_text()
        self.progress.trial_started(plan.number, plan.role, self.hyperparameters, best=best, share=share)
        return plan

    def _startup_messages(self) -> Iterator[str]:
        """Yields messages about the objective, and about settings that the user may not expect."""
        objective, settings, world_size = self.objective, self.settings, self.planner.world_size
        yield f"Objective: {', '.join(objective.names)}, {', '.join(objective.directions)} ({objective.why})."
        if self._limits:
            yield f"Constraints: {', '.join(f'{name} at most {limit:g}' for name, limit in self._limits.items())}."
        if isinstance(settings.hp_space, DefaultSpace):
            yield f"No hp_space given: the published ranges are searched ({settings.hp_space})."
        others = {t.user_attrs.get(attr.WORLD_SIZE, world_size) for t in finished(self.study)} - {world_size}
        if others:
            yield (
                f"Earlier trials ran on {sorted(others)} processes, this run on {world_size}: effective batch sizes, "
                "and with them objectives, are not comparable."
            )
        trials = self.study.get_trials(deepcopy=False)
        if settings.baseline and trials and not any(role(trial) == attr.BASELINE for trial in trials):
            yield (
                f"Study {self.study.study_name!r} has trials already, such as enqueued ones, and the baseline is not "
                "among them: it is not trained, and the gain over your arguments stays unknown."
            )
        configurations = self.configurations
        if configurations.trainer is not None:
            args = configurations.frozen.original()
            silent = dict(without_effect(configurations.trainer, args, configurations.searched))
            for name, why in silent.items():
                yield f"hp_space sets {name!r}, which has no effect unless other code of yours reads it: {why}."
            metrics = (*objective.names, *(objective.follows or ())[:1])
            if SMOOTHING in configurations.searched - silent.keys() and any(
                is_smoothed(configurations.trainer, name) for name in metrics
            ):
                yield (
                    f"hp_space sets {SMOOTHING!r}, on which the loss depends, and trials are compared by the loss: "
                    "with different smoothing they cannot be compared. Search with metric= set to a metric of "
                    f"compute_metrics, or leave {SMOOTHING!r} out."
                )
        strategy = plain(getattr(self.configurations.frozen.original(), "eval_strategy", None))
        evaluates = strategy != "no" or "eval_strategy" in self.configurations.searched
        if not evaluates and settings.pruner not in (None, RL_PRUNER):
            yield "The pruner stops no trial, because eval_strategy='no' evaluates none during training."
        elif evaluates and isinstance(self.study.pruner, RLPruner) and settings.pruner == RL_PRUNER:
            yield "The agent may stop trials at their evaluations; pruner=None trains all of them to the end."

    def _enqueue_confirmation(self) -> bool:
        """Queues the next training of one of the best configurations under a new seed; False when none is left."""
        trials = self.study.get_trials(deepcopy=False)
        if any(t.state == TrialState.WAITING and role(t) == attr.CONFIRM for t in trials):
            return True
        chosen = self._next_confirmation()
        if chosen is None:
            return False
        number, new_seed = chosen
        attributes = {attr.ROLE: attr.CONFIRM, attr.REEVALUATES: number, attr.SEED: new_seed}
        if outside := trials[number].user_attrs.get(attr.OUTSIDE):
            attributes[attr.OUTSIDE] = outside
        self.study.enqueue_trial(trials[number].params, user_attrs=attributes)
        return True

    def _next_confirmation(self) -> tuple[int, int] | None:
        """The trial that ``confirm`` trains again next, and its new seed; None when none is left."""
        if self.settings.confirm == 0 or self._is_multi:
            return None
        trials = self.study.get_trials(deepcopy=False)
        baseline = next((t for t in trials if role(t) == attr.BASELINE and t.state == TrialState.COMPLETE), None)
        numbers = confirm.trials_to_confirm(ranking(self.study), baseline, self.settings.confirm)
        seed = int(self.configurations.frozen.value("seed"))
        maximize = self.objective.directions[0] == "maximize"
        return confirm.next_seed(numbers, trials, seed=seed, maximize=maximize)

    def _attributes(self, outcome: TrialOutcome) -> Params:
        """The user attributes of the running trial, which has ended."""
        stopped, paused = self.trial.user_attrs.get(attr.STOPPED), None
        if outcome.state == TrialState.PRUNED and stopped is not None and self.settings.max_paused:
            paused = self.planner.checkpoint_at(self.trial, stopped)
        return {
            **{name: value for name, value in outcome.attributes.items() if not name.startswith(attr.PREFIX)},
            attr.HYPERPARAMETERS: {**self.hyperparameters, **outcome.found},
            attr.SECONDS: outcome.seconds,
            attr.PEAK_MEMORY: outcome.peak_memory,
            attr.RESIDENT_MEMORY: resident_memory(),
            attr.MEASURED: self._needed(outcome),
            attr.STEPS: outcome.step,
            attr.METRICS: outcome.metrics,
            attr.CHECKPOINT: checkpoints.relative_path(outcome.checkpoint, self.planner.folder),
            attr.FAILURE: None if outcome.failure is None else asdict(outcome.failure),
            attr.TRAINED: outcome.trained,
            attr.SPENT: newly_spent(self.trial, outcome.trained),
            attr.PAUSED: checkpoints.relative_path(paused, self.planner.folder),
        }

    def _best_text(self) -> str:
        """The best objective so far and its trial; "-" before the first one, empty with several objectives."""
        ranked = ranking(self.study)
        if ranked:
            return f"{objectives(ranked[0].values)} (trial {ranked[0].number})"
        return "" if self._is_multi else "-"

    def _needed(self, outcome: TrialOutcome) -> dict[str, float]:
        """What the running trial, which has ended, needed of what ``constraints=`` limits."""
        seconds, failure = outcome.seconds, outcome.failure
        out_of_memory = failure is not None and failure.kind == OOM
        if not self._limits or (failure is not None and not out_of_memory):
            return {}
        trials = self.study.get_trials(deepcopy=False)
        earlier = self.trial.user_attrs.get(attr.CONTINUES)
        while earlier is not None:  # the training began in the trial that this one resumes
            seconds += float(trials[earlier].user_attrs.get(attr.SECONDS, 0.0))
            earlier = trials[earlier].user_attrs.get(attr.CONTINUES)
        return measured(
            self._limits,
            peak_memory=outcome.peak_memory,
            # A stopped training would have taken longer.
            seconds=seconds / outcome.trained if outcome.trained else 0.0,
            trainable_params=outcome.trainable_params,
            metrics=outcome.metrics,
            out_of_memory=out_of_memory,
        )

    def _trial_summary(self, trial: FrozenTrial, outcome: TrialOutcome) -> TrialSummary:
        """The columns of a finished trial's line."""
        return TrialSummary(
            number=trial.number,
            role=role(trial),
            params=trial.user_attrs.get(attr.HYPERPARAMETERS, trial.params),
            result=", exceeds ".join(
                [
                    _result_text(trial, outcome, self.planner.world_size),
                    *exceeded(self._limits, trial.user_attrs.get(attr.MEASURED))[:1],
                ]
            ),
            best=self._best_text(),
            fidelity=share_trained(trial),
            seconds=outcome.seconds,
            n_done=n_trials_used(self.study),
            n_workers=1 + len(trials_of_other_processes(self.study)) if self.is_shared else 1,
            seconds_left=self.budget.seconds_left(),
            outlook=self.outlook.to_text(),
            choice=_choice_text(trial),
        )


def _unrecorded_outcome(plan: TrialPlan, trial: FrozenTrial) -> TrialOutcome | None:
    """The outcome of a trial whose process died after the training had ended, but before it was recorded."""
    stopped = trial.user_attrs.get(attr.STOPPED)
    if stopped is not None and plan.resume_from is not None and checkpoint_curve_step(plan.resume_from) == stopped:
        values = tuple(trial.intermediate_values[at] for at in (stopped,) if at in trial.intermediate_values)
        return TrialOutcome(TrialState.PRUNED, values=values, trained=stopped / attr.FULL_TRAINING)
    return None


def _is_timed_out(trial: FrozenTrial) -> bool:
    stop = trial.system_attrs.get(attr.STOP) or {}
    return trial.state == TrialState.PRUNED and stop.get("reason") == attr.TIMEOUT


def _choice_text(trial: FrozenTrial) -> str:
    """Says that a trial was chosen among few candidates, as the others did not fit what was left; empty if all did."""
    decision = trial.system_attrs.get(attr.DECISION) or {}
    fitting, too_long = decision.get("fitting"), decision.get("too_long")
    return f"{fitting} of {fitting + too_long} candidates fitted what was left" if too_long else ""


def _result_text(trial: FrozenTrial, outcome: TrialOutcome, world_size: int) -> str:
    """The objective of a finished trial, or why and where it ended."""
    values = objectives(outcome.values)
    failure = outcome.failure
    if failure is not None:
        step = f" at training step {failure.step}" if failure.step else ""
        rank = f" on rank {failure.rank}" if world_size > 1 else ""
        return f"failed{step}{rank}: {failure.reason}"
    if outcome.state == TrialState.COMPLETE:
        return values
    ended = "paused" if attr.PAUSED in trial.user_attrs else "pruned"
    stop, why = trial.system_attrs.get(attr.STOP) or {}, ""
    if _is_timed_out(trial):
        why = ", the time is over"
    elif "chance" in stop:
        why = f", with a chance of {percent(stop['chance'])} to become the best"
    elif "probability" in stop:
        why = ", the rest was not worth its price"
    return f"{ended} at {values or 'the start'}{why}"


def _save_note(owner: optuna.Study | optuna.Trial, text: Callable[[], str], *, replaces: str = "") -> None:
    """Saves a note for optuna-dashboard, if the package is installed; a note that a person wrote is not replaced."""
    try:
        from optuna_dashboard import get_note, save_note
    except ImportError:
        return
    if get_note(owner) in ("", _as_markdown(replaces)):
        save_note(owner, _as_markdown(text()))


def _as_markdown(lines: str) -> str:
    return lines.replace("\n", "\n\n")
