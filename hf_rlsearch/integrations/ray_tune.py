"""Connects with Ray Tune: the sampler and the stop rule as search algorithm and scheduler, and whole searches.

Tested with Ray 2.60.
"""

import inspect
import json
import math
import pkgutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack
from uuid import uuid4

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import is_finite_number, is_integer
from hf_rlsearch.errors import ArgumentsError, MissingExtraError, describe
from hf_rlsearch.observation.trial_attributes import FULL_TRAINING, RAY_SEARCH
from hf_rlsearch.optuna import RLPruner, RLSampler
from hf_rlsearch.trainer.search.coordinator import SearchCoordinator
from hf_rlsearch.trainer.search.distributed import ProcessGroup
from hf_rlsearch.trainer.search.loop import build_search
from hf_rlsearch.trainer.search.providers import FactoryProvider
from hf_rlsearch.trainer.search.result import SearchResult
from hf_rlsearch.trainer.search.trial import EvaluationMonitor, TrialOutcome, TrialPlan, run_trial
from hf_rlsearch.trainer.session.failures import LOST, Failure
from hf_rlsearch.trainer.session.interrupts import interrupts_in_one_line
from hf_rlsearch.trainer.session.progress import quiet_libraries
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.objective import Objective
from hf_rlsearch.trainer.setup.options import SearchOptions
from hf_rlsearch.trainer.storage import checkpoints
from hf_rlsearch.trainer.storage.paused import curve_step

try:
    from ray import tune
    from ray.tune.result import TRAINING_ITERATION
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search import Searcher
    from ray.tune.search.optuna import OptunaSearch
except ImportError as error:
    raise MissingExtraError(f"Searches with Ray Tune need {error.name}: pip install 'hf-rlsearch[ray]'.") from error

# Keys of the configuration and of the results of a training that ``tune_trainer`` starts.
_PLAN, _OUTCOME, _FOLDER, _CHECKPOINT = "plan", "outcome", "folder", "checkpoint_dir_name"
# Options that tell one process which trials it shares with others, or which files of its trials stay; Ray does both.
_NOT_WITH_RAY = (
    "confirm",
    "disk_budget_gb",
    "hp_name",
    "keep_best_models",
    "load_if_exists",
    "max_paused_trials",
    "n_jobs",
    "storage",
    "study_name",
)


