"""RLSampler between Optuna and the agent: what the agent is shown, what becomes of its answer.

The agents here are small: they choose by a rule that a test can check. The contract tests use the real one.
"""

import json
import math
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from hf_rlsearch.agent.decision import Decision
from hf_rlsearch.errors import ArgumentsError, SearchSpaceError
from hf_rlsearch.observation.history import STATUS, History
from hf_rlsearch.optuna import RLSampler
from hf_rlsearch.optuna.filters import is_duplicate
from hf_rlsearch.optuna.sampler import CostCooling
from hf_rlsearch.space import SearchSpace

SPACE = SearchSpace.from_distributions({"n": IntDistribution(0, 3), "c": CategoricalDistribution(["a", "b", "c"])})


@dataclass
class Call:
    space: SearchSpace
    history: History
    candidates: np.ndarray
    mask: np.ndarray
    n_remaining: int | None
    facts: dict[str, float]
    acquisition_weight: np.ndarray | None

    @property
    def allowed(self) -> list[dict[str, Any]]:
        return [self.space.decode(row) for row in self.candidates[self.mask]]


@dataclass
class RuleAgent:
    """Chooses by ``rule``, from the indices that the mask allows; remembers what it was shown."""

    rule: Callable[[np.ndarray, np.random.Generator], int]
    calls: list[Call] = field(default_factory=list)

    def decide(
        self,
        space: SearchSpace,
        history: History,
        candidates: np.ndarray,
        *,
        mask: np.ndarray,
        n_remaining: int | None,
        facts: dict[str, float],
        rng: np.random.Generator,
        acquisition_weight: np.ndarray | None,
    ) -> Decision:
        self.calls.append(Call(space, history, candidates, mask.copy(), n_remaining, dict(facts), acquisition_weight))
        return Decision(index=int(self.rule(np.flatnonzero(mask), rng)), source="predictor")


def install(monkeypatch: pytest.MonkeyPatch, agent: RuleAgent) -> RuleAgent:
    module = ModuleType("hf_rlsearch.agent.agent")
    module.agent_for = lambda weights, space: agent  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hf_rlsearch.agent.agent", module)
    return agent


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> RuleAgent:
    """Always the first candidate allowed: the most predictable agent, and the worst for parallel workers."""
    return install(monkeypatch, RuleAgent(lambda allowed, rng: allowed[0]))


@pytest.fixture
def random(monkeypatch: pytest.MonkeyPatch) -> RuleAgent:
    return install(monkeypatch, RuleAgent(lambda allowed, rng: rng.choice(allowed)))


pytestmark = pytest.mark.usefixtures("quiet")


def objective(trial: Any) -> float:
    return float(trial.suggest_int("n", 0, 3) + "abc".index(trial.suggest_categorical("c", ["a", "b", "c"])))


def params(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def distinct(settings: list[dict[str, Any]]) -> int:
    return len({tuple(sorted(setting.items())) for setting in settings})


@pytest.mark.parametrize("space", [None, SPACE])
def test_every_candidate_is_trained_once_before_any_is_repeated(random: RuleAgent, space: SearchSpace | None) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=space))
    study.optimize(objective, n_trials=15)
    assert distinct(params(study)[:12]) == 12
    assert random.calls[-1].mask.all()


def test_the_agent_sees_the_whole_search(first: RuleAgent) -> None:
    sampler = RLSampler(seed=0, n_trials=5, search_space=SPACE, facts={"n_examples": 3.0})
    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.optimize(objective, n_trials=5)
    assert [call.n_remaining for call in first.calls] == [5, 4, 3, 2, 1]
    assert [len(call.history) for call in first.calls] == [0, 1, 2, 3, 4]
    assert first.calls[0].facts == {"maximize": 1.0, "n_examples": 3.0}
    assert first.calls[-1].space == SPACE
    assert first.calls[-1].history.values.tolist() == [t.value for t in study.trials[:-1]]


def test_facts_are_read_from_the_study_where_none_are_given(first: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE, facts={"n_examples": 3.0, "lora": True}))
    study.set_user_attr("rl:facts", {"n_examples": 4, "n_steps": 2, "n_classes": None, "maximize": 1, "colour": 1.0})
    study.optimize(objective, n_trials=1)
    assert first.calls[0].facts == {"maximize": 0.0, "n_examples": 3.0, "lora": 1.0, "n_steps": 2.0}


