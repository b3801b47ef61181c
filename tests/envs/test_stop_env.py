"""Simulated searches with stopping have the limits of the pruner."""

from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from hf_rlsearch import RLPruner
from hf_rlsearch.agent.checkpoint import load_weights, save_weights
from hf_rlsearch.envs.stop_env import StopSearch
from hf_rlsearch.observation.curve_features import FORECAST_FEATURES
from hf_rlsearch.observation.history import COMPLETE, PRUNED
from hf_rlsearch.observation.observation import FACTS
from hf_rlsearch.tasks.prior import TaskBatch, draw

B = 16
X = {"x": optuna.distributions.FloatDistribution(0, 1)}


def stepped(rng: np.random.Generator, n_tasks: int) -> TaskBatch:
    """Tasks whose curves stay at few values, many of them at one that they have in common."""
    tasks = draw(rng, n_tasks, 300)
    shape = (n_tasks, 300, 12)
    begins = rng.integers(0, 14, (n_tasks, 300, 1))  # the evaluation from which a training is good, if any
    height = np.round(rng.random((n_tasks, 300, 1)), 1)
    curves = np.where(np.arange(12) >= begins, 0.25 + height, 0.25)
    facts = np.full((n_tasks, len(FACTS)), np.nan)
    facts[:, FACTS.index("maximize")] = 1.0
    facts[::2, FACTS.index("untrained")] = 0.3  # half of the searches know it: what stays at 0.25 has learnt nothing
    final, ones = curves[..., -1], np.ones(n_tasks)
    return replace(
        tasks, curves=np.broadcast_to(curves, shape), values=final, utility=final, facts=facts, spread=ones,
        median=0 * ones, noise=np.zeros(shape[:2]), prices=np.ones(shape[:2]), candidate_mask=np.ones(shape[:2], bool),
    )  # fmt: skip


def forecast(chance: float) -> Any:
    def known(search: StopSearch, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = np.zeros((search.n_envs, len(FORECAST_FEATURES)), np.float32)
        features[:, FORECAST_FEATURES.index("forecast_chance")] = 2 * chance - 1
        return features * wanted[:, None], search.action_masks()[:, :-1].argmax(1)

    return known


@pytest.fixture(scope="module")
def always(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Weights whose rule always stops."""
    tensors, card = load_weights()
    tensors = {name: torch.zeros_like(t) for name, t in tensors.items() if name.startswith("stop.")}
    tensors["stop.2.bias"] = torch.tensor([0.0, 5.0])
    path = tmp_path_factory.mktemp("weights") / "always.safetensors"
    save_weights(path, tensors, replace(card, name="always"))
    return path


def stops(search: StopSearch, b: int, chance: float, weights: Any) -> bool:
    """Whether a pruner that stops whatever it may would stop the running trial of a search."""
    facts = {n: float(v) for n, v in zip(FACTS, search.tasks.facts[b], strict=True) if n != "maximize" and v == v}
    pruner = RLPruner(max_resource=search.evaluations, budget=search.budget, weights=weights, facts=facts)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for t in range(search.count[b]):
        reports = search.curves[b, t, : search.steps[b, t]].tolist()
        params = {"x": float(search.chosen[b, t]) / 300}
        if t == search.running[b]:
            study.enqueue_trial(params)
            trial = study.ask(X)
            for step, value in enumerate(reports, 1):
                trial.report(value, step)
            return trial.should_prune()
        state = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED}[int(search.status[b, t])]
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=X,
                state=state,
                value=reports[-1] if state == TrialState.COMPLETE else None,
                intermediate_values=dict(enumerate(reports, 1)),
            )
        )
    return False


@pytest.mark.parametrize("chance", [0.02, 0.15])
def test_a_simulated_trial_may_be_stopped_where_the_pruner_may_stop_it(
    always: Any, chance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = np.zeros((1, len(FORECAST_FEATURES)))
    features[0, FORECAST_FEATURES.index("forecast_chance")] = 2 * chance - 1
    monkeypatch.setattr(RLPruner, "_forecast", lambda *_: features)
    monkeypatch.setattr("hf_rlsearch.envs.stop_env.BUDGETS", (8,))
    monkeypatch.setattr("hf_rlsearch.envs.stop_env.EVALUATIONS", (6,))
    search, rng = (
        StopSearch(B, 3, stepped, forecasts=forecast(chance), agent_only=True, priced=0.0),
        np.random.default_rng(0),
    )
    seen = []
    while not search.done:
        may_stop = search.describe()[1]
        live = [stops(search, b, chance, always) for b in range(B)] if search.used % 3 == 1 else may_stop.tolist()
        assert may_stop.tolist() == live
        seen += may_stop.tolist()
        search.decide(may_stop & (rng.random(B) < 0.5))
    assert 0.02 < np.mean(seen) < 0.9
