"""Runs the trial loop: rank 0 decides what is trained, every rank trains it, rank 0 records how it ended."""

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import optuna

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ObjectiveError, SearchFailed, describe
from hf_rlsearch.observation.trial_attributes import OBJECTIVE, PUBLISHED, TASK_FACTS, finished, n_trials_used
from hf_rlsearch.optuna import RLSampler
from hf_rlsearch.optuna.pruner import RLPruner
from hf_rlsearch.optuna.storage import cannot_continue, storage_errors
from hf_rlsearch.trainer.search.budget import CostModel, Outlook, RemainingBudget
from hf_rlsearch.trainer.search.coordinator import SearchCoordinator
from hf_rlsearch.trainer.search.distributed import ProcessGroup
from hf_rlsearch.trainer.search.leaderboard import Leaderboard
from hf_rlsearch.trainer.search.planner import Planner
from hf_rlsearch.trainer.search.providers import TrainerProvider, users_model_init
from hf_rlsearch.trainer.search.replay import replay_plan
from hf_rlsearch.trainer.search.result import SearchResult
from hf_rlsearch.trainer.search.runner import DistributedTrialRunner
from hf_rlsearch.trainer.search.trial import TrialPlan
from hf_rlsearch.trainer.session.arguments import n_train_rows
from hf_rlsearch.trainer.session.compat import is_sharded, optimizer_function
from hf_rlsearch.trainer.session.failures import STORAGE, RankLost, discard_reports
from hf_rlsearch.trainer.session.interrupts import interrupts_in_one_line, sigterm_as_exit
from hf_rlsearch.trainer.session.progress import Progress, quiet_libraries
from hf_rlsearch.trainer.session.seeds_and_memory import preserve_random_state
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.default_space import published_for
from hf_rlsearch.trainer.setup.defaults import default_pruner, default_sampler
from hf_rlsearch.trainer.setup.fingerprints import (
    function_fingerprint,
    model_fingerprint,
    steady_fingerprint,
    trainer_fingerprint,
)
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler
from hf_rlsearch.trainer.setup.identity import search_fingerprint
from hf_rlsearch.trainer.setup.objective import Objective, choose_objective
from hf_rlsearch.trainer.setup.task_facts import task_facts
from hf_rlsearch.trainer.storage import checkpoints
from hf_rlsearch.trainer.storage.paused import PausedTrials
from hf_rlsearch.trainer.storage.resume import Lease, discount_failures
from hf_rlsearch.trainer.storage.study import OpenedStudy, open_study

if TYPE_CHECKING:
    from transformers import Trainer

# Rows of the data to probe evaluation with: enough for every class of most data sets, few enough to cost seconds.
_N_ROWS = 32
logger = logging.getLogger(__name__)


def run_search(provider: TrainerProvider, settings: SearchConfig) -> SearchResult:
    """Searches, and leaves the best arguments and model in the Trainer.

    Returns:
        All trials; the same on every rank.
    """
    started, group = time.monotonic(), ProcessGroup()
    search: Search | None = None

    def say_interrupted() -> str:
        if search is not None:
            return search.say_interrupted()
        line = "Interrupted before the first trial."
        if group.is_main and not getattr(provider.reference.args, "disable_tqdm", False):
            print(line, file=sys.stderr)
        return line

    with (
        interrupts_in_one_line(say_interrupted),
        sigterm_as_exit(),
        quiet_libraries(),
        provider,
        ExitStack() as held,
    ):
        search = build_search(provider, settings, group, held, started)
        result = search.run()
        group.run_on_all(partial(search.finish, result))
        # A replay, perhaps with another Trainer, finds out again what hp_space changes.
        provider.side_effects.sampled.clear()
        return result