@pytest.mark.parametrize("stored", [[1, 2], "n_examples", None])
def test_stored_facts_that_are_no_dict_are_refused_by_name(stored: object) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE))
    study.set_user_attr("rl:facts", stored)
    with pytest.raises(ArgumentsError, match=f"'rl:facts' of the study is {re.escape(repr(stored))}, expected a dict"):
        study.optimize(objective, n_trials=1)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    ("directions", "untrained", "told"),
    [
        (["maximize"], 0.5, 0.5),
        (["minimize"], 0.5, -0.5),
        (["minimize"], math.inf, None),
        (["maximize"], math.nan, None),
        (["maximize", "minimize"], 0.5, None),
    ],
)
def test_the_untrained_model_is_told_as_larger_is_better(
    first: RuleAgent, directions: list[str], untrained: float, told: float | None, stored: bool
) -> None:
    facts = {"untrained": untrained}
    sampler = RLSampler(seed=0, search_space=SPACE, facts={} if stored else facts)
    study = optuna.create_study(sampler=sampler, directions=directions)
    if stored:
        study.set_user_attr("rl:facts", facts)
    study.optimize(lambda trial: [objective(trial)] * len(directions), n_trials=1)
    assert first.calls[0].facts.get("untrained") == told


def test_the_agent_plans_for_what_is_left_of_a_budget(first: RuleAgent) -> None:
    sampler = RLSampler(seed=0, n_trials=5, search_space=SPACE)
    study = optuna.create_study(sampler=sampler)
    for left in (None, 2, 9, 0):
        sampler.plan_for(left)
        study.optimize(objective, n_trials=1)
    assert [call.n_remaining for call in first.calls] == [5, 2, 3, 1]


def price_of_n(space: SearchSpace, rows: np.ndarray) -> np.ndarray:
    return 1.0 + rows[:, space.names.index("n")]


def test_with_a_budget_the_agent_weighs_prices_and_cannot_choose_what_does_not_fit(first: RuleAgent) -> None:
    sampler = RLSampler(seed=0, search_space=SPACE)
    sampler.plan_for(3, CostCooling(price=price_of_n, left=2.0, total=8.0))
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=7)
    call = first.calls[0]
    assert {params["n"] for params in call.allowed} == {0, 1}
    assert call.acquisition_weight is not None
    np.testing.assert_allclose(call.acquisition_weight, (1.0 + call.candidates[:, 0]) ** -0.0625)
    assert study.trials[0].system_attrs["rl:decision"]["price"] == 1.0
    decisions = [trial.system_attrs["rl:decision"] for trial in study.trials]
    assert [decision["fitting"] for decision in decisions] == [6, 5, 4, 3, 2, 1, 0]
    assert {decision["too_long"] for decision in decisions} == {6}
    # The six that fit are trained: the cheapest of the others is next.
    assert [params["n"] for params in first.calls[6].allowed] == [2, 2, 2]


def test_a_resumed_training_costs_its_rest_and_is_among_the_candidates_of_any_space(first: RuleAgent) -> None:
    """A whole training costs 4 where 2 are left, so only the one that three quarters were made of can end in time."""
    space = SearchSpace.from_distributions({f"x{i}": IntDistribution(0, 9) for i in range(8)})
    sampler = RLSampler(seed=0, search_space=space, max_resource=8)
    study = optuna.create_study(sampler=sampler)
    stopped = {f"x{i}": i for i in range(8)}
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params=stopped,
            distributions=space.distributions,
            intermediate_values={6: 0.5},
        )
    )
    sampler.plan_for(3, CostCooling(lambda _, rows: np.full(len(rows), 4.0), left=2.0, total=8.0), resumable=[0])
    trial = study.ask(space.distributions)
    assert (trial.params, first.calls[-1].allowed) == (stopped, [stopped])
    assert study.trials[-1].system_attrs["rl:decision"]["price"] == 1.0


@pytest.mark.parametrize(("best", "counts"), [(0.5, False), (0.55, False), (0.9, True)])
def test_at_chance_level_no_price_counts(first: RuleAgent, best: float, counts: bool) -> None:
    """The untrained model has .5 of 100 rows right. Cheap trainings learn the least, so they would never leave it."""
    sampler = RLSampler(seed=0, search_space=SPACE, facts={"untrained": 0.5, "n_evaluated": 2.0})
    sampler.plan_for(3, CostCooling(price=price_of_n, left=4.0, total=8.0))
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for value in (0.5, best):
        study.add_trial(create_trial(value=value, params={"n": 3, "c": "a"}, distributions=SPACE.distributions))
    study.ask(SPACE.distributions)
    call = first.calls[0]
    assert call.acquisition_weight is not None
    assert (np.ptp(call.acquisition_weight) > 0) == counts