class RLSearch(OptunaSearch):  # type: ignore[misc]
    """Ray's ``OptunaSearch`` with ``RLSampler``, which records how each training ended.

    A training that ``RLScheduler`` stops is pruned in the study, and a training that ends with an objective that is no
    finite number has failed. ``OptunaSearch`` alone counts the first as complete and never ends the second.

    Args:
        space: As for ``OptunaSearch``: Optuna distributions by name or a function of a trial. Tune's ``param_space`` is
            searched where not given.
        sampler: ``RLSampler`` where not given.
        **options: Those of ``OptunaSearch``: ``metric``, ``mode``, ``storage``, ``study_name``,
            ``points_to_evaluate``.
    """

    def __init__(self, space: Any = None, *, sampler: BaseSampler | None = None, **options: Any) -> None:
        super().__init__(space, sampler=RLSampler() if sampler is None else sampler, **options)
        self._id = uuid4().hex
        self._stopped: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """The configuration of a new trial; one that was interrupted, and that Ray has forgotten, is trained first."""
        config = super().suggest(trial_id)
        self._ot_trials[trial_id].set_user_attr(RAY_SEARCH, self._id)
        return config

    def should_stop(self, trial_id: str, result: dict[str, Any], pruner: BasePruner) -> bool:
        """Adds a report to a trial's learning curve, and asks the pruner whether the trial should stop.

        The pruner is an argument, since the study of ``OptunaSearch`` has none. The result has to hold the metric. A
        training that Ray repeats after a restart stops where it was stopped before.
        """
        self.on_trial_result(trial_id, result)
        stored = self._stored(trial_id)
        if stored is None:
            return False
        if stored.state.is_finished():
            return stored.state == TrialState.PRUNED and result[TRAINING_ITERATION] >= (stored.last_step or 0)
        if pruner.prune(self._ot_study, stored):
            self._stopped.add(trial_id)
        return trial_id in self._stopped

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Adds a report to a trial's learning curve, unless a restarted training repeats it."""
        stored = self._stored(trial_id)
        if stored is None or stored.state.is_finished() or result[TRAINING_ITERATION] <= (stored.last_step or 0):
            return
        super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records in the study how a trial ended: complete, pruned or failed; what is recorded stays."""
        stored = self._stored(trial_id)
        if stored is None or stored.state.is_finished():
            return
        metrics = self.metric if isinstance(self.metric, list) else [self.metric]
        if trial_id in self._stopped:
            result = None  # without a value it is pruned
        elif result and not all(math.isfinite(result.get(name, 0.0)) for name in metrics):
            result, error = None, True
        super().on_trial_complete(trial_id, result, error)

    def restore(self, checkpoint_path: str) -> None:
        """Continues after ``Tuner.restore``; the study may be ahead of Ray's checkpoint, which is some seconds old.

        Trials that the checkpoint does not know go back into the queue if they had not ended.
        """
        super().restore(checkpoint_path)
        study: optuna.Study = self._ot_study
        known = {trial._trial_id for trial in self._ot_trials.values()}
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get(RAY_SEARCH) == self._id and trial._trial_id not in known:
                study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def _stored(self, trial_id: str) -> FrozenTrial | None:
        """The trial as the study has it; None if Ray has a trial that this search did not suggest."""
        # OptunaSearch gives no public access to its study and trials.
        trial = self._ot_trials.get(trial_id)
        return None if trial is None else self._ot_study._storage.get_trial(trial._trial_id)


class TrainerSearch(Searcher):  # type: ignore[misc]
    """The search algorithm of ``tune_trainer``: what the search of a Trainer decides in one process, it decides here.

    Ray pickles it with the experiment, without the coordinator, which knows the user's functions and the database.

    Attributes:
        coordinator: Plans and records the trials. After ``Tuner.restore`` that of the new process.
    """

    def __init__(self, coordinator: SearchCoordinator) -> None:
        objective = coordinator.objective
        super().__init__(metric=objective.names[0], mode="max" if objective.directions[0] == "maximize" else "min")
        self.coordinator = coordinator
        self._running: dict[str, optuna.Trial] = {}
        self._failures: dict[str, TrialOutcome] = {}

    def __getstate__(self) -> Params:
        return {"_metric": self._metric, "_mode": self._mode, "_running": {}, "_failures": {}}

    def suggest(self, trial_id: str) -> Any:
        """The plan of the next trial; None while running trials decide whether there is one more.

        Raises:
            SearchFailed: Too many trials have failed.
        """
        coordinator = self.coordinator
        coordinator.check_failures()
        plan = coordinator.next_plan()
        if plan is None:
            return None if self._running else self.FINISHED
        self._running[trial_id] = coordinator.trial
        return {_PLAN: plan.to_json()}

    def should_stop(self, trial_id: str, result: dict[str, Any], pruner: BasePruner) -> bool:
        """Adds a report to a trial's learning curve; whether the pruner of the study, or the time, stops the trial.

        A trial that Ray repeats after a restart although the study knows how it ended is stopped.
        """
        trial, outcome = self._running.get(trial_id), _outcome_of(result)
        if trial is None:
            return True
        if outcome.state != TrialState.PRUNED:
            return False  # the training has ended
        self.coordinator.switch_to(trial)
        return self.coordinator.report(round(FULL_TRAINING * outcome.trained), outcome.values)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Remembers why a training fails: of its end Ray tells only that it failed."""
        outcome = _outcome_of(result)
        if outcome.state == TrialState.FAIL:
            self._failures[trial_id] = outcome

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records how a trial ended, after its retries; what is recorded stays."""
        trial = self._running.pop(trial_id, None)
        if trial is None:
            return
        if error or not result or _OUTCOME not in result:
            lost = Failure(LOST, "The process of the trial has ended, or its machine is gone; see Ray's error.txt.")
            outcome = self._failures.get(trial_id, TrialOutcome(TrialState.FAIL, failure=lost))
        else:
            outcome = _outcome_of(result)
            if result.get(_CHECKPOINT):
                folder = Path(self.coordinator.planner.folder, result[_FOLDER], result[_CHECKPOINT])
                outcome = replace(outcome, checkpoint=str(folder))
        self.coordinator.switch_to(trial)
        self.coordinator.record(outcome)

    def save(self, checkpoint_path: str) -> None:
        """Writes which running trial of Ray's is which trial of the study."""
        known = {trial_id: trial.number for trial_id, trial in self._running.items()}
        Path(checkpoint_path).write_text(json.dumps(known))

    def restore(self, checkpoint_path: str) -> None:
        """Continues the trials that Ray starts again by itself; all others are in the queue of the study."""
        study = self.coordinator.study
        for trial_id, number in json.loads(Path(checkpoint_path).read_text()).items():
            trial = study.get_trials(deepcopy=False)[number]
            if trial.state == TrialState.WAITING:
                study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
                self._running[trial_id] = optuna.Trial(study, trial._trial_id)


