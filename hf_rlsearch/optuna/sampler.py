"""Lets the meta-trained agent choose the configuration of each Optuna trial (RLSampler)."""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.samplers._base import _process_constraints_after_trial  # not public in Optuna
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray, Params
from hf_rlsearch._validation import did_you_mean, is_finite_number, is_integer
from hf_rlsearch.agent import AGENTS, META_TRAINED, ONLINE
from hf_rlsearch.agent.decision import Decision
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.observation.history import COMPLETE, LARGEST, PRUNED, RUNNING, History, stable_distributions
from hf_rlsearch.observation.observation import FACTS, is_at_chance, log_price_factor
from hf_rlsearch.observation.trial_attributes import DECISION, ROUNDING, SAMPLER_SEED, TASK_FACTS
from hf_rlsearch.optuna.constraints import chance_of_feasibility, is_likely, is_unconstrained
from hf_rlsearch.optuna.failures import chance_of_success
from hf_rlsearch.optuna.filters import exceeds_memory, is_duplicate, is_exhausted, n_with_further_names
from hf_rlsearch.space import Hyperparameter, SearchSpace, infer_role
from hf_rlsearch.space.candidates import unique_rows
from hf_rlsearch.space.roles import check_role

if TYPE_CHECKING:
    from hf_rlsearch.agent.agent import Agent
    from hf_rlsearch.agent.learners import OnlineAgent, ScratchAgent

logger = logging.getLogger(__name__)

# Enough to hold a neighbourhood of the best trials and a sample of the rest; scoring them takes milliseconds
# (scripts/benchmarks/ask.py).
_MAX_CANDIDATES = 1024
_N_INCUMBENTS = 5
_LEAST_LEFT = 1e-2  # of a training that is resumed: its price is above 0
# Candidates of an agent that starts untrained, the same throughout a search: more would never be told apart.
_MAX_ACTIONS = 256
# Of an expected gain: the first complete trials are not judged by what was promised for them, of the others the latest;
# and the promise with which the agent is trusted before any is judged, on the task's scale.
_N_TRUSTED, _N_JUDGED, _TRUST = 3, 10, 0.1
# Trials started at nearly the same time; older trials that never suggested anything were killed.
_N_SIMULTANEOUS = 8


@dataclass(frozen=True)
class CostCooling:
    """The remaining budget of a search and the prices of its candidates, all in one unit such as full trainings.

    Attributes:
        price: A search space and C x H candidates -> C prices greater than 0.
        left: Not negative.
        total: Of the whole search, greater than 0; infinity where something else ends the search, so that prices only
            decide what fits.
    """

    price: Callable[[SearchSpace, IntArray], FloatArray]
    left: float
    total: float

    def affordable(self, prices: FloatArray) -> BoolArray:
        """C, True where a training can end before the search does; the cheapest ones where none can."""
        fits = self.fits(prices)
        return fits if fits.any() else prices <= prices.min()

    def fits(self, prices: FloatArray) -> BoolArray:
        """C, True where a training can end before the search does."""
        return np.asarray(prices <= self.left * (1 + ROUNDING))

    def acquisition_weight(self, prices: FloatArray) -> FloatArray:
        """C factors on expected improvement, see `log_price_factor`."""
        return np.exp(log_price_factor(np.maximum(prices, 1e-9), np.array(self.left / self.total)))


@dataclass(frozen=True)
class ExpectedGain:
    """How much the next trials are expected to improve the best one.

    Attributes:
        n_trials: How many.
        share: Improvement of the best on the task's scale, where 1 is the distance from its median to its best.
        value: The same in the unit of the objective, not negative in either direction.
        promised: What was expected of the last ten complete trials together, in the unit of the objective; 0 while
            none can be judged.
        realised: By how much they have improved the best, in the same unit.
    """

    n_trials: int
    share: float
    value: float
    promised: float = 0.0
    realised: float = 0.0