def test_memory_goes_before_money(first: RuleAgent) -> None:
    space = SearchSpace.from_distributions({"per_device_train_batch_size": CategoricalDistribution([8, 16, 32])})
    sampler = RLSampler(seed=0, search_space=space)
    study = optuna.create_study(sampler=sampler)
    failed = create_trial(
        state=TrialState.FAIL,
        params={"per_device_train_batch_size": 16},
        distributions=space.distributions,
        user_attrs={"rl:failure": {"kind": "oom"}},
    )
    study.add_trial(failed)
    sampler.plan_for(3, CostCooling(price=lambda space, rows: np.array([5.0, 1.0, 1.0]), left=2.0, total=8.0))
    study.optimize(lambda trial: trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32]), n_trials=1)
    assert first.calls[-1].allowed == [{"per_device_train_batch_size": 8}]


STATES = st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), STATES), max_size=30), st.sets(st.integers(0, 29)))
def test_only_resumable_configurations_are_tried_again_while_others_are_left(
    tried: list[tuple[int, TrialState]], resumable: set[int]
) -> None:
    """A trial of each state; those of the numbers in ``resumable`` that were pruned can be resumed."""
    sampler, grid = RLSampler(seed=0, search_space=SPACE), SPACE.grid(12)
    study = optuna.create_study(sampler=sampler)
    for candidate, state in tried:
        value = 0.0 if state == TrialState.COMPLETE else None
        distributions = SPACE.distributions
        study.add_trial(
            create_trial(state=state, value=value, params=SPACE.decode(grid[candidate]), distributions=distributions)
        )
    resumable = {n for n, (_, state) in enumerate(tried) if n in resumable and state == TrialState.PRUNED}
    sampler.plan_for(None, resumable=resumable)
    gone = {candidate for n, (candidate, _) in enumerate(tried) if n not in resumable}
    assert sampler.is_exhausted(study) == (len(gone) == 12)
    with pytest.MonkeyPatch.context() as patch:
        agent = install(patch, RuleAgent(lambda allowed, rng: allowed[0]))
        study.ask().suggest_int("n", 0, 3)
    shown = [SPACE.decode(row) for i, row in enumerate(grid) if i not in gone or len(gone) == 12]
    assert agent.calls[-1].allowed == shown


def test_a_space_is_exhausted_when_nothing_else_is_known_of_it(random: RuleAgent) -> None:
    sampler = RLSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    assert not sampler.is_exhausted(study)
    ended = []
    for _ in range(6):
        study.optimize(conditional, n_trials=1)
        ended.append(sampler.is_exhausted(study))
    assert ended == [False] * 4 + [True] * 2  # "full", and "lora" with each of four ranks
    moving = optuna.create_study(sampler=sampler)
    moving.optimize(lambda trial: trial.suggest_int("n", 0, trial.number), n_trials=3)
    assert not sampler.is_exhausted(moving)


def range_of_a_choice(trial: Any) -> float:
    largest = {"a": 1, "b": 2}[trial.suggest_categorical("c", ["a", "b"])]
    return abs(trial.suggest_float("x", 0, largest) - 0.33)


@pytest.mark.parametrize(
    "function",
    [
        lambda trial: (trial.suggest_float("x", -10, 10) - 3.3) ** 2,
        lambda trial: abs(math.log10(trial.suggest_float("learning_rate", 1e-6, 1e-1, log=True)) + 3.3),
        lambda trial: abs(trial.suggest_int("n", 1, 1000) - 437),
        lambda trial: abs(trial.suggest_float("x", 0, 30, step=0.1) - 7.7),
        lambda trial: trial.suggest_categorical("c", [0, 1]) and abs(trial.suggest_float("x", 0, 1) - 0.37) - 1,
        range_of_a_choice,
    ],
)
def test_when_all_levels_were_tried_a_study_goes_on_between_them(
    random: RuleAgent, function: Callable[[Any], float], caplog: pytest.LogCaptureFixture
) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.optimize(function, n_trials=40)
    assert distinct(params(study)) == 40
    assert min(trial.value for trial in study.trials[20:]) < min(trial.value for trial in study.trials[:20])
    assert not caplog.records