class RLScheduler(FIFOScheduler):  # type: ignore[misc]
    """Stops trainings that are not worth their remaining cost when they report to Tune, as ``RLPruner`` does.

    Takes the place of ``ASHAScheduler`` beside ``search_alg=RLSearch(...)``.

    Args:
        max_resource: Reports of a full training, above 0; all trainings should report equally often, such as after
            each tenth. The most that a finished training made where not given.
        pruner: In place of ``RLPruner(max_resource=max_resource)``.

    Raises:
        ArgumentsError: An argument is out of range.
    """

    def __init__(self, *, max_resource: float | None = None, pruner: BasePruner | None = None) -> None:
        super().__init__()
        self._pruner = RLPruner(max_resource=max_resource) if pruner is None else pruner

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE, after a report.

        Raises:
            ArgumentsError: The search algorithm is not ``RLSearch``, which holds the other learning curves.
        """
        search = tune_controller.search_alg
        while not isinstance(search, RLSearch | TrainerSearch):  # Tune wraps it to limit how many trainings run at once
            if not hasattr(search, "searcher"):
                raise ArgumentsError(
                    f"RLScheduler needs search_alg=RLSearch(...), but search_alg is {type(search).__name__}."
                )
            search = search.searcher
        decision: str = self.STOP if search.should_stop(trial.trial_id, result, self._pruner) else self.CONTINUE
        return decision


def tune_trainer(
    make_trainer: str | Callable[[Params], Any],
    hp_space: Callable[[Any], Params],
    *,
    resources: Mapping[str, float] | None = None,
    max_concurrent_trials: int | None = None,
    max_failures: int = 0,
    **options: Unpack[SearchOptions],
) -> SearchResult:
    """Searches the hyperparameters of a Trainer on a Ray cluster, as ``hf_rlsearch.search`` does in one process.

    Each trial of Ray makes and trains one trainer. It gets the name of ``make_trainer``, or the function as Ray ships
    functions, and plain data; no Trainer is ever pickled. The driver opens the study, chooses the trials and records
    them. The ``output_dir`` of ``make_trainer({})`` is the folder of the experiment: study, Ray's files, and for each
    complete trial the checkpoint with its model. Driver and workers have to see it. The same call again continues an
    interrupted search with ``Tuner.restore``, which unpickles Ray's files: nobody else may write to the folder.

    Args:
        make_trainer: ``"module:function"``, which workers import, or the function. Called with the values of
            ``hp_space`` it returns a fresh trainer; called with ``{}`` the baseline configuration, which is trial 0.
        hp_space: Suggests values on a trial and returns them by name.
        resources: What one trial uses, such as ``{"cpu": 2, "gpu": 0.25}``, each at least 0. Default: one CPU.
        max_concurrent_trials: Number of trials that run at once, at least 1; as many as fit the cluster if left out.
        max_failures: How often Ray starts a trial again that failed or whose worker is gone, at least 0.
        **options: See ``hf_rlsearch.trainer.setup.options.SearchOptions``, but for those about files and processes,
            and ``confirm``. ``pruner=None`` trains every trial to its end.

    Returns:
        As ``hf_rlsearch.search``; ``best_checkpoint`` is in Ray's folder of the best trial.

    Raises:
        SearchSpaceError, ObjectiveError, ArgumentsError, StorageError, WeightsError: Raised before the first training.
        TypeError: An unknown option, with the nearest name.
        SearchFailed: Too many trials failed, each after its retries.
    """
    for name in _NOT_WITH_RAY:
        if name in options:
            raise ArgumentsError(f"{name}={options[name]!r} given, expected no such option: Ray runs the trials.")  # type: ignore[literal-required]
    _check_counts(resources, max_concurrent_trials, max_failures)
    settings = SearchConfig.from_options({**options, "hp_space": hp_space, "max_paused_trials": 0})
    if not isinstance(settings.direction, str):
        raise ArgumentsError(
            f"direction={settings.direction!r} given, expected one direction: Ray stops by one metric."
        )
    started = time.monotonic()
    provider = FactoryProvider(_function(make_trainer))
    with quiet_libraries(), provider, ExitStack() as held:
        coordinator = build_search(provider, settings, ProcessGroup(), held, started).runner.coordinator
        assert coordinator is not None
        if coordinator.configurations.has_side_effects:
            raise ArgumentsError(
                "hp_space changes something besides returning values, which no other process sees. Return it under a "
                "name of its own and read that in make_trainer(values)."
            )
        with interrupts_in_one_line(coordinator.interrupted), coordinator.running():
            if coordinator.reason_to_stop() is None:
                trainable = tune.with_parameters(
                    _train,
                    make_trainer=make_trainer,
                    objective=coordinator.objective.to_json(),
                    compute_objective=settings.compute_objective,
                )
                trainable = tune.with_resources(trainable, dict(resources or {"cpu": 1}))
                _fit(trainable, coordinator, max_concurrent_trials, max_failures)
            else:
                coordinator.next_plan()  # says that the search is finished
            is_running = coordinator.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if is_running or not coordinator.stopped_by:
                raise KeyboardInterrupt  # Ray ends after Ctrl-C as if the experiment were finished
        return coordinator.conclude()


def _check_counts(resources: Mapping[str, float] | None, max_concurrent_trials: int | None, max_failures: int) -> None:
    is_amounts = isinstance(resources, Mapping) and all(is_finite_number(n) and n >= 0 for n in resources.values())
    if resources is not None and not is_amounts:
        raise ArgumentsError(
            f"resources={resources!r} given, expected a dict of numbers of at least 0, as {{'cpu': 1, 'gpu': 0.25}}."
        )
    if max_concurrent_trials is not None and not (is_integer(max_concurrent_trials) and max_concurrent_trials >= 1):
        raise ArgumentsError(
            f"max_concurrent_trials={max_concurrent_trials!r} given, expected a whole number of at least 1, or None."
        )
    if not (is_integer(max_failures) and max_failures >= 0):
        raise ArgumentsError(f"max_failures={max_failures!r} given, expected a whole number of at least 0.")


def _function(make_trainer: Any) -> Callable[[Params], Any]:
    """The function itself, which has to come without a Trainer: workers make their own."""
    function = make_trainer
    if isinstance(make_trainer, str):
        try:
            function = pkgutil.resolve_name(make_trainer)
        except (AttributeError, ImportError, ValueError) as error:
            raise ArgumentsError(
                f"make_trainer={make_trainer!r} given, expected 'module:function' of a module that can be imported "
                f"here and on every worker ({describe(error)})."
            ) from error
    if not callable(function) or hasattr(function, "train"):
        raise ArgumentsError(
            f"make_trainer is of type {type(function).__name__}, expected a function that makes a Trainer of a dict of "
            "values, or its name as 'module:function'."
        )
    used = inspect.getclosurevars(function) if inspect.isfunction(function) else None
    for name, value in {} if used is None else {**used.globals, **used.nonlocals}.items():
        if "Trainer" in (each.__name__ for each in type(value).__mro__):
            raise ArgumentsError(
                f"make_trainer uses {name!r}, a {type(value).__name__}, which Ray would have to pickle. "
                "Make model, data and Trainer inside of make_trainer."
            )
    return function  # type: ignore[no-any-return]


def _fit(trainable: Any, coordinator: SearchCoordinator, max_concurrent_trials: int | None, max_failures: int) -> None:
    """Runs the experiment in the folder of the search, or continues it."""
    folder = Path(coordinator.planner.folder)
    if coordinator.was_interrupted and tune.Tuner.can_restore(str(folder)):
        tuner = tune.Tuner.restore(str(folder), trainable=trainable)
        # Ray gives no public access to the search algorithm of a restored experiment.
        tuner._local_tuner._tune_config.search_alg.coordinator = coordinator
    else:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=TrainerSearch(coordinator),
                scheduler=RLScheduler(pruner=coordinator.study.pruner),
                num_samples=-1,  # the search says when it has ended
                max_concurrent_trials=max_concurrent_trials,
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                failure_config=tune.FailureConfig(max_failures=max_failures),
            ),
        )
    tuner.fit()


def _name_of(trial: Any) -> str:
    return str(trial.config[_PLAN]["name"])


# --------------------------------------------------------------------------------------------------- on the workers


def _train(
    config: Params,
    *,
    make_trainer: str | Callable[[Params], Any],
    objective: Params,
    compute_objective: Callable[[dict[str, Any]], Any] | None,
) -> None:
    """Trains one trial in a temporary folder, and reports its evaluations and at the end its model.

    An exception is reported before it is raised, so that the study has its reason; Ray may start the trial again.
    """
    scored = Objective.from_json(objective, compute_objective)
    provider = FactoryProvider(_function(make_trainer))
    with quiet_libraries(), provider, tempfile.TemporaryDirectory() as folder:
        plan = replace(TrialPlan.from_json(config[_PLAN]), folder=folder)
        monitor = _ReportingMonitor(scored, ProcessGroup())
        error: Exception | None = None
        try:
            trainer = provider.trainer_for(plan, monitor)
            monitor.started = time.perf_counter()
            outcome, error = run_trial(trainer, plan, monitor)
            is_complete, in_training = outcome.state == TrialState.COMPLETE, outcome.in_training
            saved = checkpoints.save_scored(trainer, folder, in_training=in_training) if is_complete else None
        except Exception as caught:
            outcome, error, saved = TrialOutcome(TrialState.FAIL, failure=Failure.from_error(caught)), caught, None
        _report(scored, outcome, None if saved is None else tune.Checkpoint.from_directory(saved))
        if error is not None:
            raise error


@dataclass
class _ReportingMonitor(EvaluationMonitor):
    """Reports each evaluation to Ray, with the outcome that the trial has if it is stopped there.

    Attributes:
        started: When the training began, by ``time.perf_counter()``.
    """

    started: float = field(default=0.0, init=False)

    def __call__(self, trainer: Any, metrics: Mapping[str, Any]) -> None:
        super().__call__(trainer, metrics)
        evaluation = self.evaluations[-1]
        if evaluation.state == TrialState.RUNNING:
            outcome = TrialOutcome(
                TrialState.PRUNED,
                evaluation.values,
                evaluation.metrics,
                seconds=time.perf_counter() - self.started,
                step=evaluation.step,
                trained=curve_step(evaluation.step, trainer.state.max_steps) / FULL_TRAINING,
            )
            _report(self.objective, outcome)


def _report(objective: Objective, outcome: TrialOutcome, checkpoint: Any = None) -> None:
    result = {
        objective.names[0]: outcome.values[0] if outcome.values else math.nan,
        _OUTCOME: json.dumps(outcome.to_json()),
        _FOLDER: Path(tune.get_context().get_trial_dir()).name,
    }
    tune.report(result, checkpoint=checkpoint)


def _outcome_of(result: Mapping[str, Any]) -> TrialOutcome:
    return TrialOutcome.from_json(json.loads(result[_OUTCOME]))
