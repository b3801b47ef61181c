"""Rank 0's part of a search: what to train next, what became of it, when to stop."""

import logging
import math
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.backend import checkpoints, confirm
from hf_rlsearch.backend.arguments import plain
from hf_rlsearch.backend.distributed import RUN, STOP
from hf_rlsearch.backend.drawing import Drawer, suggest
from hf_rlsearch.backend.failures import Failure
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.progress import Progress
from hf_rlsearch.backend.result import BASELINE, CONFIRM, SEARCH, role
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.storage import OBJECTIVE, OWNER, Opened, finished, owner, requeue_interrupted
from hf_rlsearch.backend.trial import COMPLETE, FAILED, FULL_TRAINING, PRUNED, Outcome, Plan, SharedTrial
from hf_rlsearch.errors import SearchFailed

logger = logging.getLogger(__name__)

# A trial that takes the whole process with it this often, without getting any further, is given up.
_MAX_ATTEMPTS = 10

_STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}


class Chief:
    """Owns study, sampler and pruner.

    Args:
        opened: The study.
        drawer: Draws configurations.
        objective: What is optimised.
        settings: Of the search.
        config: Of the user's model, for the hyperparameters of his own configuration.
        world_size: Number of processes.
        alone: No other search can be working on the study.
        quiet: Nothing is printed.
    """

    def __init__(
        self,
        opened: Opened,
        drawer: Drawer,
        objective: Objective,
        settings: Settings,
        *,
        config: Any,
        world_size: int,
        alone: bool,
        quiet: bool,
    ) -> None:
        self.study, self.folder = opened.study, opened.folder
        self._drawer, self._objective, self._settings = drawer, objective, settings
        self._config, self._world_size = config, world_size
        self._trial: optuna.Trial | None = None
        self._confirmed = False
        self._reported: set[int] = set()
        self._deadline = math.inf if settings.timeout is None else time.monotonic() + settings.timeout
        again = requeue_interrupted(self.study, alone=alone)
        if opened.resumed and settings.sampler is not None:
            # A seeded sampler would draw again what it drew in the first run.
            self.study.sampler.reseed_rng()
        self.progress = Progress(n_trials=settings.most_trials, n_done=len(finished(self.study)), quiet=quiet)
        self.progress.say(opened.note)
        self.progress.say(
            f"Objective: {', '.join(objective.names)}, {', '.join(objective.directions)} ({objective.why})."
        )
        others = {t.user_attrs.get("world_size", world_size) for t in finished(self.study)} - {world_size}
        if others:
            self.progress.say(
                f"Earlier trials ran on {sorted(others)} processes, this run on {world_size}: effective batch "
                f"sizes, and "
                "with them objectives, are not comparable."
            )
        evaluates = plain(getattr(drawer.frozen.original(), "eval_strategy", None))
        if settings.pruner is not None and evaluates == "no" and "eval_strategy" not in drawer.searched:
            self.progress.say("The pruner stops no trial, because eval_strategy='no' evaluates none during training.")
        for number in again:
            self.progress.say(f"Trial {number} was interrupted and is taken up again.")
        if OBJECTIVE not in self.study.user_attrs:
            self.study.set_user_attr(OBJECTIVE, objective.to_json())
        self._enqueue_baseline()

    def next(self) -> Params:
        """The next message to all ranks: RUN with a plan, or STOP with the reason.

        Raises:
            SearchFailed: Too many trials have failed.
        """
        while True:
            reason = self._reason_to_stop()
            if reason is not None and not (reason != "timeout" and self._enqueue_confirmation()):
                return {"kind": STOP, "reason": reason}
            self._trial = self.study.ask()
            try:
                return {"kind": RUN, **self._plan(self._trial).to_json()}
            except optuna.TrialPruned:
                # hp_space or model_init refuses the combination: no failure, and nothing was trained.
                self.record(None, Outcome(status=PRUNED))
            except Exception as error:
                self.record(None, Outcome(status=FAILED, failure=Failure.from_error(error)))
                self.check_failures(error)

    def report(self, step: int, value: float) -> bool:
        """Stores a point of the running trial's learning curve; True if the pruner stops the trial."""
        assert self._trial is not None
        if step < max(self._reported, default=0):
            # A resumed trial passed here before, and was told to go on.
            return False
        if step not in self._reported:
            self._trial.report(value, step)
            self._reported.add(step)
        # The user's own configuration and confirmations are trained to their end: they are what others are compared to.
        is_search = self._trial.user_attrs.get("role") == SEARCH
        return is_search and len(self.study.directions) == 1 and bool(self._trial.should_prune())

    def halved(self, plan: Plan) -> None:
        """Notes that the running trial goes on with a smaller batch per device."""
        assert self._trial is not None
        args = self._drawer.arguments(plan.values)
        self._trial.set_user_attr("values", plan.values)
        self._trial.set_user_attr("arguments", self._drawer.frozen.to_json(args))
        self.progress.say(
            f"Trial {plan.number} ran out of memory and begins again with per_device_train_batch_size="
            f"{args.per_device_train_batch_size}, gradient_accumulation_steps={args.gradient_accumulation_steps}."
        )

    def keeps(self, outcome: Outcome) -> bool:
        """Whether a finished trial's model is among the best k, so that it has to be on disk."""
        if outcome.status != COMPLETE or self._settings.keep_checkpoints == 0:
            return False
        assert self._trial is not None
        if len(self.study.directions) > 1:
            return True
        if role_of(self._trial) == CONFIRM:
            return False
        if role_of(self._trial) == BASELINE and self._settings.confirm:
            return True
        better = [t for t in self._ranking() if not self._objective.better(outcome.values[0], float(t.values[0]))]
        return len(better) < self._n_kept()

    def is_best(self, outcome: Outcome) -> bool:
        """Whether a trial that has just ended beats all before it."""
        if outcome.status != COMPLETE or role_of(self._trial) == CONFIRM:
            return False
        ranking = self._ranking()
        return not ranking or self._objective.better(outcome.values[0], float(ranking[0].values[0]))

    def record(self, plan: Plan | None, outcome: Outcome) -> None:
        """Writes a finished trial to the storage, attributes first, so that a finished trial is always whole."""
        trial = self._trial
        assert trial is not None
        attributes: Params = {
            "seconds": outcome.seconds,
            "peak_memory": outcome.peak_memory,
            "steps": outcome.step,
            "metrics": outcome.metrics,
            "checkpoint": outcome.checkpoint,
            "failure": None if outcome.failure is None else outcome.failure.to_json(),
        }
        for name, value in attributes.items():
            if value not in (None, {}):
                trial.set_user_attr(name, value)
        if outcome.status == COMPLETE:
            told = self.study.tell(trial, list(outcome.values), skip_if_finished=True)
        else:
            told = self.study.tell(trial, state=_STATES[outcome.status], skip_if_finished=True)
        self._trial = None
        self._show(plan, told, outcome)
        self._discard_checkpoints()

    def check_failures(self, error: BaseException | None) -> None:
        """Ends the search if too many trials have failed; diverged ones do not count, they are an answer.

        Raises:
            SearchFailed: With the last reason.
        """
        failed = [t for t in finished(self.study) if t.state == TrialState.FAIL and _kind(t) != "nan"]
        if len(failed) < self._settings.failures_allowed:
            return
        last = (failed[-1].user_attrs.get("failure") or {}).get("reason", "unknown")
        raise SearchFailed(
            f"{len(failed)} of {self._settings.most_trials} trials have failed, the last one with: {last}. The search "
            f"stops at "
            f"{self._settings.failures_allowed} (max_failed_trials). The finished trials are kept in study "
            f"{self.study.study_name!r}; see the attribute 'failure' of each trial for its traceback."
        ) from error

    def _reason_to_stop(self) -> str | None:
        study: Any = self.study
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        n_done = len([t for t in finished(self.study) if role(t) != CONFIRM])
        if n_done >= self._settings.most_trials and not any(self._is_ours(t) for t in waiting):
            return "n_trials"
        if study._stop_flag:
            return "study.stop"
        if time.monotonic() >= self._deadline:
            return "timeout"
        if self._settings.budget is not None and self.spent() >= self._settings.budget:
            return "budget"
        target, ranking = self._settings.target, self._ranking()
        if target is not None and ranking and not self._objective.better(target, float(ranking[0].values[0])):
            return "target"
        return None

    @staticmethod
    def _is_ours(trial: FrozenTrial) -> bool:
        return OWNER in trial.user_attrs

    def _plan(self, trial: optuna.Trial) -> Plan:
        baseline = trial.user_attrs.get("role") == BASELINE
        begun = trial.user_attrs.get("folder")
        trial.set_user_attr(OWNER, owner())
        attempts = self._attempts(trial)
        if attempts > _MAX_ATTEMPTS:
            raise SearchFailed(f"The process ended {_MAX_ATTEMPTS} times while it trained trial {trial.number}.")
        if trial.user_attrs.get("role") == CONFIRM:
            params, values, exact = self._repeat(trial)
        elif baseline:
            recorded, exact = self._drawer.of_the_user(self._config)
            for name in recorded:
                suggest(trial, name, self._drawer.space.distributions[name])
            params, values = {}, {}
        else:
            params, values = self._drawer.draw(trial)
            exact = params
            trial.set_user_attr("role", SEARCH)
        name = self._name(trial, params, begun)
        folder = str(Path(self.folder, name))
        args = self._drawer.arguments(values)
        facts = {
            "hyperparameters": exact,
            "values": values,
            "arguments": self._drawer.frozen.to_json(args),
            "seed": getattr(args, "seed", None),
            "world_size": self._world_size,
            "folder": folder,
            "versions": versions(),
        }
        for key, value in facts.items():
            trial.set_user_attr(key, value)
        by_epochs = plain(getattr(args, "eval_strategy", None)) == "epoch"
        resume_from = None
        if begun is not None:
            resume_from = checkpoints.last_complete(folder, world_size=self._world_size, evaluates_epochs=by_epochs)
        self._reported = set(self.study._storage.get_trial(trial._trial_id).intermediate_values)
        checkpoints.discard_incomplete(folder, keep=resume_from)
        plan = Plan(
            number=trial.number,
            params=params,
            values=values,
            folder=folder,
            name=name,
            role=str(trial.user_attrs["role"]),
            resume_from=resume_from,
        )
        self.progress.begun(plan.number, plan.role, exact)
        return plan

    @staticmethod
    def _attempts(trial: optuna.Trial) -> int:
        """How often the trial was begun since it last got further."""
        known = trial.study._storage.get_trial(trial._trial_id)
        reached = max(known.intermediate_values, default=0)
        last = known.user_attrs.get("attempts") or {"n": 0, "reached": 0}
        n = 1 if reached > last["reached"] else last["n"] + 1
        trial.set_user_attr("attempts", {"n": n, "reached": reached})
        return int(n)

    def _name(self, trial: optuna.Trial, params: Params, begun: str | None) -> str:
        """What ``hp_name`` answers, with a number behind it where that folder is another trial's or holds a model."""
        if begun is not None and Path(begun).is_relative_to(self.folder):
            return str(Path(begun).relative_to(self.folder))
        wanted = self._wanted_name(trial, params)
        others = self.study.get_trials(deepcopy=False)
        taken = {t.user_attrs.get("folder") for t in others if t.number != trial.number}
        for name in (wanted, *(f"{wanted}-{i}" for i in range(2, len(others) + _MAX_ATTEMPTS))):
            folder = str(Path(self.folder, name))
            if folder not in taken and not checkpoints.holds_any(folder):
                return name
        return f"{wanted}-{uuid.uuid4().hex[:8]}"

    def _wanted_name(self, trial: optuna.Trial, params: Params) -> str:
        usual = f"run-{trial.number}"
        if self._settings.hp_name is None:
            return usual
        try:
            name = str(self._settings.hp_name(SharedTrial(params or dict(trial.params), trial.number)))
        except Exception:
            if params:
                raise
            # The user's own configuration may lack hyperparameters that only model_init knows.
            return usual
        inside = os.path.normpath(name)
        return usual if inside in ("", os.curdir) or inside.startswith((os.pardir, os.sep)) else name

    def spent(self) -> float:
        """Full trainings so far; a pruned or failed trial counts for the part that was trained."""
        return sum(
            1.0 if t.state == TrialState.COMPLETE else max(t.intermediate_values, default=0) / FULL_TRAINING
            for t in finished(self.study)
            if role(t) != CONFIRM
        )

    def discard_all_but_the_best(self) -> None:
        """After the confirmations: only as many models stay as the user wants."""
        self._confirmed = True
        self._discard_checkpoints()

    def _enqueue_confirmation(self) -> bool:
        """Puts the next confirmation into the queue; False when there is none to make."""
        if self._settings.confirm == 0 or len(self.study.directions) > 1:
            return False
        trials = self.study.get_trials(deepcopy=False)
        if any(t.state == TrialState.WAITING and role(t) == CONFIRM for t in trials):
            return True
        own = next((t for t in trials if role(t) == BASELINE and t.state == TrialState.COMPLETE), None)
        numbers = confirm.candidates(self._ranking(), own, self._settings.confirm)
        maximize = self._objective.directions[0] == "maximize"
        run = confirm.next_run(numbers, trials, seed=int(self._drawer.frozen.value("seed")), maximize=maximize)
        if run is None:
            return False
        number, seed = run
        attributes = {"role": CONFIRM, confirm.OF: number, confirm.SEED: seed}
        self.study.enqueue_trial(trials[number].params, user_attrs=attributes)
        return True

    def _repeat(self, trial: optuna.Trial) -> tuple[Params, Params, Params]:
        """Params, values and exact hyperparameters of the trial that this one confirms, under its own seed."""
        original = self.study.get_trials(deepcopy=False)[trial.user_attrs[confirm.OF]]
        for name, distribution in original.distributions.items():
            suggest(trial, name, distribution)
        params = {} if role(original) == BASELINE else dict(original.params)
        values = {**original.user_attrs.get("values", {}), "seed": trial.user_attrs[confirm.SEED]}
        return params, values, dict(original.user_attrs.get("hyperparameters", original.params))

    def _n_kept(self) -> int:
        """Models on disk; until the confirmations are made, all that may win them."""
        n_kept = self._settings.keep_checkpoints
        return n_kept if self._confirmed or n_kept == 0 else max(n_kept, self._settings.confirm)

    def _enqueue_baseline(self) -> None:
        if not self._settings.baseline or self.study.get_trials(deepcopy=False):
            return
        recorded, _ = self._drawer.of_the_user(self._config)
        self.study.enqueue_trial(recorded, user_attrs={"role": BASELINE})

    def _kept_in_order(self) -> list[FrozenTrial]:
        """The ranking, the winner of the confirmations first."""
        best = confirm.winner(
            confirm.confirmations(finished(self.study)), maximize=self._objective.directions[0] == "maximize"
        )
        first = best.number if best is not None and self._confirmed else None
        return sorted(self._ranking(), key=lambda t: t.number != first)

    def _ranking(self) -> list[FrozenTrial]:
        """Complete trials of a single objective, best first, earlier ones first among equals."""
        if len(self.study.directions) > 1:
            return []
        sign = -1 if self._objective.directions[0] == "maximize" else 1
        complete = [t for t in finished(self.study) if t.state == TrialState.COMPLETE and role(t) != CONFIRM]
        return sorted(complete, key=lambda t: (sign * float(t.values[0]), t.number))

    def _discard_checkpoints(self) -> None:
        """Leaves the best k checkpoints on disk."""
        if len(self.study.directions) > 1:
            kept = {trial.number for trial in self.study.best_trials}
        else:
            kept = {trial.number for trial in self._kept_in_order()[: self._n_kept()]}
        if self._settings.confirm and not self._confirmed:
            kept |= {trial.number for trial in finished(self.study) if role(trial) == BASELINE}
        for trial in finished(self.study):
            folder = trial.user_attrs.get("folder")
            if folder is None or not Path(folder).is_dir():
                continue
            checkpoints.discard(folder, keep=trial.user_attrs.get("checkpoint") if trial.number in kept else None)

    def _show(self, plan: Plan | None, told: FrozenTrial, outcome: Outcome) -> None:
        ranking = self._ranking()
        best = f"{ranking[0].values[0]:.4g} (trial {ranking[0].number})" if ranking else "-"
        if outcome.failure is not None:
            at = f" at training step {outcome.failure.step}" if outcome.failure.step else ""
            where = f" on rank {outcome.failure.rank}" if self._world_size > 1 else ""
            result = f"failed{at}{where}: {outcome.failure.reason}"
        else:
            values = ", ".join(f"{value:.4g}" for value in outcome.values)
            result = values if outcome.status == COMPLETE else f"pruned at {values or 'the start'}"
        shown = told.user_attrs.get("hyperparameters", told.params)
        self.progress.ended(told.number, role(told), shown, result, best, outcome.seconds)


@contextmanager
def optimize_loop(study: optuna.Study) -> Iterator[None]:
    """Lets samplers and callbacks call ``study.stop()``, as inside ``study.optimize``."""
    inner: Any = study
    inner._stop_flag, inner._thread_local.in_optimize_loop = False, True
    try:
        yield
    finally:
        inner._thread_local.in_optimize_loop = False


def versions() -> Params:
    """The versions that decide whether a replay can be exact."""
    import torch
    import transformers

    from hf_rlsearch._version import __version__

    return {
        "hf_rlsearch": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


def role_of(trial: optuna.Trial | None) -> str:
    """The role of a running trial."""
    return str(trial.user_attrs.get("role", SEARCH)) if trial is not None else SEARCH


def _kind(trial: FrozenTrial) -> str:
    return str((trial.user_attrs.get("failure") or {}).get("kind", "error"))