def test_a_space_without_further_values_is_tried_out_with_one_warning(
    random: RuleAgent, caplog: pytest.LogCaptureFixture
) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.optimize(lambda trial: abs(trial.suggest_int("n", 0, 20) - 7), n_trials=21)
    assert distinct(params(study)) == 21
    assert not caplog.records
    study.optimize(lambda trial: abs(trial.suggest_int("n", 0, 20) - 7), n_trials=2)
    (record,) = caplog.records
    assert "All 21 candidates of the search space have been tried: from trial 21 on they are repeated" in record.message


def test_a_given_space_keeps_its_levels(random: RuleAgent, caplog: pytest.LogCaptureFixture) -> None:
    space = SearchSpace.from_distributions({"x": FloatDistribution(0, 1)}, n_points=3)
    sampler = RLSampler(seed=0, search_space=space)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    assert {trial.params["x"] for trial in study.trials} == {0.0, 0.5, 1.0}
    assert sampler.is_exhausted(study)
    assert len(caplog.records) == 1


def test_minimised_objectives_and_several_directions_are_turned(first: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE), directions=["minimize", "maximize"])
    study.optimize(lambda t: (objective(t), -objective(t)), n_trials=3)
    assert first.calls[-1].facts == {"maximize": 0.0}
    assert first.calls[-1].history.values.tolist() == [0.0, -1.0]


def test_the_decision_is_stored_as_json(first: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.optimize(objective, n_trials=2)
    attrs = study.trials[1].system_attrs["rl:decision"]
    chosen = [Decision(index=index, source="predictor").to_json() for index in (0, 1)]
    assert attrs == json.loads(json.dumps(attrs)) == chosen[1] | {"params": {"c": "a", "n": 1}}
    assert study.trials[0].system_attrs["rl:decision:n"] == chosen[0] | {"params": {"n": 0}}


def test_same_seed_same_search_and_another_seed_another(random: RuleAgent) -> None:
    searches = []
    for seed in (3, 3, 4):
        study = optuna.create_study(sampler=RLSampler(seed=seed))
        study.optimize(objective, n_trials=8)
        searches.append(params(study))
    assert searches[0] == searches[1] != searches[2]


def test_an_unseeded_sampler_draws_a_seed(random: RuleAgent) -> None:
    wide = SearchSpace.from_distributions({f"x{i}": IntDistribution(0, 9) for i in range(4)})
    chosen = [
        optuna.create_study(sampler=RLSampler(search_space=wide)).ask(wide.distributions).params for _ in range(3)
    ]
    assert distinct(chosen) == 3


def test_a_resumed_search_continues_as_if_it_had_not_stopped(random: RuleAgent, tmp_path: Path) -> None:
    whole = optuna.create_study(sampler=RLSampler(seed=1))
    whole.optimize(objective, n_trials=8)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal")))
    for _ in range(4):
        part = optuna.create_study(sampler=RLSampler(seed=1), storage=storage, study_name="s", load_if_exists=True)
        part.optimize(objective, n_trials=2)
    assert params(part) == params(whole)


def test_a_sampler_survives_pickling_in_the_middle_of_a_search(random: RuleAgent) -> None:
    options: dict[str, Any] = {"search_space": SPACE, "published": [{"n": 1}], "facts": {"lora": 1.0}}
    whole = optuna.create_study(sampler=RLSampler(seed=1, **options))
    whole.optimize(objective, n_trials=6)
    study = optuna.create_study(sampler=RLSampler(seed=1, **options))
    for _ in range(3):
        study.sampler = pickle.loads(pickle.dumps(study.sampler))
        study.sampler.reseed_rng()
        study.optimize(objective, n_trials=2)
    assert params(study) == params(whole)


def test_workers_that_start_together_choose_different_trials(first: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE))
    trials = [study.ask() for _ in range(4)]
    for trial in reversed(trials):
        objective(trial)
    assert distinct([trial.params for trial in trials]) == 4
    in_order = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE))
    assert [in_order.ask(SPACE.distributions).params for _ in range(4)] == [trial.params for trial in trials]


def test_workers_without_a_seed_share_one(random: RuleAgent) -> None:
    """Each process has a sampler of its own; the second computes what the first one is going to choose."""
    random.rule = lambda allowed, rng: allowed[rng.random(SPACE.n_candidates)[allowed].argmax()]
    storage = optuna.storages.InMemoryStorage()
    for number in range(5):
        name = f"study {number}"
        studies = [
            optuna.create_study(
                sampler=RLSampler(search_space=SPACE), storage=storage, study_name=name, load_if_exists=True
            )
            for _ in range(2)
        ]
        trials = [study.ask() for study in studies]
        for trial in reversed(trials):
            objective(trial)
        assert random.calls[-2].history.params[0] == trials[0].params


