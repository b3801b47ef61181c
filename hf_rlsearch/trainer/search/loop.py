"""The trial loop: rank 0 decides what is trained, every rank trains it, rank 0 records how it ended."""

import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ObjectiveError
from hf_rlsearch.observation.trial_attributes import CHECKPOINT
from hf_rlsearch.optuna.storage import cannot_continue, storage_errors
from hf_rlsearch.trainer.search.attempt import DistributedTrialRunner
from hf_rlsearch.trainer.search.coordinator import SearchCoordinator, optimize_loop, stop_signals
from hf_rlsearch.trainer.search.distributed import STOP, ProcessGroup
from hf_rlsearch.trainer.search.providers import TrainerProvider
from hf_rlsearch.trainer.search.replay import replay_plan
from hf_rlsearch.trainer.search.result import SearchResult, best_runs
from hf_rlsearch.trainer.search.trial import TrialOutcome, TrialPlan
from hf_rlsearch.trainer.session.arguments import n_train_rows
from hf_rlsearch.trainer.session.failures import RankLost
from hf_rlsearch.trainer.session.progress import quiet_optuna, quiet_transformers
from hf_rlsearch.trainer.session.seeds_and_memory import preserve_random_state
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.default_space import published_for
from hf_rlsearch.trainer.setup.defaults import default_pruner, default_sampler, task_features
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler
from hf_rlsearch.trainer.setup.identity import SearchFingerprint
from hf_rlsearch.trainer.setup.objective import Objective, choose_objective
from hf_rlsearch.trainer.storage import checkpoints
from hf_rlsearch.trainer.storage.resume import release_ownership
from hf_rlsearch.trainer.storage.study import open_study

# Enough for every class of most data sets, few enough to cost seconds at most.
_N_ROWS = 32


def probe_metrics(provider: Any, settings: SearchConfig, group: ProcessGroup) -> Objective:
    """Settles the objective from the metrics that evaluation really gives; called on every rank.

    Args:
        provider: Of the Trainer.
        settings: Of the search.
        group: The processes, which evaluate together.

    Raises:
        ObjectiveError: There is nothing to evaluate on, evaluation fails, or the objective is unusable.
        RankLost: It fails on one rank while the others wait for this rank.
    """
    with preserve_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = _evaluate(provider, group)

    def settle() -> Objective:
        return choose_objective(
            metrics,
            args=provider.frozen.original(),
            compute_objective=settings.compute_objective,
            metric=settings.metric,
            direction=settings.direction,
        )

    return group.run_on_all(settle)


def _evaluate(provider: Any, group: ProcessGroup) -> Mapping[str, Any]:
    """The metrics; all ranks take the second way if the first one fails on any of them."""
    try:
        return group.run_on_all(lambda: _metrics(provider.probe(), _few))
    except RankLost:
        raise
    except Exception:
        # Some metrics need all rows, such as an AUC that must see both classes.
        try:
            return group.run_on_all(lambda: _metrics(provider.probe(), lambda data: data))
        except (ObjectiveError, RankLost):
            raise
        except Exception as error:
            raise ObjectiveError(
                f"Evaluating the untrained model raised {type(error).__name__}: {error}. Make trainer.evaluate() "
                f"work first."
            ) from error


def _metrics(trainer: Any, rows: Callable[[Any], Any]) -> Mapping[str, Any]:
    data = getattr(trainer, "eval_dataset", None)
    if data is None:
        raise ObjectiveError("The Trainer has no eval_dataset, so trials could not be compared. Pass one to it.")
    return dict(trainer.evaluate(rows(data)))


def _few(data: Any) -> Any:
    if isinstance(data, dict) or (isinstance(data, Mapping) and not hasattr(data, "num_rows")):
        return {name: _few(part) for name, part in data.items()}
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        return data
    n = min(_N_ROWS, len(data))
    if hasattr(data, "select"):
        return data.select(range(n))
    from torch.utils.data import Subset

    return Subset(data, range(n))


def run_search(provider: TrainerProvider, settings: SearchConfig) -> Any:
    """Searches, and leaves the Trainer with the best arguments and model.

    Args:
        provider: Of the trials' Trainers.
        settings: Of the search.

    Returns:
        A ``BestRun``, or a list of them for several directions; the same on every rank.
    """
    group = ProcessGroup()
    with stop_signals(), quiet_optuna(), quiet_transformers(), provider:
        search = Search(provider, settings, group)
        result = search.run()
        group.run_on_all(partial(search.finish, result))
        return best_runs(result, search.objective.multi)


logger = logging.getLogger(__name__)