class RLSampler(BaseSampler):
    """Chooses each trial's configuration by the expected improvement that meta-trained predictors see in it.

    Works in every Optuna study: any storage, several workers, conditional hyperparameters, failed trials. The agent
    sees all trials of the study, running ones included (of more than 160 the best 80 and the latest 80), and picks a
    candidate of the discretised search space that no trial has had, complete, pruned or failed. When trials have had
    all of them, it adds levels halfway between those near the best trials, unless ``search_space`` is given. It repeats
    a candidate only if ``plan_for`` says that its training can be resumed, or if no other is left. With more
    than 24 hyperparameters it predicts nothing and spreads the trials over the space. Hyperparameters that cannot be
    chosen jointly (in the first trial of a study without ``search_space``, or new, or with a range that moves from
    trial to trial) are chosen one by one, in the order of suggestion, each given the earlier ones. Candidates
    that no trial has had together with such hyperparameters come first, then those that few trials have had.

    Threads of one process (``n_jobs=4``) decide in turns and see each other's choices. Worker processes that start at
    the same moment do not: each computes what the workers with smaller trial numbers choose. For that they need the
    same seed, or none: a seed that is not given is drawn once and stored with the study. Where another worker has got
    the same configuration nevertheless, from results that came meanwhile, one of them chooses again. While trials run,
    the value to improve on is the best of the incumbent and of their outcomes, which are drawn jointly with the
    candidate's, so that workers do not train neighbours of one promising configuration.

    Where trials have failed, expected improvement counts by the chance that a training ends well, estimated from which
    configurations failed. The more failures lie beside successes, the less they count.

    In a study whose trials have constraint values (``trial.set_constraint``, or ``constraints_func``) only trials that
    violate none count as the best. The agent predicts how likely a candidate violates none, tries likely ones where
    there are any, and multiplies their expected improvement by that chance.

    In a study with several directions the agent maximises the negative rank of non-dominated sorting, so it looks for
    points on the Pareto front.

    All chance in a trial is drawn from the seed and the trial's number: the same seed gives the same search, and a
    resumed search continues as if it had never stopped. Apart from the seed and ``plan_for``, the sampler keeps nothing
    from trial to trial that a choice depends on.

    Example:
        >>> import optuna
        >>> from hf_rlsearch import RLSampler
        >>> study = optuna.create_study(sampler=RLSampler(seed=0))
        >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=10)

    Args:
        seed: Not negative; where not given it is drawn from the operating system, once for a study.
        n_trials: Total number of trials of the search, if that is known: the agent explores less near the end.
        weights: Weights of the agent: a bundled name, a file, the folder of an agent that ``hf_rlsearch.learn`` has
            written, or a repository of the Hub; the bundled ones where not given.
        agent: Who decides: "meta-trained", the agent of the weights; or one of stable-baselines3 that starts untrained
            and learns within the search, "ppo-scratch" or "dqn". These need many more trials: they are there to be
            compared with. They choose among 256 candidates at most, the first trial and hyperparameters that cannot be
            chosen jointly at random.
        learn: "online": PPO trains the decision head of the meta-trained agent on within the search, after every eight
            trials. In searches of twenty trials it brought nothing.
        search_space: The space to search, so that the first trial is chosen jointly too. Read from the study's trials,
            each time, where not given.
        roles: Role by name, for hyperparameters whose name says too little; not together with ``search_space``.
        n_points: Number of levels, of all numeric hyperparameters or by name; not together with ``search_space``.
        published: Settings known to work, which are always among the candidates of a space too large to enumerate.
        facts: What is known of the task, by name; all of it may be left out. As log10: ``n_parameters`` of the model
            and ``trainable``, the share of them that is trained; ``n_examples``, rows of the training data;
            ``n_steps``, optimizer steps of a training before any hyperparameter changes them; ``n_evaluated``, rows of
            the evaluation data; ``n_classes``. As 0 or 1: ``lora``, and ``from_scratch`` for a model that was not
            pretrained. ``untrained``: the objective of the model before its first step, as the study would record it.
            A fact that is not given is read from the study's user attribute "rl:facts", which a search of a Trainer
            writes; whether the objective is maximised is read from the study's direction.
        max_resource: Step of a full training, as reported; the largest step seen so far where not given.
        constraints_func: Called with each trial that was trained, returns one number for each constraint, above 0 where
            the trial violates it. Constraints that the objective function sets by ``trial.set_constraint`` need none.

    Raises:
        ArgumentsError: An argument has the wrong type or range, two exclude each other, or a fact is unknown.
        SearchSpaceError: There is no such role.
    """

    def __init__(  # noqa: PLR0913 -- options that users give by name
        self,
        *,
        seed: int | None = None,
        n_trials: int | None = None,
        weights: str | Path | None = None,
        agent: str = META_TRAINED,
        learn: str | None = None,
        search_space: SearchSpace | None = None,
        roles: Mapping[str, str] | None = None,
        n_points: Mapping[str, int] | int | None = None,
        published: Sequence[Params] = (),
        facts: Mapping[str, float] | None = None,
        max_resource: float | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
    ) -> None:
        for name, value, smallest in (("seed", seed, 0), ("n_trials", n_trials, 1)):
            if value is not None and (not is_integer(value) or value < smallest):
                raise ArgumentsError(f"{name} is {value!r}, expected a whole number of at least {smallest}, or None.")
        if agent not in AGENTS:
            raise ArgumentsError(
                f"agent={agent!r} given, expected one of {', '.join(AGENTS)}.{did_you_mean(agent, AGENTS)}"
            )
        if agent != META_TRAINED and weights is not None:
            raise ArgumentsError(
                f"weights={str(weights)!r} and agent={agent!r} given, but that agent starts untrained: leave one of "
                "them out."
            )
        if constraints_func is not None and not callable(constraints_func):
            raise ArgumentsError(
                f"constraints_func is {constraints_func!r}, expected a function of a trial that returns numbers."
            )
        if learn not in (None, ONLINE) or (learn is not None and agent != META_TRAINED):
            raise ArgumentsError(
                f"learn={learn!r} and agent={agent!r} given, expected learn={ONLINE!r} with agent={META_TRAINED!r}, or "
                "learn=None: the other agents learn anyway."
            )
        if search_space is not None and (roles is not None or n_points is not None):
            raise ArgumentsError(
                "roles or n_points were given with a search_space, which has its own roles and levels: leave them out."
            )
        if search_space is not None and not isinstance(search_space, SearchSpace):
            raise ArgumentsError(
                f"search_space is a {type(search_space).__name__}, expected a SearchSpace: make one with "
                "SearchSpace.from_distributions(distributions) or SearchSpace.from_functions(hp_space, model_init)."
            )
        self._is_seeded = seed is not None
        self._seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0] if seed is None else seed)
        self._n_trials = n_trials
        self._weights = weights
        self._agent = agent
        self._learn = learn
        self._search_space = search_space
        self._roles = {name: check_role(name, role) for name, role in (roles or {}).items()}
        self._n_points = dict(n_points) if isinstance(n_points, Mapping) else n_points
        self._published = [dict(params) for params in published]
        self._facts = checked_facts(facts)
        self._max_resource = max_resource
        self._constraints_func = constraints_func
        self._has_warned = False  # that all was tried
        self._n_left: int | None = None
        self._cost_cooling: CostCooling | None = None
        self._resumable: frozenset[int] = frozenset()

    @property
    def agent(self) -> str:
        """Who decides: "meta-trained", "ppo-scratch" or "dqn"; only the first estimates gains."""
        return self._agent

    def plan_for(
        self, n_left: int | None, cost_cooling: CostCooling | None = None, resumable: Collection[int] = ()
    ) -> None:
        """Sets how many more trials the search can afford, and whose configurations may be proposed again.

        Args:
            n_left: Including the next trial; None where unknown. The sampler's own ``n_trials`` stays an upper bound.
            cost_cooling: Remaining budget and prices of candidates; where not given, every trial costs the same.
            resumable: Numbers of the pruned trials whose training a trial of the same configuration resumes.
        """
        self._n_left, self._cost_cooling = n_left, cost_cooling
        # An agent that starts untrained has the same candidates throughout a search.
        self._resumable = frozenset(resumable) if self._agent == META_TRAINED else frozenset()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Stores the seed with the study where none was given and none is stored, so that all workers have the same."""
        storage, study_id = study._storage, study._study_id
        if not self._is_seeded and SAMPLER_SEED not in storage.get_study_system_attrs(study_id):
            storage.set_study_system_attr(study_id, SAMPLER_SEED, self._seed)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stores what ``constraints_func`` returns for a complete or pruned trial, as Optuna's own samplers do."""
        if self._constraints_func is not None:
            assert state in (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)
            _process_constraints_after_trial(self._constraints_func, study, trial, state)

    def is_exhausted(self, study: Study) -> bool:
        """Whether trials have had all candidates, apart from those that can be resumed.

        The next trial is a repetition then, or without ``search_space`` has values between the levels so far. False
        while the search space is unknown, or has more than a few thousand candidates.
        """
        known = self._known(study)
        if known is None:
            return False
        _, history, space = known
        return is_exhausted(space, self._trained(history))

    def lowest_price(self, study: Study) -> float | None:
        """The lowest price of a configuration that may be proposed next, in the unit of ``plan_for``.

        None where ``plan_for`` has set no prices, or while the search space is unknown.
        """
        known = self._known(study)
        if known is None:
            return None
        trials, history, space = known
        rows = self._candidates(space, history, np.random.default_rng([self._seed_of(study), len(trials)]))
        history = history.select(history.decided)
        prices = self._prices(space, history, rows)
        return None if prices is None else float(prices[self._allowed(space, trials, history, rows)].min())

    def expected_gain(self, study: Study, n_trials: int) -> ExpectedGain | None:
        """Estimates by how much the next trials will improve the best one.

        The agent predicts the improvement by the best of the ``n_trials`` candidates that promise most, as if they were
        trained side by side and their outcomes were independent. A candidate counts by the chance that its training
        ends well, as when a trial is chosen. All of it is multiplied by how true the promises of the last ten complete
        trials have come: (realised + 0.1) / (promised + 0.1), both on the task's scale.

        Args:
            study: With one direction.
            n_trials: At least 1.

        Returns:
            None where nothing can be predicted: before three complete trials or while all of them are equal, in a study
            with several directions, in a space that is unknown, too large, or tried out, and by an agent that starts
            untrained.

        Raises:
            ArgumentsError: ``n_trials`` is no whole number of at least 1.
        """
        if not (is_integer(n_trials) and n_trials >= 1):
            raise ArgumentsError(f"n_trials={n_trials!r} given, expected a whole number, at least 1.")
        known = self._known(study) if self._agent == META_TRAINED and len(study.directions) == 1 else None
        if known is None:
            return None
        trials, history, space = known
        if is_exhausted(space, self._trained(history)):
            return None
        from hf_rlsearch.agent.agent import agent_for

        rows = self._candidates(space, history, np.random.default_rng([self._seed_of(study), len(trials)]))
        history = history.select(history.decided)
        mask = self._allowed(space, trials, history, rows)
        feasibility = self._feasibility(space, trials, history, rows)
        if feasibility is not None:
            mask = _where_possible(mask, is_likely(feasibility, mask, trials))
        facts = facts_for_agent(study, self._facts)
        success = chance_of_success(space, history, rows)
        found = agent_for(self._weights, space).expected_gain(
            space, history, rows, mask=mask, n_trials=n_trials, facts=facts, success=success
        )
        if found is None:
            return None
        gain, unit = found
        promised, realised = _track_record(trials, history, unit)
        share = gain * (realised + _TRUST) / (promised + _TRUST)
        return ExpectedGain(n_trials, share, share * unit, promised=promised * unit, realised=realised * unit)

    def reseed_rng(self) -> None:
        """Does nothing: all chance is drawn from the trial's number, which differs between workers."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The hyperparameters that are chosen jointly: the given space, or all whose range does not move."""
        if self._search_space is not None:
            return dict(self._search_space.distributions)
        return stable_distributions(study._get_trials(deepcopy=False, use_cache=True), exclude=trial.number)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Chooses a value for every name in ``search_space``, and stores why in the trial's ``"rl:decision"``.

        Workers that start at the same moment do not see each other's choices. Each worker computes the choices of the
        workers with smaller trial numbers, which depend on the seed and the trials, and takes these choices as given.
        Where another trial has got the same configuration meanwhile, the worker chooses again.
        """
        if not search_space:
            return {}
        with _turn(study):
            return self._sample_jointly(study, trial, search_space)

    def _sample_jointly(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if search_space.keys() <= fixed.keys():
            return {}  # nothing to choose: the trial was queued with its params, or continues after an interruption
        history = self._history(study, trial)
        space = self._refined(self._space(search_space, history), history)
        if not self._has_warned and is_exhausted(space, self._trained(history)):
            self._has_warned = True
            logger.warning(
                f"All {space.n_candidates:,} candidates of the search space have been tried: from trial {trial.number} "
                "on they are repeated. End the study, or search wider ranges or more levels."
            )
        for _ in range(_N_SIMULTANEOUS):
            params, decision = self._choose_beside(study, space, history, trial.number, fixed)
            study._storage.set_trial_system_attr(trial._trial_id, DECISION, {**decision.to_json(), "params": params})
            if not (history.status == RUNNING).any():
                break
            # Another process may have decided meanwhile, from results that were not known here. Of two trials with the
            # same configuration the one that is stored later sees the other here.
            known = dict(zip(history.numbers.tolist(), history.params, strict=True))
            study._thread_local.cached_all_trials = None
            history = self._history(study, trial)
            latest = zip(history.numbers.tolist(), history.params, strict=True)
            new = history.select(history.decided & np.array([known.get(number) != own for number, own in latest]))
            if not is_duplicate(space, new, space.nearest_levels(params)[None])[0]:
                break
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Chooses a value for one hyperparameter, given the values that the trial has suggested before.

        While other workers choose at the same moment the value is drawn at random, or all would choose the same.
        """
        with _turn(study):
            value, reason = self._sample_one(study, trial, param_name, param_distribution)
            # With the value, which other threads have to know before Optuna stores it.
            stored = {**reason, "params": {param_name: value}}
            study._storage.set_trial_system_attr(trial._trial_id, f"{DECISION}:{param_name}", stored)
            return value

    def _sample_one(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> tuple[Any, dict[str, Any]]:
        """The value of one hyperparameter, and why; the reason is empty where the value was drawn at random."""
        history = self._history(study, trial)
        space = self._space({**trial.distributions, param_name: param_distribution}, history)
        index = space.names.index(param_name)

        def rows_of(space: SearchSpace) -> IntArray:
            rows = np.tile(space.nearest_levels(trial.params), (space.n_levels[index], 1))
            rows[:, index] = np.arange(len(rows))
            return rows

        space = self._refined(space, history, rows_of)
        levels, rows = space.hyperparameters[index].levels, rows_of(space)
        rng = np.random.default_rng([self._seed_of(study), trial.number, zlib.crc32(param_name.encode())])
        if self._agent != META_TRAINED or _being_decided(history, before=trial.number):
            known = self._trained(history.select(history.decided))
            fresh = _where_possible(~is_duplicate(space, known, rows))
            return levels[rng.choice(np.flatnonzero(fresh))], {}
        decision = self._decide(study, space, history, rows, trial.number, rng)
        return levels[decision.index], decision.to_json()

    def _choose_beside(
        self, study: Study, space: SearchSpace, history: History, number: int, fixed: Params
    ) -> tuple[Params, Decision]:
        """The configuration as of `_choose`, given those that the workers with smaller numbers are choosing now."""
        for index in _being_decided(history, before=number):
            params, _ = self._choose(study, space, history, int(history.numbers[index]))
            history = history.with_params(index, params)
        return self._choose(study, space, history, number, fixed)

    def _refined(
        self, space: SearchSpace, history: History, rows_of: Callable[[SearchSpace], IntArray | None] = lambda _: None
    ) -> SearchSpace:
        """The space with more levels near the best trials where all candidates were tried, of ``rows_of`` if given.

        The levels of a given space are what the user wants, and an agent that starts untrained has the same candidates
        throughout a search: these get no more.
        """
        if self._search_space is not None or self._agent != META_TRAINED:
            return space
        trained = self._trained(history)
        for n_best in (_N_INCUMBENTS, len(history)):  # all trials, where nothing is left beside the best ones
            if is_exhausted(space, trained, rows_of(space), exactly=False):
                space = space.refined(history.params, history.best(n_best))
        return space

    def _choose(
        self, study: Study, space: SearchSpace, history: History, number: int, fixed: Params | None = None
    ) -> tuple[Params, Decision]:
        """The configuration of the trial with this number, in which the values of ``fixed`` are already set."""
        rng = np.random.default_rng([self._seed_of(study), number])
        if self._agent == META_TRAINED:
            rows = self._candidates(space, history, rng)
            levels = space.nearest_levels(fixed or {})
            rows = unique_rows(np.where(levels >= 0, levels, rows))
        else:  # values that are fixed replace those of the chosen candidate when they are suggested
            fixed_rng = np.random.default_rng(self._seed_of(study))
            rows = space.candidates(fixed_rng, limit=_MAX_ACTIONS, published=self._published)
        decision = self._decide(study, space, history, rows, number, rng)
        return space.decode(rows[decision.index]), decision

    def _candidates(self, space: SearchSpace, history: History, rng: np.random.Generator) -> IntArray:
        incumbents = history.best(_N_INCUMBENTS)
        # A pool of a large space would hardly ever hold the configurations of stopped trials by chance.
        always = [*history.select(self._can_be_resumed(history)).params, *self._published]
        return space.candidates(rng, limit=_MAX_CANDIDATES, incumbents=incumbents, published=always)

    def _decide(
        self, study: Study, space: SearchSpace, history: History, rows: IntArray, number: int, rng: np.random.Generator
    ) -> Decision:
        history = history.select(history.decided)
        trials = study._get_trials(deepcopy=False, use_cache=True)
        # Hyperparameters that the space lacks are chosen later. Candidates that no trial has had together with such
        # come first: without the count a search could come back to one candidate for ever.
        n_tried = n_with_further_names(space, self._trained(history), rows)
        mask = _where_possible(self._allowed(space, trials, history, rows), n_tried == 0)
        prices = self._prices(space, history, rows)
        acquisition_weight = chance_of_success(space, history, rows) / (1 + n_tried)
        fits = allowed = mask
        facts = facts_for_agent(study, self._facts)
        if self._cost_cooling is not None and prices is not None:
            fits = mask & self._cost_cooling.fits(prices)
            mask = _where_possible(mask, self._cost_cooling.affordable(np.where(mask, prices, np.inf)))
            # At chance level a cheap trial does not teach the same as a long one: it learns nothing.
            if not is_at_chance(facts, history):
                acquisition_weight = acquisition_weight * self._cost_cooling.acquisition_weight(prices)
        feasibility = self._feasibility(space, trials, history, rows)
        if feasibility is not None:
            mask = _where_possible(mask, is_likely(feasibility, mask, trials))
            acquisition_weight = acquisition_weight * feasibility
        decision = self._load_agent(study, space).decide(
            space,
            history,
            rows,
            mask=mask,
            n_remaining=self._n_remaining(number),
            facts=facts,
            rng=rng,
            acquisition_weight=acquisition_weight,
        )
        if prices is not None:
            decision = replace(decision, price=float(prices[decision.index]))
            if (n_fitting := int(fits.sum())) < (n_allowed := int(allowed.sum())):
                decision = replace(decision, fitting=n_fitting, too_long=n_allowed - n_fitting)
        return decision if feasibility is None else replace(decision, feasibility=float(feasibility[decision.index]))

    def _feasibility(
        self, space: SearchSpace, trials: Sequence[FrozenTrial], history: History, rows: IntArray
    ) -> FloatArray | None:
        """C probabilities that a candidate violates no constraint; None where no trial has a constraint."""
        if all(is_unconstrained(trial) for trial in trials):
            return None
        from hf_rlsearch.agent.agent import agent_for

        return chance_of_feasibility(agent_for(self._weights, space).chance_at_least, space, trials, history, rows)

    def _load_agent(self, study: Study, space: SearchSpace) -> Agent | OnlineAgent | ScratchAgent:
        """The agent that decides; the first decision loads torch, and the weights or stable-baselines3."""
        if self._agent != META_TRAINED:
            from hf_rlsearch.agent.learners import scratch_agent

            return scratch_agent(self._agent, self._seed_of(study))
        from hf_rlsearch.agent.agent import agent_for

        agent = agent_for(self._weights, space)
        if self._learn is None:
            return agent
        from hf_rlsearch.agent.learners import online_agent

        return online_agent(agent, self._seed_of(study))

    def _allowed(
        self, space: SearchSpace, trials: Sequence[FrozenTrial], history: History, rows: IntArray
    ) -> BoolArray:
        """C, True for candidates that no trial has had and that are not known to run out of memory."""
        fresh = ~is_duplicate(space, self._trained(history), rows)
        return _where_possible(fresh, ~exceeds_memory(space, trials, rows))

    def _trained(self, history: History) -> History:
        """The trials that a candidate may repeat in vain."""
        return history.select(~self._can_be_resumed(history))

    def _can_be_resumed(self, history: History) -> BoolArray:
        """T flags of the trials whose training a trial of the same configuration resumes."""
        return np.isin(history.numbers, list(self._resumable))

    def _prices(self, space: SearchSpace, history: History, rows: IntArray) -> FloatArray | None:
        """C prices of what a trial of a candidate has to train; None where ``plan_for`` has set none."""
        if self._cost_cooling is None:
            return None
        return np.asarray(self._cost_cooling.price(space, rows) * self._share_left(space, history, rows))

    def _share_left(self, space: SearchSpace, history: History, rows: IntArray) -> FloatArray:
        """C shares of a whole training that a trial of a candidate has to make: 1 where it resumes none."""
        share = np.ones(len(rows))
        for number in self._resumable:
            trial = history.select(history.numbers == number)
            if len(trial):
                share[is_duplicate(space, trial, rows)] = max(1 - float(trial.fidelity[0]), _LEAST_LEFT)
        return share

    def _seed_of(self, study: Study) -> int:
        """The seed that was given, else the one that is stored with the study."""
        if self._is_seeded:
            return self._seed
        return int(study._storage.get_study_system_attrs(study._study_id).get(SAMPLER_SEED, self._seed))

    def _n_remaining(self, number: int) -> int | None:
        """Trials that are left including the one with this number, None where unknown."""
        planned = None if self._n_trials is None else self._n_trials - number
        known = [n for n in (planned, self._n_left) if n is not None]
        return max(min(known), 1) if known else None

    def _history(self, study: Study, trial: FrozenTrial) -> History:
        # As in Optuna's own samplers: inside a trial the cache saves a query of the storage.
        return self._read(study, study._get_trials(deepcopy=False, use_cache=True), exclude=trial.number)

    def _read(self, study: Study, trials: Sequence[FrozenTrial], *, exclude: int | None = None) -> History:
        return History.from_trials(trials, study.directions, max_resource=self._max_resource, exclude=exclude)

    def _known(self, study: Study) -> tuple[list[FrozenTrial], History, SearchSpace] | None:
        """All trials, their history and the search space, between two trials; None while the space is unknown."""
        trials = study._get_trials(deepcopy=False)
        distributions = self._search_space.distributions if self._search_space else stable_distributions(trials)
        if not distributions:
            return None
        history = self._read(study, trials)
        return trials, history, self._space(distributions, history)

    def _space(self, distributions: Mapping[str, BaseDistribution], history: History) -> SearchSpace:
        """The space of these distributions, with the hyperparameters of the given space where they still hold.

        What some complete or pruned trial did not have is conditional, also if the given space does not say so.
        """
        known = {h.name: h for h in self._search_space.hyperparameters} if self._search_space is not None else {}
        ended = np.flatnonzero((history.status == COMPLETE) | (history.status == PRUNED)).tolist()
        n_points = self._n_points if isinstance(self._n_points, dict) else dict.fromkeys(distributions, self._n_points)

        def hyperparameter(name: str, distribution: BaseDistribution) -> Hyperparameter:
            conditional = any(name not in history.params[i] for i in ended)
            if name in known and known[name].distribution == distribution:
                return replace(known[name], conditional=known[name].conditional or conditional)
            role = known[name].role if name in known else self._roles.get(name) or infer_role(name, distribution)
            return Hyperparameter.from_distribution(
                name, distribution, role=role, n_points=n_points.get(name), conditional=conditional
            )

        return SearchSpace(tuple(hyperparameter(name, distribution) for name, distribution in distributions.items()))


class _Turns:
    """The lock of one study in this process, and the number of decisions that were made under it."""

    def __init__(self) -> None:
        self.lock, self.n_decisions, self.of_thread = threading.Lock(), 0, threading.local()


# Not in the sampler, which can be pickled.
_turns: WeakKeyDictionary[BaseStorage, dict[int, _Turns]] = WeakKeyDictionary()


@contextmanager
def _turn(study: Study) -> Iterator[None]:
    """Lets the threads that optimise a study decide one after the other, each with the decisions of all others."""
    turns = _turns.setdefault(study._storage, {}).setdefault(study._study_id, _Turns())
    with turns.lock:
        if getattr(turns.of_thread, "n_decisions", 0) != turns.n_decisions:
            study._thread_local.cached_all_trials = None  # another thread has decided since this one read the trials
        yield
        turns.n_decisions += 1
        turns.of_thread.n_decisions = turns.n_decisions


def _track_record(trials: Sequence[FrozenTrial], history: History, unit: float) -> tuple[float, float]:
    """What was promised for the last complete trials, and by how much they improved the best, on the task's scale."""
    complete = np.flatnonzero((history.status == COMPLETE) & np.isfinite(history.values))
    n_before = max(len(complete) - _N_JUDGED, _N_TRUSTED)
    before, judged = history.values[complete[:n_before]].max(), complete[n_before:]
    realised = (max(before, history.values[judged].max(initial=-np.inf)) - before) / unit
    decisions = {trial.number: trial.system_attrs.get(DECISION) for trial in trials}
    promised = sum(
        float(decision["improvement"])
        for number in history.numbers[judged].tolist()
        if isinstance(decision := decisions[number], dict) and is_finite_number(decision.get("improvement"))
    )
    return promised, float(realised)


def checked_facts(facts: Mapping[str, float] | None) -> dict[str, float]:
    """Returns facts of a task as floats.

    Raises:
        ArgumentsError: No dict, a name that is not in ``FACTS``, or a value that is no number.
    """
    if facts is not None and not isinstance(facts, Mapping):
        raise ArgumentsError(f"facts is {facts!r}, expected a dict such as {{'n_examples': 3.6}}, or None.")
    for name, value in (facts or {}).items():
        if name not in FACTS:
            raise ArgumentsError(
                f"facts names {name!r}, expected some of {', '.join(FACTS)}.{did_you_mean(name, FACTS)}"
            )
        if not (isinstance(value, bool | float) or is_finite_number(value)):
            raise ArgumentsError(
                f"facts has {name}={value!r}, expected a number. Leave {name} out where it is not known."
            )
    return {name: float(value) for name, value in (facts or {}).items()}


def facts_for_agent(study: Study, given: Mapping[str, float]) -> dict[str, float]:
    """Returns the facts that the agent is told: those given, else those stored with the study, and the direction.

    Facts that are not finite are left out. Like all values that the agent sees, ``untrained`` is larger for a better
    model; with several objectives there is no such number.

    Raises:
        ArgumentsError: What is stored with the study is no dict.
    """
    # Not study.user_attrs, which the studies that HyperbandPruner makes do not have.
    stored = study._storage.get_study_user_attrs(study._study_id).get(TASK_FACTS, {})
    if not isinstance(stored, Mapping):
        raise ArgumentsError(
            f"The user attribute {TASK_FACTS!r} of the study is {stored!r}, expected a dict such as "
            "{'n_examples': 3.6}."
        )
    maximizes = list(study.directions) == [StudyDirection.MAXIMIZE]
    facts = {**stored, "maximize": float(maximizes), **given}
    known = [name for name in FACTS if is_finite_number(facts.get(name))]
    facts = {name: float(np.clip(float(facts[name]), -LARGEST, LARGEST)) for name in known}
    untrained = facts.pop("untrained", None)
    if untrained is not None and len(study.directions) == 1:
        facts["untrained"] = untrained if maximizes else -untrained
    return facts


def _being_decided(history: History, *, before: int) -> list[int]:
    """Indices of the trials started just before trial number ``before`` whose params are not known yet."""
    recent = (history.numbers < before) & (history.numbers >= before - _N_SIMULTANEOUS)
    indices: list[int] = np.flatnonzero(recent & ~history.decided).tolist()
    return indices


def _where_possible(*wishes: BoolArray) -> BoolArray:
    """C, True where all wishes hold; a wish that no candidate fulfils together with earlier wishes is ignored."""
    mask = np.ones(len(wishes[0]), dtype=bool)
    for wish in wishes:
        mask = mask & wish if (mask & wish).any() else mask
    return mask