@dataclass
class Search:
    """Runs one rank's part of a search."""

    runner: DistributedTrialRunner

    def run(self) -> SearchResult:
        """Runs trials until there is a reason to stop.

        Returns:
            All trials; the same on every rank.

        Raises:
            SearchFailed: Too many trials have failed, or one with an exception that ``catch`` leaves out.
            StorageError: The storage, or the disk of a trial, cannot be written.
        """
        coordinator = self.runner.coordinator
        with nullcontext() if coordinator is None else coordinator.running():
            while (plan := self._next_plan()) is not None:
                outcome, fatal = self.runner.train(plan)
                if outcome.failure is not None and outcome.failure.kind == STORAGE:
                    # Not recorded, as after a kill: a full disk says nothing about the configuration.
                    raise cannot_continue(plan.number, outcome.failure.reason, plan.folder)
                self._on_rank_0(partial(SearchCoordinator.record, outcome=outcome))
                discard_reports(plan.folder)
                if fatal is not None:
                    raise fatal
                self._on_rank_0(SearchCoordinator.check_failures)
            return self._conclude()

    def say_interrupted(self) -> str:
        """Prints on rank 0 how far the interrupted search came, and returns the line; empty on other ranks."""
        coordinator = self.runner.coordinator
        return "" if coordinator is None else coordinator.interrupted()

    def finish(self, result: SearchResult) -> None:
        """Puts the best arguments and model into the Trainer, or restores it if no trial completed."""
        best = result.best_trial
        if best is None:
            self.runner.provider.restore()
            return
        load = checkpoints.weights_loader(result.best_checkpoint, self.runner.weights.get(best.number))
        load = self._agree_on_weights(load, best.number)
        plan, follows = replay_plan(result.study, best), self.runner.objective.follows
        why = "no file in its folder is one that the Trainer loads"
        if result.best_checkpoint is None:
            why = (
                f"it is not in {result.output_dir}. Processes that share a search need the same output_dir, on a disk "
                "that all of them see"
            )
        if load is not None:
            try:
                self.runner.provider.finish(plan, load, follows)
            except checkpoints.ModelNotLoadedError as error:
                if self.runner.group.size > 1:  # the models of the ranks would differ
                    raise
                load, why = None, str(error).rstrip(".")
        if load is not None:
            self._publish(result.study, best.number)
            return
        logger.warning(
            "The Trainer has no trained model, since that of trial %d cannot be loaded: %s. trainer.train() trains it "
            "again.%s",
            best.number,
            why,
            "" if result.best_checkpoint is None else f" Its files are in {result.best_checkpoint}.",
        )
        self.runner.provider.finish(plan, None, follows)

    def _publish(self, study: optuna.Study, number: int) -> None:
        """Publishes the best model where the arguments say so, unless a run of this search has done so already."""
        provider, coordinator = self.runner.provider, self.runner.coordinator
        published = {"trial": number, "repository": provider.repository}
        # The same on every rank: the study of the others is a copy.
        if provider.repository is None:
            return
        if study.user_attrs.get(PUBLISHED) == published:
            if coordinator is not None:
                coordinator.progress.say(f"The model of trial {number} is on the Hub already ({provider.repository}).")
            return
        if provider.publish() and coordinator is not None:
            with storage_errors(self.runner.settings.storage or provider.frozen.value("output_dir")):
                study.set_user_attr(PUBLISHED, published)

    def _agree_on_weights(self, load: Callable[[Any], None] | None, number: int) -> Callable[[Any], None] | None:
        """Returns what loads the best weights on every rank; a rank that has none gets those of the first that has.

        Raises:
            SearchFailed: Only some ranks see the files of a model of which each rank loads its own part.
        """
        group = self.runner.group
        has = [bool(each["has"]) for each in group.gather({"has": load is not None})]
        if all(has) or not any(has):
            return load
        if is_sharded(self.runner.provider.reference):
            missing = [rank for rank, has_it in enumerate(has) if not has_it]
            raise SearchFailed(
                f"The model of trial {number} is not on the disk of the ranks {missing}, and is too large to be sent: "
                "output_dir has to be on a disk that all machines share. Start the same command again there."
            )
        own, source = load, has.index(True)

        def load_or_receive(trainer: Any) -> None:
            if own is not None:
                own(trainer)
            group.send_tensors(trainer.model.state_dict().values(), source)

        return load_or_receive

    def _next_plan(self) -> TrialPlan | None:
        def ask(coordinator: SearchCoordinator) -> Params:
            plan = coordinator.next_plan()
            return {} if plan is None else plan.to_json()

        plan = self._on_rank_0(ask)
        return TrialPlan.from_json(plan) if plan else None

    def _conclude(self) -> SearchResult:
        result: SearchResult | None = None

        def conclude(coordinator: SearchCoordinator) -> Params:
            nonlocal result
            result = coordinator.conclude()
            return result.to_json() if self.runner.group.size > 1 else {}

        data = self._on_rank_0(conclude)
        # Rank 0 keeps its own result, whose study is the stored one.
        found = result if result is not None else SearchResult.from_json(data)
        return replace(found, side_effects=self.runner.provider.side_effects)

    def _on_rank_0(self, step: Callable[[SearchCoordinator], Params | None]) -> Params:
        """Runs a step of the coordinator; all ranks get its answer, or raise its exception."""

        runner = self.runner

        def act() -> Params:
            assert runner.coordinator is not None
            with storage_errors(runner.settings.storage or runner.provider.frozen.value("output_dir")):
                return step(runner.coordinator) or {}

        return runner.group.run_on_main(act)