class Search:
    """One search on one rank.

    Args:
        provider: Of the trials' Trainers.
        settings: Of the search.
        group: The processes of the search.
    """

    def __init__(self, provider: TrainerProvider, settings: SearchConfig, group: ProcessGroup) -> None:
        self._provider, self._settings, self._group = provider, settings, group
        self._configurations: ConfigurationSampler = group.run_on_all(lambda: provider.configuration_sampler(settings))
        self.objective: Objective = probe_metrics(provider, settings, group)
        self._coordinator: SearchCoordinator | None = None
        group.run_on_main(self._open)
        self._runner = DistributedTrialRunner(provider, settings, group, self.objective, self._coordinator)

    def run(self) -> SearchResult:
        """Runs trials until a reason to stop; the result holds all of them."""
        if self._coordinator is None:
            return self._loop()
        try:
            with optimize_loop(self._coordinator.study):
                return self._loop()
        finally:
            self._coordinator.progress.close()
            if self._settings.storage is None:
                release_ownership(self._coordinator.study)

    def finish(self, result: SearchResult) -> None:
        """Gives the Trainer the best arguments and model, or back as it was if no trial completed."""
        best = result.best_trial
        if best is None:
            self._provider.restore()
            return
        load = checkpoints.weights_loader(best.user_attrs.get(CHECKPOINT), self._runner.weights_of(best.number))
        if load is None:
            logger.warning("The model of trial %d is not on disk: trainer.train() trains it again.", best.number)
        self._provider.finish(replay_plan(result.study, best), load, self.objective.follows)

    def _open(self) -> Params:
        """Rank 0: opens the study and prepares to decide."""
        settings, provider = self._settings, self._provider
        facts = task_features(provider.reference, {h.role for h in self._configurations.space.hyperparameters})
        opened = open_study(
            output_dir=provider.frozen.value("output_dir"),
            identity=SearchFingerprint.from_search(self._configurations, self.objective, provider.reference).to_json(),
            directions=self.objective.directions,
            n_trials=settings.displayed_n_trials,
            sampler=default_sampler(
                settings,
                self._configurations.space,
                seed=self._seed(),
                facts=facts,
                known=published_for(provider.reference),
            ),
            pruner=default_pruner(settings, len(self.objective.directions), self._configurations.space, facts),
            storage=settings.storage,
            study_name=settings.study_name,
            load_if_exists=settings.load_if_exists,
            resume=settings.resume,
        )
        self._coordinator = SearchCoordinator(
            opened,
            self._configurations,
            self.objective,
            settings,
            config=getattr(getattr(provider.reference, "model", None), "config", None),
            n_rows=n_train_rows(provider.reference),
            world_size=self._group.size,
            alone=settings.storage is None,
            quiet=bool(getattr(provider.reference.args, "disable_tqdm", False)),
        )
        return {}

    def _seed(self) -> int:
        """The user's training seed: it makes the whole script repeatable, the search included."""
        seed = self._provider.frozen.value("seed") if "seed" in self._provider.frozen.names else 0
        return abs(int(seed or 0))

    def _loop(self) -> SearchResult:
        while True:
            message = self._group.run_on_main(self._next)
            if message["kind"] == STOP:
                return self._result(message["reason"])
            message.pop("kind")
            plan = TrialPlan.from_json(message)
            fatal = self._train(plan)
            if fatal is not None:
                raise fatal
            self._group.run_on_main(self._check)

    def _next(self) -> Params:
        assert self._coordinator is not None
        with storage_errors(self._where()):
            return self._coordinator.next()

    def _where(self) -> Any:
        return self._settings.storage or self._provider.frozen.value("output_dir")

    def _check(self) -> Params:
        """Rank 0: goes on after a failed trial, or raises."""
        assert self._coordinator is not None
        self._coordinator.tolerance.check(None)
        return {}

    def _train(self, plan: TrialPlan) -> Exception | None:
        """Trains one configuration on all ranks and records it; returns an exception that has to end the search."""
        outcome, fatal = self._runner.train(plan)
        if outcome.failure is not None and outcome.failure.kind == "storage":
            # Not recorded: it is no answer about the configuration, and is taken up again like after a kill.
            return cannot_continue(plan.number, outcome.failure.reason, plan.folder)
        self._group.run_on_main(partial(self._record, plan, outcome))
        return fatal

    def _record(self, plan: TrialPlan, outcome: TrialOutcome) -> Params:
        assert self._coordinator is not None
        with storage_errors(self._where()):
            self._coordinator.record(plan, outcome)
        return {}

    def _result(self, reason: str) -> SearchResult:
        result: SearchResult | None = None

        def conclude() -> Params:
            nonlocal result
            with storage_errors(self._where()):
                result = self._conclude(reason)
            return result.to_json() if self._group.size > 1 else {}

        data = self._group.run_on_main(conclude)
        return result if result is not None else SearchResult.from_json(data)

    def _conclude(self, reason: str) -> SearchResult:
        """Rank 0: the result, said to people and noted in the storage."""
        assert self._coordinator is not None
        coordinator = self._coordinator
        coordinator.leaderboard.discard_checkpoints(confirmed=True)
        result = SearchResult(
            study=coordinator.study,
            metric=", ".join(self.objective.names),
            output_dir=coordinator.folder,
            stopped_by=reason,
            n_trials=self._settings.displayed_n_trials,
        )
        coordinator.conclude(result.summary())
        return result