def test_a_choice_that_another_worker_has_made_meanwhile_is_made_anew(random: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE))
    other, trial = study.ask(), study.ask()
    choose, stored = random.rule, []

    def overtaken(allowed: np.ndarray, rng: np.random.Generator) -> int:
        """The second call chooses for this trial, beside what the first one expects of the other; so does the other."""
        index = choose(allowed, rng)
        if len(random.calls) == 2:
            stored.append(SPACE.decode(random.calls[-1].candidates[index]))
            study._storage.set_trial_system_attr(other._trial_id, "rl:decision", {"params": stored[0]})
        return index

    random.rule = overtaken
    objective(trial)
    assert len(random.calls) == 3
    assert random.calls[-1].history.params == (stored[0],)
    assert trial.params != stored[0]


def test_workers_without_a_known_space_draw_their_first_trials(first: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    trials = [study.ask() for _ in range(4)]
    for trial in trials:
        trial.suggest_float("x", 0, 1)
        trial.suggest_float("y", 0, 1)
    assert distinct([trial.params for trial in trials]) == 4


def test_a_running_trial_counts_as_tried_before_it_has_suggested_everything(first: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE))
    started = study.ask()
    started.suggest_int("n", 0, 3)
    other = study.ask(SPACE.distributions)
    started.suggest_categorical("c", ["a", "b", "c"])
    assert started.params != other.params
    assert STATUS[first.calls[-1].history.status[0]] == "running"
    assert first.calls[-1].history.params[0] == started.params


def test_threads_do_not_train_the_same_candidate(first: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE))
    barrier = threading.Barrier(2)

    def slow(trial: Any) -> float:
        barrier.wait()
        return objective(trial)

    study.optimize(slow, n_trials=12, n_jobs=2)
    assert distinct(params(study)) == 12


def test_threads_see_each_others_choices_in_short_trials(random: RuleAgent) -> None:
    """Trials that end at once, in a space that the sampler does not know before: each thread has stale trials."""
    for seed in range(3):
        for space in (None, SPACE):
            study = optuna.create_study(sampler=RLSampler(seed=seed, search_space=space))
            study.optimize(objective, n_trials=12, n_jobs=4)
            assert distinct(params(study)) == 12
    assert pickle.loads(pickle.dumps(study.sampler))._seed == 2


def test_failed_nan_and_pruned_trials_are_shown_and_not_repeated(random: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE))

    def troubled(trial: Any) -> float:
        value = objective(trial)
        if trial.number % 4 == 1:
            raise RuntimeError
        if trial.number % 4 == 2:
            return float("nan")
        if trial.number % 4 == 3:
            trial.report(value, 1)
            raise optuna.TrialPruned
        return value

    study.optimize(troubled, n_trials=12, catch=(RuntimeError,))
    assert distinct(params(study)) == 12
    assert [STATUS[i] for i in random.calls[-1].history.status[:4]] == ["complete", "failed", "failed", "pruned"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(allow_nan=True), min_size=11, max_size=11), st.sampled_from(["minimize", "maximize"]))
@example([1e308, -1e308] * 5 + [0.0], "maximize")
@example([5e-324, 0.0] * 5 + [math.nan], "minimize")
def test_any_number_may_be_an_objective(values: list[float], direction: str) -> None:
    """The bundled agent chooses what was not tried, by finite numbers, as long as there is some."""
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE, facts=HUGE_FACTS), direction=direction)
    for row, value in zip(SPACE.grid(12), values, strict=False):
        state = TrialState.FAIL if math.isnan(value) else TrialState.COMPLETE
        distributions, outcome = SPACE.distributions, None if math.isnan(value) else value
        study.add_trial(create_trial(state=state, value=outcome, params=SPACE.decode(row), distributions=distributions))
    trial = study.ask()
    assert objective(trial) == 5.0
    assert trial.params == SPACE.decode(SPACE.grid(12)[-1])
    reason = study.trials[-1].system_attrs["rl:decision"]
    assert reason["source"] == "predictor"
    assert all(math.isfinite(reason[name]) for name in ("improvement", "mean", "spread", "chance"))


HUGE_FACTS = {"untrained": 1e308, "n_evaluated": 400.0, "n_parameters": -1e308}