def build_search(
    provider: TrainerProvider, settings: SearchConfig, group: ProcessGroup, held: ExitStack, started: float
) -> Search:
    """Settles space and objective on every rank, opens the study on rank 0, and starts the coordinator there.

    Rank 0 holds the study until ``held`` is closed. The time of the search counts from ``started``, in
    ``time.monotonic()``.
    """
    functions = _functions(provider, settings)
    before = {name: function_fingerprint(function) for name, function in functions.items()}
    configurations = group.run_on_all(lambda: provider.configuration_sampler(settings))
    of_trainer = trainer_fingerprint(provider.reference, searched=configurations.changed)
    objective = probe_objective(provider, settings, group)
    model = _initial_model(provider, group)
    coordinator: SearchCoordinator | None = None
    where = settings.storage or provider.frozen.value("output_dir")

    @storage_errors(where)
    def start() -> Params:
        nonlocal coordinator
        steady = {name: steady_fingerprint(functions[name], before[name]) for name in functions}
        identity = search_fingerprint(
            configurations, objective, provider.reference, model, {**of_trainer, **steady}, settings.constraints
        )
        opened = _open_study(provider, settings, objective, configurations, identity)
        lease = Lease.take(opened.study, alone=settings.storage is None)
        held.callback(lease.release)
        discounted = discount_failures(opened.study, alone=settings.storage is None)
        coordinator = _build_coordinator(
            provider, settings, objective, configurations, opened, lease, group.size, started
        )
        coordinator.start(replace(opened, note="\n".join(filter(None, (opened.note, discounted)))))
        reads_facts = isinstance(opened.study.sampler, RLSampler) or isinstance(opened.study.pruner, RLPruner)
        return {
            "needs_facts": reads_facts and TASK_FACTS not in opened.study.user_attrs,
            # A search that has come further goes on, and a finished one is to return its result, without a delay.
            "evaluates": len(objective.directions) == 1 and not finished(opened.study),
            # Found by an earlier start on all rows, unlike by this one.
            "undefined": opened.study.user_attrs[OBJECTIVE].get("undefined", ()),
        }

    begun = group.run_on_main(start)
    objective = replace(objective, undefined=tuple(sorted({*objective.undefined, *begun["undefined"]})))
    if begun["needs_facts"]:
        facts, objective = _measure_facts(provider, objective, configurations, group, evaluates=begun["evaluates"])

        @storage_errors(where)
        def store() -> Params:
            assert coordinator is not None
            # Another process that started at the same moment may have stored them.
            if TASK_FACTS not in coordinator.study.user_attrs:
                coordinator.study.set_user_attr(TASK_FACTS, facts)
            if objective.undefined:
                coordinator.study.set_user_attr(OBJECTIVE, objective.to_json())
            return {}

        group.run_on_main(store)
    else:
        provider.release()
    return Search(DistributedTrialRunner(provider, settings, group, objective, coordinator))


