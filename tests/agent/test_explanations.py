"""Explanations are honest: on tasks with a known answer they name the hyperparameter that matters.

Every task has six hyperparameters, of which one moves the objective; its best level is drawn. The trials are random, so
that there is something to be learned from them: a search that never varied a hyperparameter knows nothing of it.
"""

import json

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch.agent.agent import load_agent
from hf_rlsearch.agent.decision import Decision
from hf_rlsearch.observation.curve_features import FORECAST_FEATURES
from hf_rlsearch.observation.history import RUNNING
from hf_rlsearch.space import SearchSpace
from tests.helpers.searches import history_of

KNOWN: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-6, 1e-3, log=True),
    "per_device_train_batch_size": CategoricalDistribution([8, 16, 32, 64]),
    "num_train_epochs": IntDistribution(1, 6),
    "weight_decay": FloatDistribution(0.0, 0.3),
    "warmup_ratio": FloatDistribution(0.0, 0.2),
    "lr_scheduler_type": CategoricalDistribution(["linear", "cosine", "constant"]),
}
NAMELESS: dict[str, BaseDistribution] = {f"x{i}": IntDistribution(0, 4) for i in range(6)}
SPACES = {"known": SearchSpace.from_distributions(KNOWN), "nameless": SearchSpace.from_distributions(NAMELESS)}


def decide(space: SearchSpace, name: str | None, seed: int, n_trials: int, *, maximize: bool = True) -> Decision:
    """What the agent would train after random trials of a task in which only `name` matters, or nothing at all."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, space.n_levels, (n_trials, len(space.names)))
    quality = 0.03 * rng.normal(size=n_trials)
    if name is not None:
        h = space.names.index(name)
        gap = np.abs(np.arange(space.n_levels[h]) - rng.integers(space.n_levels[h])) / (space.n_levels[h] - 1)
        level = -gap if space.ordered[h] else -rng.permutation(space.n_levels[h]) / space.n_levels[h]
        quality = quality + level[rows[:, h]]
    values = 0.9 + 0.3 * quality if maximize else -0.4 + 0.5 * quality  # a score, or a loss with its sign turned
    candidates = rng.integers(0, space.n_levels, (256, len(space.names)))
    mask, facts = np.ones(256, bool), {"maximize": float(maximize)}
    history = history_of(rows, values, space=space)
    return load_agent().decide(space, history, candidates, mask=mask, n_remaining=None, facts=facts, rng=rng)


def named(decision: Decision) -> str:
    return max(decision.contributions, key=lambda name: abs(decision.contributions[name]))


def learned(decision: Decision, name: str) -> float:
    """What the trials added to a contribution."""
    return decision.contributions[name] - decision.prior_contributions[name]


def shares(space: SearchSpace, name: str, seeds: range, n_trials: int) -> float:
    """How often the hyperparameter that matters is named, over seeds, scores and losses."""
    hits = [named(decide(space, name, seed, n_trials, maximize=seed % 2 == 0)) == name for seed in seeds]
    return float(np.mean(hits))


# ----------------------------------------------------------------------------------------------------------- honesty
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("known", "learning_rate"),
        ("known", "per_device_train_batch_size"),
        ("known", "lr_scheduler_type"),
        ("nameless", "x0"),
        ("nameless", "x4"),
    ],
)
def test_the_hyperparameter_that_matters_is_named(kind: str, name: str) -> None:
    """By chance a sixth of the tasks would be named rightly; by names alone none but those of the learning rate."""
    assert shares(SPACES[kind], name, range(6), 60) >= 5 / 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPACES)
def test_whichever_it_is_it_is_named(kind: str) -> None:
    """Also those that hardly ever matter in real trainings: weight decay, warm-up."""
    found = {name: shares(SPACES[kind], name, range(20), 60) for name in SPACES[kind].names}
    assert min(found.values()) >= 0.7, found
    assert np.mean(list(found.values())) >= 0.85, found


@pytest.mark.parametrize("name", ["per_device_train_batch_size", "num_train_epochs"])
def test_prior_contributions_are_separate_from_those_of_trials(name: str) -> None:
    """Names alone mostly speak of the learning rate; the trials speak of the one that matters (by chance: 1 of 6)."""
    space = SPACES["known"]
    found = [decide(space, name, seed, 40) for seed in range(6)]
    assert (
        sum(max(d.prior_contributions, key=lambda n: abs(d.prior_contributions[n])) == "learning_rate" for d in found)
        >= 4
    )
    assert sum(max(space.names, key=lambda n: learned(d, n)) == name for d in found) >= 4


def test_without_trials_everything_is_known_beforehand() -> None:
    decision = decide(SPACES["known"], None, 0, 0)
    assert decision.prior_contributions == pytest.approx(decision.contributions, abs=1e-5)


def test_where_nothing_matters_nothing_is_learned_from_the_trials() -> None:
    matters = decide(SPACES["nameless"], "x0", 0, 60).contributions["x0"]
    nothing = decide(SPACES["nameless"], None, 0, 60).contributions
    assert max(map(abs, nothing.values())) < 0.5 * abs(matters)


# ---------------------------------------------------------------------------------------------- what belongs to it
def test_the_alternative_is_another_candidate_and_no_better() -> None:
    for seed in range(5):
        decision = decide(SPACES["known"], "learning_rate", seed, 10)
        assert decision.alternative is not None
        assert decision.alternative.probability <= decision.probability
        assert decision.alternative.improvement <= decision.improvement + 1e-6
        assert set(decision.alternative.params) == set(KNOWN)


def test_it_is_small_enough_to_store_with_every_trial() -> None:
    assert len(json.dumps(decide(SPACES["known"], "learning_rate", 0, 60).to_json())) < 1500


# ----------------------------------------------------------------------------------------------------- stopped trials
def chance(own: float) -> float:
    """Of a running trial at half of its training that reached `own`, where others ended between 0.5 and 0.8."""
    space, rng = SPACES["known"], np.random.default_rng(0)
    rows = rng.integers(0, space.n_levels, (13, 6))
    finals = np.append(np.linspace(0.5, 0.8, 12), own)
    curves = tuple(np.array([[1.0, f - 0.1], [2.0, f - 0.05], [3.0, f - 0.02], [4.0, f]]) for f in finals[:-1])
    running = np.array([[1.0, own - 0.05], [2.0, own]])
    history = history_of(
        rows,
        finals,
        space=space,
        status=np.array([0] * 12 + [RUNNING]),
        fidelity=np.array([1.0] * 12 + [0.5]),
        curves=(*curves, running),
    )
    found = load_agent().forecast(space, history, 12, rows[:1], mask=np.ones(1, bool), facts={"maximize": 1.0})
    assert found is not None
    return float(found[0, FORECAST_FEATURES.index("forecast_chance")] + 1) / 2


def test_a_running_trial_that_is_ahead_has_the_better_chance() -> None:
    low, middle, high = chance(0.3), chance(0.7), chance(0.9)
    assert low < 0.2
    assert low <= middle < high
    assert high > 0.5


def test_a_trial_that_is_not_there_has_no_chance_to_tell() -> None:
    space, row = SPACES["nameless"], np.zeros((1, 6), int)
    history = history_of(row, np.ones(1), space=space)
    assert load_agent().forecast(space, history, 7, row, mask=np.ones(1, bool), facts={}) is None