def test_a_constant_objective(random: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.optimize(lambda trial: objective(trial) * 0, n_trials=6)
    assert distinct(params(study)) == 6


def test_enqueued_values_between_levels_are_kept(random: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.enqueue_trial({"x": 0.123})
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert study.trials[0].params == {"x": 0.123}
    assert random.calls[-1].history.params[0] == {"x": 0.123}
    assert random.calls[0].mask.all()


def test_the_rest_of_a_partly_enqueued_trial_is_chosen_given_that_part(first: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE))
    study.enqueue_trial({"n": 2})
    study.optimize(objective, n_trials=1)
    assert study.trials[0].params == {"n": 2, "c": "a"}
    assert {setting["n"] for setting in first.calls[0].allowed} == {2}


def test_independent_choices_depend_on_those_before(first: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.optimize(objective, n_trials=1)
    assert [call.space.names for call in first.calls] == [("n",), ("n", "c")]
    assert first.calls[1].allowed == [{"n": 0, "c": letter} for letter in "abc"]


def test_moving_ranges_are_chosen_one_by_one(random: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))

    def moving(trial: Any) -> float:
        return float(trial.suggest_float("x", 0, 1 + trial.number) + trial.suggest_int("n", 0, 3))

    study.optimize(moving, n_trials=6)
    assert study.sampler.infer_relative_search_space(study, study.trials[0]) == {"n": IntDistribution(0, 3)}
    assert all(0 <= t.params["x"] <= 1 + t.number for t in study.trials)


def test_candidates_tried_with_names_that_the_space_lacks_come_last(first: RuleAgent) -> None:
    """The agent always takes the first candidate, and no trial has the space's names alone."""
    narrower = SearchSpace.from_distributions({"n": SPACE.distributions["n"]})
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=narrower))
    study.optimize(objective, n_trials=7)
    assert [trial.params["n"] for trial in study.trials[:4]] == [0, 1, 2, 3]
    last = [call for call in first.calls if len(call.candidates) == 4][-1]
    assert last.acquisition_weight.tolist() == pytest.approx([1 / 4, 1 / 2, 1 / 2, 1 / 2])


def test_of_few_candidates_the_better_one_comes_more_often() -> None:
    """Beside a range that moves from trial to trial two optimizers are all that is chosen jointly."""

    def moving(trial: Any) -> float:
        loss = float(trial.suggest_categorical("optim", ["adamw", "sgd"]) == "sgd")
        return loss + trial.suggest_float("x", 0, 1 + trial.number % 3) / 10

    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.optimize(moving, n_trials=20)
    assert [trial.params["optim"] for trial in study.trials[10:]].count("adamw") > 5


def test_fixed_names_keep_no_candidate_from_being_tried(first: RuleAgent) -> None:
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        sampler = optuna.samplers.PartialFixedSampler({"n": 1}, RLSampler(seed=0))
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=3)
    assert distinct(params(study)) == 3


def conditional(trial: Any) -> float:
    if trial.suggest_categorical("use_lora", [True, False]):
        return float(trial.suggest_int("lora_r", 1, 4))
    return 0.0


def test_conditional_hyperparameters(random: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.optimize(conditional, n_trials=12)
    assert distinct(params(study)[-5:]) <= 5
    assert distinct(params(study)) == 5
    last = random.calls[-1].space
    assert {h.name for h in last.hyperparameters if h.conditional} == {"lora_r"}


def test_a_given_space_with_conditions_wastes_no_trial_on_unused_levels(random: RuleAgent) -> None:
    space = SearchSpace.from_functions(lambda trial: {"x": conditional(trial)})
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=space))
    study.optimize(conditional, n_trials=5)
    assert distinct(params(study)) == 5


@pytest.mark.parametrize(
    ("function", "distributions", "n_configurations"),
    [
        (objective, {**SPACE.distributions, "unused": FloatDistribution(0, 1)}, 12),
        (conditional, {"use_lora": CategoricalDistribution([True, False]), "lora_r": IntDistribution(1, 4)}, 5),
    ],
)
def test_a_name_of_a_given_space_that_trials_do_not_suggest_is_conditional(
    first: RuleAgent, function: Callable[[Any], float], distributions: dict[str, Any], n_configurations: int
) -> None:
    sampler = RLSampler(seed=0, search_space=SearchSpace.from_distributions(distributions))
    study = optuna.create_study(sampler=sampler)
    study.optimize(function, n_trials=n_configurations)
    assert distinct(params(study)) == n_configurations
    assert sampler.is_exhausted(study)