def _functions(provider: TrainerProvider, settings: SearchConfig) -> dict[str, Any]:
    """The user's functions that decide what is trained and how it is scored, by their names in the fingerprint."""
    trainer = provider.reference
    further = {"compute_loss": getattr(trainer, "compute_loss_func", None), "optimizer": optimizer_function(trainer)}
    return {
        "model_init": users_model_init(provider.model_function),
        "collator": getattr(trainer, "data_collator", None),
        "compute_objective": settings.compute_objective,
        **{name: function for name, function in further.items() if function is not None},
    }


def _initial_model(provider: TrainerProvider, group: ProcessGroup) -> Params:
    """Facts of the model that the search starts from; every rank makes that model, which the provider keeps."""
    with preserve_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return group.run_on_all(lambda: model_fingerprint(provider.initial_model()))


def _measure_facts(
    provider: TrainerProvider,
    objective: Objective,
    configurations: ConfigurationSampler,
    group: ProcessGroup,
    *,
    evaluates: bool,
) -> tuple[dict[str, float], Objective]:
    """Returns the facts of the task, with the objective of the model before its first step; every rank calls it.

    The objective is returned as well, with what this evaluation says about it.

    The evaluation uses all rows, as those of the trials do. If it fails the trials will tell why.

    Raises:
        RankLost: Evaluation fails on one rank while the others wait for this rank.
    """
    facts: dict[str, float] = {}

    def measure() -> None:
        nonlocal objective
        trainer = provider.untrained()
        # On every rank, and before the evaluation: it may shard the model.
        roles = {hyperparameter.role for hyperparameter in configurations.space.hyperparameters}
        facts.update(task_facts(trainer, roles, objective, group.size))
        if evaluates:
            metrics = trainer.evaluate()
            objective = objective.with_untrained(metrics)
            untrained = objective(metrics)[0]
            facts.update({"untrained": untrained} if math.isfinite(untrained) else {})

    with preserve_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            group.run_on_all(measure)
        except RankLost:
            raise
        except Exception as error:
            logger.warning(
                "The untrained model cannot be evaluated, so the agent is told less about the task: %s", describe(error)
            )
        finally:
            provider.release()
    return facts, objective


def _open_study(
    provider: TrainerProvider,
    settings: SearchConfig,
    objective: Objective,
    configurations: ConfigurationSampler,
    identity: Params,
) -> OpenedStudy:
    frozen, space = provider.frozen, configurations.space
    # The seed of the training is the default for the sampler, so that a script that runs again repeats its search.
    seed = abs(int(frozen.value("seed")))
    return open_study(
        settings,
        output_dir=frozen.value("output_dir"),
        identity=identity,
        directions=objective.directions,
        sampler=default_sampler(settings, space, seed=seed, known=published_for(provider.reference)),
        pruner=default_pruner(settings, len(objective.directions), space),
    )


def _build_coordinator(
    provider: TrainerProvider,
    settings: SearchConfig,
    objective: Objective,
    configurations: ConfigurationSampler,
    opened: OpenedStudy,
    lease: Lease,
    world_size: int,
    started: float,
) -> SearchCoordinator:
    study, trainer = opened.study, provider.reference
    baseline = configurations.baseline_params(getattr(getattr(trainer, "model", None), "config", None))
    cost_model = CostModel(configurations, n_train_rows(trainer), world_size)
    paused = PausedTrials(study, settings, opened.folder, configurations, world_size)
    return SearchCoordinator(
        study=study,
        settings=settings,
        objective=objective,
        configurations=configurations,
        planner=Planner(
            study=study,
            folder=opened.folder,
            lease=lease,
            configurations=configurations,
            baseline=baseline,
            cost_model=cost_model,
            paused=paused,
            hp_name=settings.hp_name,
            world_size=world_size,
        ),
        leaderboard=Leaderboard(study, opened.folder, objective, settings, paused),
        budget=RemainingBudget(study, settings, cost_model, started),
        outlook=Outlook(study, settings),
        paused=paused,
        progress=Progress(
            n_trials=settings.displayed_n_trials,
            n_done=n_trials_used(study),
            baseline=baseline[1],
            quiet=bool(getattr(trainer.args, "disable_tqdm", False)),
        ),
        may_be_finished=opened.resumed and settings.storage is None,
    )