def test_candidates_are_tried_only_by_the_same_configuration() -> None:
    space = SearchSpace.from_distributions(
        {"a": IntDistribution(0, 1), "b": FloatDistribution(0, 1)}, n_points={"b": 2}, conditional=["b"]
    )
    histories = {
        (("a", 0), ("b", 1.0)): [False, True, False, False],
        (("a", 0), ("b", 0.5)): [False] * 4,
        (("a", 1),): [False, False, True, True],
        (("b", 0.0),): [False] * 4,
        (("a", 0), ("b", 1.0), ("other", 3)): [False] * 4,
        (): [False] * 4,
    }
    for setting, expected in histories.items():
        trial = optuna.trial.create_trial(
            params=dict(setting), distributions={n: FloatDistribution(0, 9) for n, _ in setting}, value=0.0
        )
        history = History.from_trials([trial], [optuna.study.StudyDirection.MINIMIZE])
        assert is_duplicate(space, history, space.grid(4)).tolist() == expected, setting


def test_large_spaces_get_a_pool_with_published_settings(random: RuleAgent) -> None:
    space = SearchSpace.from_distributions({f"x{i}": IntDistribution(0, 9) for i in range(8)})
    published = {f"x{i}": 7 for i in range(8)}
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=space, published=[published]))
    study.optimize(lambda trial: sum(trial.suggest_int(f"x{i}", 0, 9) for i in range(8)), n_trials=3)
    assert [len(call.candidates) for call in random.calls] == [1024] * 3
    assert all(published in call.allowed for call in random.calls[:1])
    assert not np.array_equal(random.calls[0].candidates, random.calls[1].candidates)


def test_roles_and_points_reach_the_agent(random: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, roles={"x": "learning_rate"}, n_points={"x": 3}))
    study.optimize(lambda trial: trial.suggest_float("x", 1e-6, 1e-2, log=True), n_trials=2)
    (hyperparameter,) = random.calls[-1].space.hyperparameters
    assert (hyperparameter.role, len(hyperparameter.levels)) == ("learning_rate", 3)


def test_levels_of_a_given_space_are_kept_for_a_part_of_it(random: RuleAgent) -> None:
    space = SearchSpace.from_distributions(
        {"x": FloatDistribution(0, 1), "n": IntDistribution(0, 3)}, n_points={"x": 4}, roles={"x": "dropout"}
    )
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        sampler = optuna.samplers.PartialFixedSampler({"n": 1}, RLSampler(seed=0, search_space=space))
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_int("n", 0, 3), n_trials=2)
    assert random.calls[-1].space.hyperparameters == space.hyperparameters[:1]
    assert all(trial.params["n"] == 1 for trial in study.trials)


def test_intermediate_values_and_a_full_training_become_fidelity(first: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE, max_resource=10_000))
    trial = study.ask(SPACE.distributions)
    trial.report(0.5, 2500)
    study.ask(SPACE.distributions)
    assert first.calls[-1].history.fidelity.tolist() == [0.25]