def probe_objective(provider: TrainerProvider, settings: SearchConfig, group: ProcessGroup) -> Objective:
    """Settles the objective from the metrics of an evaluation of the untrained model; every rank calls it.

    Raises:
        ObjectiveError: There is nothing to evaluate on, evaluation fails, or the objective is unusable.
        ArgumentsError: The target does not fit the objective.
        RankLost: Evaluation fails on one rank while the others wait for this rank.
    """
    with preserve_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = _probe_metrics(provider, group)
    return group.run_on_all(
        lambda: (
            choose_objective(
                metrics,
                args=provider.frozen.original(),
                compute_objective=settings.compute_objective,
                metric=settings.metric,
                direction=settings.direction,
            )
            .with_target(settings.target)
            .with_untrained(metrics)
        )
    )


def _probe_metrics(provider: TrainerProvider, group: ProcessGroup) -> Mapping[str, Any]:
    """Evaluates on a few rows, and on all rows if that fails on any rank."""
    try:
        return group.run_on_all(lambda: _evaluate(provider.probe(), _first_rows))
    except RankLost:
        raise
    except Exception:
        # Some metrics need all rows, such as an AUC that must see both classes.
        try:
            return group.run_on_all(lambda: _evaluate(provider.probe(), lambda data: data))
        except (ObjectiveError, RankLost):
            raise
        except Exception as error:
            raise ObjectiveError(
                f"Evaluating the untrained model raised {describe(error)}. Make trainer.evaluate() work first."
            ) from error


def _evaluate(trainer: "Trainer", select: Callable[[Any], Any]) -> Mapping[str, Any]:
    data = getattr(trainer, "eval_dataset", None)
    if data is None:
        raise ObjectiveError("The Trainer has no eval_dataset, so trials could not be compared. Pass one to it.")
    compute = getattr(trainer, "compute_metrics", None)
    if compute is None:
        return dict(trainer.evaluate(select(data)))
    returned: list[Any] = []

    @wraps(compute)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        returned.append("no result")
        returned[-1] = compute(*args, **kwargs)
        return returned[-1]

    trainer.compute_metrics = recorded
    try:
        return dict(trainer.evaluate(select(data)))
    except Exception as error:
        raise _better_error(error, trainer, returned) from error
    finally:
        trainer.compute_metrics = compute


def _better_error(error: Exception, trainer: "Trainer", returned: list[Any]) -> Exception:
    """The error of an evaluation, or one that says which common mistake of ``compute_metrics`` caused it."""
    if not returned:
        return error
    if returned[-1] != "no result" and not isinstance(returned[-1], Mapping):
        kind = type(returned[-1]).__name__
        return ObjectiveError(
            f"compute_metrics returned {returned[-1]!r}, a {kind}; expected a dict such as {{'accuracy': 0.5}}."
        )
    if returned[-1] == "no result" and getattr(trainer.args, "predict_with_generate", None) is False:
        return ObjectiveError(
            f"compute_metrics raised {describe(error)}. It gets scores of tokens. If it decodes generated text, set "
            "predict_with_generate=True in Seq2SeqTrainingArguments."
        )
    return error


def _first_rows(data: Any) -> Any:
    if isinstance(data, dict) or (isinstance(data, Mapping) and not hasattr(data, "num_rows")):
        return {name: _first_rows(part) for name, part in data.items()}
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        return data
    n = min(_N_ROWS, len(data))
    if hasattr(data, "select"):
        return data.select(range(n))
    from torch.utils.data import Subset

    return Subset(data, range(n))