def test_hyperband_studies(random: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0), pruner=optuna.pruners.HyperbandPruner(max_resource=4))

    def reporting(trial: Any) -> float:
        value = objective(trial)
        for step in range(4):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(reporting, n_trials=10)
    complete = [t.params for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert distinct(complete) == len(complete)
    assert all(params(study).count(p) <= 2 for p in params(study))


@pytest.mark.slow
def test_a_sqlite_storage_gives_the_same_search(random: RuleAgent, tmp_path: Path) -> None:
    searches = []
    for storage in (None, f"sqlite:///{tmp_path / 'study.db'}"):
        study = optuna.create_study(sampler=RLSampler(seed=5), storage=storage)
        study.optimize(conditional, n_trials=5)
        study.optimize(objective, n_trials=8)
        searches.append(params(study))
    assert searches[0] == searches[1]


def test_a_study_of_a_thousand_trials_costs_milliseconds_per_ask(first: RuleAgent) -> None:
    space = SearchSpace.from_distributions({f"x{i}": FloatDistribution(0, 1) for i in range(8)}, n_points=3)
    rng = np.random.default_rng(0)
    study = optuna.create_study(sampler=RLSampler(seed=0, n_points=3))
    rows = space.candidates(rng, limit=1000)
    study.add_trials(
        [optuna.trial.create_trial(params=space.decode(r), distributions=space.distributions, value=0.0) for r in rows]
    )
    times = []
    for _ in range(5):
        start = time.perf_counter()
        trial = study.ask()
        trial.suggest_float("x0", 0, 1)
        times.append(time.perf_counter() - start)
        study.tell(trial, state=TrialState.FAIL)
    assert first.calls[-1].mask.sum() < len(first.calls[-1].mask)
    assert min(times) < 0.25


def test_a_space_of_billions_of_configurations_is_never_enumerated(first: RuleAgent) -> None:
    space = SearchSpace.from_distributions({f"x{i}": CategoricalDistribution([*range(10)]) for i in range(9)})
    assert space.n_candidates == 10**9
    sampler = RLSampler(seed=0, search_space=space)
    study = optuna.create_study(sampler=sampler)
    tracemalloc.start()
    try:
        for _ in range(3):
            study.tell(study.ask(space.distributions), 0.0)
            assert not sampler.is_exhausted(study)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert distinct(params(study)) == 3
    assert max(len(call.candidates) for call in first.calls) <= 1024
    assert peak < 20e6


def test_all_trials_are_read_once_per_trial(first: RuleAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.optimize(objective, n_trials=2)
    reads, read = [], study._storage.get_all_trials
    monkeypatch.setattr(
        study._storage, "get_all_trials", lambda *a, **k: reads.append(k.get("states")) or read(*a, **k)
    )
    objective(study.ask())
    assert reads.count(None) == 1  # ask() itself looks for waiting trials only


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"seed": -1}, ArgumentsError, "seed is -1, expected a whole number of at least 0"),
        ({"seed": 1.5}, ArgumentsError, "seed is 1.5"),
        ({"agent": "ppo-scrach"}, ArgumentsError, "agent='ppo-scrach' given.*Did you mean 'ppo-scratch'"),
        (
            {"learn": "offline"},
            ArgumentsError,
            "learn='offline' and agent=.*expected learn='online'",
        ),
        ({"agent": "dqn", "learn": "online"}, ArgumentsError, "learn='online' and agent='dqn' given"),
        ({"agent": "dqn", "weights": "rl-v5"}, ArgumentsError, "weights='rl-v5' and agent='dqn' given.*untrained"),
        ({"n_trials": 0}, ArgumentsError, "n_trials is 0, expected a whole number of at least 1"),
        (
            {"search_space": {"x": FloatDistribution(0, 1)}},
            ArgumentsError,
            "search_space is a dict, expected a Search",
        ),
        ({"search_space": SPACE, "n_points": 3}, ArgumentsError, "roles or n_points were given with a search_space"),
        ({"facts": {"n_example": 3.0}}, ArgumentsError, "names 'n_example', expected .*Did you mean 'n_examples'"),
        ({"facts": {"n_examples": "many"}}, ArgumentsError, "has n_examples='many', expected a number"),
        ({"facts": [3.0]}, ArgumentsError, r"facts is \[3.0\], expected a dict"),
        ({"roles": {"x": "dropuot"}}, SearchSpaceError, "Did you mean 'dropout'?"),
    ],
)
def test_bad_arguments(keywords: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        RLSampler(**keywords)


def test_choices_that_no_storage_keeps_are_refused(random: RuleAgent) -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    trial = study.ask()
    with pytest.warns(UserWarning, match="persistent storage"), pytest.raises(SearchSpaceError, match="of type list"):
        trial.suggest_categorical("x", [[1], [2]])


def test_torch_is_loaded_by_the_first_decision_only() -> None:
    code = "import sys; from hf_rlsearch.optuna import RLSampler; RLSampler(seed=0); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.slow
def test_the_bundled_agent_makes_the_same_search_in_a_process_with_another_hash_seed() -> None:
    code = (
        "import optuna; from hf_rlsearch.optuna import RLSampler; optuna.logging.set_verbosity(40)\n"
        "s = optuna.create_study(sampler=RLSampler(seed=0))\n"
        "s.optimize(lambda t: t.suggest_float('x', 0, 1) + t.suggest_int('n', 0, 9)\n"
        "    + len(t.suggest_categorical('c', ['a', 'bb'])), n_trials=6)\n"
        "print([t.params for t in s.trials])"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] != ""


def test_an_absurd_objective_does_not_end_the_search_in_a_wrong_corner() -> None:
    def diverging(trial: Any) -> float:
        rate = trial.suggest_float("learning_rate", 1e-6, 1e-1, log=True)
        return 5e290 if rate > 1e-2 else (np.log10(rate) + 4) ** 2

    study = optuna.create_study(sampler=RLSampler(seed=0, n_trials=12))
    study.enqueue_trial({"learning_rate": 0.1})
    study.optimize(diverging, n_trials=12)
    assert study.best_value < 0.1
