"""RLPruner in real studies. The rules here are extreme ones: what they stop is decided by the pruner around them."""

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from hf_rlsearch.agent.agent import Agent
from hf_rlsearch.agent.checkpoint import load_weights, save_weights
from hf_rlsearch.agent.stop_rule import StopRule
from hf_rlsearch.errors import ArgumentsError, WeightsError
from hf_rlsearch.observation.curve_features import (
    CURVE_FEATURES,
    DECISIONS_PER_TRAINING,
    FORECAST_FEATURES,
    STOP_FEATURES,
)
from hf_rlsearch.observation.trial_attributes import CONTINUES, STOP
from hf_rlsearch.optuna.pruner import RLPruner
from hf_rlsearch.report import explain

Rules = Callable[[str], Path]


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Rules:
    """Weights whose stop rule always stops, never stops, or does as random numbers say."""
    folder, card = tmp_path_factory.mktemp("weights"), replace(load_weights()[1], name="test")

    def make(kind: str) -> Path:
        generator = torch.Generator().manual_seed(0)
        shapes = [(8, len(STOP_FEATURES) + 1), (8, 8), (2, 9)]
        tensors = {}
        for i, shape in enumerate(shapes):
            scale = 1.0 if kind == "random" else 0.0
            tensors[f"stop.{i}.weight"] = torch.randn(shape, generator=generator) * scale
            tensors[f"stop.{i}.bias"] = torch.zeros(shape[0])
        if kind != "random":
            tensors["stop.2.bias"] = torch.tensor([0.0, 5.0 if kind == "always" else -5.0])
        path = folder / f"{kind}.safetensors"
        if kind == "none":
            tensors = {"other": torch.zeros(1)}
        if not path.exists():
            save_weights(path, tensors, card)
        return path

    return make


def save_weights_of(path: Path, tensors: dict[str, torch.Tensor], card: Any) -> Path:
    save_weights(path, tensors, card)
    return path


def objective(qualities: list[float], n_reports: int = 5, sign: float = 1.0, stride: int = 1) -> Any:
    """Trial n has params of its own; it reports and returns quality n, the same at every step."""

    def train(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        value = sign * qualities[trial.number]
        for step in range(1, n_reports + 1):
            trial.report(value, step * stride)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    return train


def run(pruner: RLPruner, qualities: list[float], direction: str = "maximize", **settings: Any) -> optuna.Study:
    study = optuna.create_study(direction=direction, pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    sign = 1.0 if direction == "maximize" else -1.0
    study.optimize(objective(qualities, sign=sign, **settings), n_trials=len(qualities))
    return study


def pruned(study: optuna.Study) -> list[int]:
    return [t.number for t in study.trials if t.state == TrialState.PRUNED]


X = FloatDistribution(0, 1)


def finished(state: TrialState, x: float, **columns: Any) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(state=state, params={"x": x}, distributions={"x": X}, **columns)


QUALITIES = [0.3, 0.1, 0.5, 0.4, 0.9, 0.2, 0.95, 0.9]
LEADERS = [0, 2, 4, 6]  # better than all before


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_leader_is_never_pruned_and_the_rest_is_at_once(rules: Rules, direction: str) -> None:
    study = run(RLPruner(max_resource=5, weights=rules("always")), QUALITIES, direction)
    assert pruned(study) == [n for n in range(8) if n not in LEADERS]
    assert all(study.trials[n].last_step == 1 for n in pruned(study))


def test_equal_trials_lead_together(rules: Rules) -> None:
    assert pruned(run(RLPruner(max_resource=5, weights=rules("always")), [0.5] * 4)) == []


def test_a_rule_that_never_stops_prunes_nothing(rules: Rules) -> None:
    assert pruned(run(RLPruner(max_resource=5, weights=rules("never")), QUALITIES)) == []


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_trial_better_than_all_complete_trials_continues(rules: Rules, sign: float) -> None:
    """A training that over-fits was better on its way than it ended; the next is measured by both."""
    curves = [[0.5, 0.8, 0.6], [0.4, 0.7, 0.7], [0.4, 0.5, 0.5]]
    study = optuna.create_study(
        direction="maximize" if sign > 0 else "minimize", pruner=RLPruner(max_resource=4, weights=rules("always"))
    )
    pruner, stopped = study.pruner, []
    for n, curve in enumerate(curves):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        for step, value in enumerate(curve, 1):
            trial.report(sign * value, step)
        if pruner.prune(study, study.trials[n]):
            stopped.append(n)
        study.tell(trial, sign * curve[-1])
    assert stopped == [2]


@pytest.mark.parametrize(("objective_of", "goes_on"), [("last", False), ("best", True)])
def test_a_trial_is_worth_what_counts_of_its_reports(rules: Rules, objective_of: str, goes_on: bool) -> None:
    """It was ahead and has fallen behind: it leads by its best report, and not by its newest one."""
    pruner = RLPruner(max_resource=4, weights=rules("always"))
    study = optuna.create_study(direction="maximize", pruner=pruner)
    curve = {1: 0.2, 2: 0.6, 3: 0.5, 4: 0.55}
    value = {"last": 0.55, "best": 0.6}[objective_of]
    study.add_trial(finished(TrialState.COMPLETE, 0.9, value=value, intermediate_values=curve))
    study.add_trial(finished(TrialState.COMPLETE, 0.8, value=0.9, intermediate_values={1: 0.1, 4: 0.9}))
    trial = study.ask({"x": X})
    trial.report(0.7, 2)
    trial.report(0.4, 3)
    assert trial.should_prune() != goes_on


def test_it_leads_who_leads_at_the_same_step(rules: Rules) -> None:
    """A trial that is behind all final values, but ahead of what they were at its step, goes on."""
    pruner = RLPruner(max_resource=4, weights=rules("always"))
    study = optuna.create_study(direction="maximize", pruner=pruner)
    curves = [[0.1, 0.2, 0.8, 0.9], [0.3, 0.3, 0.3, 0.3]]

    def train(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        for step, value in enumerate(curves[trial.number], 1):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return curves[trial.number][-1]

    study.optimize(train, n_trials=2)
    assert study.trials[1].state == TrialState.PRUNED
    assert study.trials[1].last_step == 3


def test_trials_that_stopped_before_are_no_comparison(rules: Rules) -> None:
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=5, weights=rules("always")))
    study.add_trial(finished(TrialState.PRUNED, x=0.1, intermediate_values={1: 0.9}))
    trial = study.ask({"x": X})
    trial.report(0.5, 1)
    assert trial.should_prune()
    trial.report(0.5, 2)
    assert not trial.should_prune()


def test_a_configuration_that_was_stopped_gets_a_longer_look_the_second_time(rules: Rules) -> None:
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=12, weights=rules("always")))
    study.add_trial(finished(TrialState.COMPLETE, 0.9, value=1.0, intermediate_values=dict.fromkeys(range(1, 13), 1.0)))
    study.add_trial(finished(TrialState.PRUNED, 0.3, intermediate_values={1: 0.2, 2: 0.2}))
    for x, last in ((0.3, 8), (0.4, 1)):  # four times the two steps it had; an unknown one has no such grace
        study.enqueue_trial({"x": x})
        trial = study.ask({"x": X})
        for step in range(1, 13):
            trial.report(0.2 + (step + x) / 1000, step)
            if trial.should_prune():
                break
        assert step == last
        study.tell(trial, state=TrialState.PRUNED)


def test_a_continued_training_is_paid_once_and_not_its_own_rival(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def log_odds(self: StopRule, features: np.ndarray) -> np.ndarray:
        named = dict(zip(CURVE_FEATURES, features[0], strict=False))
        seen.append((named["share_left"], np.expm1(3 * named["n_here"])))
        return np.array([-1.0])

    monkeypatch.setattr(StopRule, "log_odds", log_odds)
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=5, budget=4, weights=rules("never")))
    study.add_trial(finished(TrialState.COMPLETE, 0.9, value=1.0, intermediate_values=dict.fromkeys(range(1, 6), 1.0)))
    study.add_trial(finished(TrialState.PRUNED, 0.3, intermediate_values={1: 0.2}))
    study.enqueue_trial({"x": 0.3}, user_attrs={CONTINUES: 1})
    trial = study.ask({"x": X})
    for step in range(1, 5):
        trial.report(0.2, step)
    assert not trial.should_prune()
    # one complete training and four fifths of this one, of four; one other got this far
    assert seen == [pytest.approx((2.2 / 4, 1.0))]


@pytest.mark.parametrize(("value", "stopped"), [(0.85, True), (0.95, False)])
def test_the_first_third_of_three_epochs_is_compared_with_the_whole_of_one(
    rules: Rules, value: float, stopped: bool
) -> None:
    """Each on its own axis of 30 steps; after 9 of the long one, the short one had done 27, and was at 0.9."""
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=30, weights=rules("always")))
    short = {step: step / 30 for step in range(1, 31)}
    study.add_trial(
        finished(TrialState.COMPLETE, 0.1, value=1.0, intermediate_values=short, user_attrs={"rl:cost": 1.0})
    )
    study.enqueue_trial({"x": 0.2}, user_attrs={"rl:cost": 3.0})
    trial = study.ask({"x": X})
    trial.report(value, 9)
    assert trial.should_prune() == stopped


def test_steps_that_were_rounded_are_the_same_amount(rules: Rules) -> None:
    """A third of three epochs, in ten-thousandths of the training, and the whole of one epoch."""
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=10_000, weights=rules("always")))
    study.add_trial(finished(TrialState.COMPLETE, 0.1, value=0.9, intermediate_values={10_000: 0.9}))
    study.enqueue_trial({"x": 0.2}, user_attrs={"rl:cost": 3.0})
    trial = study.ask({"x": X})
    trial.report(0.5, 3333)
    assert trial.should_prune()


def test_a_trial_is_compared_with_what_others_report_while_it_is_trained(rules: Rules, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 's.db'}"
    pruner = RLPruner(max_resource=5, weights=rules("always"))
    study = optuna.create_study(direction="maximize", pruner=pruner, storage=storage, study_name="s")
    trial = study.ask({"x": X})
    other = optuna.load_study(study_name="s", storage=storage, pruner=pruner)
    other.add_trial(finished(TrialState.COMPLETE, 0.1, value=0.9, intermediate_values=dict.fromkeys(range(1, 6), 0.9)))
    trial.report(0.1, 1)
    assert trial.should_prune()


def test_a_short_trial_is_compared_with_the_beginning_of_a_long_one(rules: Rules) -> None:
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=30, weights=rules("always")))
    long = {step: step / 30 for step in range(1, 31)}
    study.add_trial(
        finished(TrialState.COMPLETE, 0.1, value=1.0, intermediate_values=long, user_attrs={"rl:cost": 3.0})
    )
    study.enqueue_trial({"x": 0.2}, user_attrs={"rl:cost": 1.0})
    trial = study.ask({"x": X})
    trial.report(0.28, 24)  # the long one was at 8/30 after its 8th step
    assert not trial.should_prune()
    trial.report(0.28, 27)  # and at 0.3 after its 9th
    assert trial.should_prune()


def test_a_trial_that_was_trained_to_its_end_is_not_stopped(rules: Rules) -> None:
    """A stop would save nothing, and throw the objective away."""
    for max_resource, stopped in ((5, []), (6, [1])):
        pruner = RLPruner(max_resource=max_resource, weights=rules("always"))
        study = optuna.create_study(direction="maximize", pruner=pruner)
        study.add_trial(finished(TrialState.COMPLETE, 0.1, value=1.0, intermediate_values={5: 1.0}))
        trial = study.ask({"x": X})
        trial.report(0.5, 5)
        study.tell(trial, **({"state": TrialState.PRUNED} if trial.should_prune() else {"values": 0.5}))
        assert pruned(study) == stopped


def test_a_complete_short_trial_is_a_rival_after_its_end(rules: Rules) -> None:
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=30, weights=rules("always")))
    reports = dict.fromkeys(range(1, 31), 0.5)
    study.add_trial(
        finished(TrialState.COMPLETE, 0.1, value=0.5, intermediate_values=reports, user_attrs={"rl:cost": 1.0})
    )
    study.enqueue_trial({"x": 0.2}, user_attrs={"rl:cost": 3.0})
    trial = study.ask({"x": X})
    trial.report(0.4, 20)
    assert trial.should_prune()


def shares_left(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The share of the budget that the stop rule sees at each decision; the rule never stops."""
    seen: list[float] = []

    def log_odds(self: StopRule, features: np.ndarray) -> np.ndarray:
        seen.append(features[0, CURVE_FEATURES.index("share_left")])
        return np.array([-1.0])

    monkeypatch.setattr(StopRule, "log_odds", log_odds)
    return seen


def test_costs_and_plans_reach_the_rule(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shares_left(monkeypatch)
    pruner = RLPruner(max_resource=10, budget=8, weights=rules("never"))
    study = optuna.create_study(direction="maximize", pruner=pruner)
    reports = dict.fromkeys(range(1, 11), 1.0)
    study.add_trial(
        finished(TrialState.COMPLETE, 0.1, value=1.0, intermediate_values=reports, user_attrs={"rl:cost": 3.0})
    )
    study.enqueue_trial({"x": 0.2}, user_attrs={"rl:cost": 2.0})
    trial = study.ask({"x": X})
    trial.report(0.1, 5)
    for plan in (None, 5.0, 100.0):  # three of the first and one of the second are spent
        pruner.plan_for(plan)
        trial.should_prune()
    assert seen == pytest.approx([0.5, 0.2, 0.5])


def test_without_a_resource_the_first_trial_sets_it(rules: Rules) -> None:
    study = run(RLPruner(weights=rules("always")), QUALITIES)
    assert pruned(study) == [n for n in range(8) if n not in LEADERS]
    assert study.trials[0].state == TrialState.COMPLETE


def test_trials_without_reports_are_left_alone(rules: Rules) -> None:
    study = optuna.create_study(pruner=RLPruner(max_resource=5, weights=rules("always")))
    study.optimize(lambda trial: float(trial.should_prune()), n_trials=3)
    assert [t.value for t in study.trials] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_reports_that_are_no_numbers_are_survived(rules: Rules, bad: float) -> None:
    study = run(RLPruner(max_resource=5, weights=rules("always")), [0.5, bad, 0.3, 0.7])
    assert pruned(study) == [2]
    with_early_loss = optuna.create_study(
        direction="maximize", pruner=RLPruner(max_resource=3, weights=rules("always"))
    )
    with_early_loss.add_trial(optuna.trial.create_trial(value=0.5, intermediate_values={1: 0.5, 2: 0.5, 3: 0.5}))
    trial = with_early_loss.ask()
    trial.report(bad, 1)
    assert not trial.should_prune()
    trial.report(0.1, 2)
    assert trial.should_prune()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(allow_nan=True), min_size=12, max_size=12))
@example([1e308, -1e308, 0.0, 5e-324] * 3)
@example([1.0, 1.0, 1.0, 0.0] + [1e-310] * 8)
def test_any_number_may_be_reported(values: list[float]) -> None:
    """Four trials of three reports: the answer is yes or no, and no warning is given."""
    study = optuna.create_study(pruner=RLPruner(max_resource=3), sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(4):
        trial = study.ask({"x": X})
        for step in range(1, 4):
            trial.report(values[3 * number + step - 1], step)
            assert trial.should_prune() in (True, False)
        end = {"state": TrialState.FAIL} if math.isnan(values[3 * number + 2]) else {"values": values[3 * number + 2]}
        study.tell(trial, **end)


def test_reports_from_step_zero_are_fine(rules: Rules) -> None:
    study = optuna.create_study(direction="maximize", pruner=RLPruner(weights=rules("always")))

    def train(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        for step in range(3):
            trial.report(-trial.number, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return -float(trial.number)

    study.optimize(train, n_trials=3)
    assert pruned(study) == [1, 2]


@pytest.mark.parametrize(("complete", "steps", "stops"), [(0, [0, 4], False), (1, [0, 4], False), (1, [0, 3], True)])
def test_the_last_of_epochs_counted_from_zero_stops_no_trial(
    rules: Rules, complete: int, steps: list[int], stops: bool
) -> None:
    """``max_resource`` is their number; the leader of workers that started together may still be running."""
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=5, weights=rules("always")))
    ahead, trial = study.ask({"x": X}), study.ask({"x": X})
    for step in range(5):
        ahead.report(1.0, step)
    if complete:
        study.tell(ahead, 1.0)
    for step in steps:
        trial.report(0.5, step)
    assert trial.should_prune() == stops


def test_epochs_from_one_after_an_evaluation_of_the_untrained_model_end_where_a_complete_trial_ended(
    rules: Rules,
) -> None:
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=5, weights=rules("always")))
    study.add_trial(finished(TrialState.COMPLETE, 0.1, value=1.0, intermediate_values=dict.fromkeys(range(6), 1.0)))
    trial = study.ask({"x": X})
    for step in (0, 4):
        trial.report(0.5, step)
    assert trial.should_prune()


def test_failed_and_waiting_trials_count_for_nothing(rules: Rules) -> None:
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=5, weights=rules("always")))
    failed = optuna.trial.create_trial(state=TrialState.FAIL, intermediate_values={1: 9.0})
    study.add_trial(failed)
    study.enqueue_trial({})
    study.enqueue_trial({})
    trial = study.ask()
    trial.report(0.1, 1)
    assert not trial.should_prune()


def test_studies_with_several_directions_run_unpruned(rules: Rules) -> None:
    pruner = RLPruner(max_resource=5, weights=rules("always"))
    study = optuna.create_study(directions=["maximize", "minimize"], pruner=pruner)
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=3)
    assert pruned(study) == []
    assert not pruner.prune(study, study.trials[0])


def test_a_pruner_survives_pickling_with_what_it_knows(rules: Rules) -> None:
    pruner = RLPruner(max_resource=5, budget=8, weights=rules("random"))
    study = run(pruner, QUALITIES)
    copy = pickle.loads(pickle.dumps(pruner))
    trial = study.ask()
    trial.report(0.35, 2)
    frozen = study.trials[-1]
    assert copy.prune(study, frozen) == pruner.prune(study, frozen)
    fresh = pickle.loads(pickle.dumps(RLPruner(max_resource=5, budget=8, weights=rules("random"))))
    assert pruned(run(fresh, QUALITIES)) == pruned(study)


def test_directions_are_alike_for_any_rule(rules: Rules) -> None:
    results = []
    for direction in ("maximize", "minimize"):
        study = run(RLPruner(max_resource=5, budget=6, weights=rules("random")), QUALITIES * 2, direction)
        results.append([(t.state, t.last_step, t.system_attrs.get(STOP)) for t in study.trials])
    assert results[0] == results[1]


def decisions(sign: float, scale: float = 1.0, shift: float = 0.0, *, seed: int = 0, n: int = 14) -> list[Any]:
    """Where RLPruner stops the trials after the tenth with the bundled weights, and the chances that it names there.

    Qualities and noise come from the seed; the study gets them with another sign, unit and origin.
    """
    study = optuna.create_study(
        direction="maximize" if sign > 0 else "minimize",
        pruner=RLPruner(facts={"n_steps": 3.0}),
        sampler=optuna.samplers.RandomSampler(seed=seed),
    )
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.01, (n, 5))

    def train(trial: optuna.Trial) -> float:
        quality = 0.9 - 0.1 * abs(np.log10(trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)) + 3) ** 1.5
        curve = quality * (1 - 0.6 * np.exp(-np.arange(5) / 2)) + noise[trial.number]
        values = (sign * (scale * curve + shift)).tolist()
        for step, value in enumerate(values, 1):
            trial.report(value, step)
            if trial.number >= 10 and trial.should_prune():
                raise optuna.TrialPruned
        return float(values[-1])

    study.optimize(train, n_trials=n)
    reasons = [t.system_attrs.get(STOP, {}).get("chance", 0.0) for t in study.trials]
    return [(t.state, t.last_step, pytest.approx(c, abs=1e-3)) for t, c in zip(study.trials, reasons, strict=True)]


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([1.0, -1.0]),
    st.floats(-9, 9).map(lambda power: 10**power),
    st.floats(-1, 1).map(lambda x: round(100 * x, 3)),
    st.integers(0, 3),
)
@example(-1.0, 1.0, 0.0, 0)
@example(1.0, 1e-30, 0.0, 1)
def test_sign_unit_and_origin_of_the_objective_change_no_decision(
    sign: float, scale: float, origin: float, seed: int
) -> None:
    assert decisions(sign, scale, origin * scale, seed=seed) == reference(seed)


@lru_cache
def reference(seed: int) -> list[Any]:
    found = decisions(1.0, seed=seed)
    assert any(state == TrialState.PRUNED for state, *_ in found)
    return found


def test_a_mirrored_study_is_pruned_alike() -> None:
    """The decisions of one trial change what the next are compared with."""
    assert decisions(-1.0, 1.0, -1.0, seed=7, n=24) == decisions(1.0, 1.0, -1.0, seed=7, n=24)


def test_a_direction_among_the_facts_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(Agent, "forecast", lambda self, *args, facts, **options: told.append(facts))
    study = optuna.create_study(pruner=RLPruner(max_resource=5, facts={"maximize": 1.0}))
    study.optimize(objective([1.0, 0.5, 0.2], sign=-1.0), n_trials=3)
    assert told
    assert told[0] == {}


def test_without_a_resource_no_trial_is_stopped_at_its_last_report(rules: Rules) -> None:
    """Trainings of two and of three reports: the second ends where no other complete training has ended later."""
    study = optuna.create_study(direction="maximize", pruner=RLPruner(weights=rules("always")))
    for x, n_reports in ((0.1, 2), (0.2, 3)):
        reports = dict.fromkeys(range(1, n_reports + 1), 1.0)
        study.add_trial(finished(TrialState.COMPLETE, x, value=1.0, intermediate_values=reports))
    judged = []
    trial = study.ask({"x": X})
    for step in range(1, 6):
        trial.report(0.5, step)
        judged.append(trial.should_prune())
    assert judged == [True, False, False, False, False]


def test_the_axis_may_be_of_any_unit(rules: Rules) -> None:
    results = []
    for stride in (1, 1000):
        pruner = RLPruner(max_resource=5 * stride, weights=rules("random"))
        study = run(pruner, QUALITIES, stride=stride)
        results.append([(t.state, t.system_attrs.get(STOP)) for t in study.trials])
    assert results[0] == results[1]


def test_a_judged_trial_says_why(rules: Rules) -> None:
    study = run(RLPruner(max_resource=5, weights=rules("always")), QUALITIES)
    reason = study.trials[1].system_attrs[STOP]
    assert reason["fidelity"] == 0.2
    assert reason["probability"] == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-4)
    assert study.trials[0].system_attrs[STOP] == {"fidelity": 0.8, "goes_on": "leads"}
    assert "chance" not in reason  # these weights predict nothing


@pytest.fixture
def always(rules: Rules, tmp_path: Path) -> Path:
    """Weights that always stop and have the bundled predictor."""
    tensors, card = load_weights()
    extreme = {k: v for k, v in load_weights(rules("always"))[0].items() if k.startswith("stop.")}
    return save_weights_of(tmp_path / "both.safetensors", {**tensors, **extreme}, card)


def test_a_stopped_trial_records_its_chance_to_become_the_best(always: Path) -> None:
    qualities = [0.5, 0.6, 0.7, 0.8, 0.1]
    for direction in ("maximize", "minimize"):
        study = run(RLPruner(max_resource=5, budget=10, weights=always), qualities, direction)
        stopped = study.trials[4]
        assert stopped.state == TrialState.PRUNED
        assert 0 <= stopped.system_attrs[STOP]["chance"] < 0.5


def test_where_the_number_of_trials_ends_the_study_only_the_hopeless_are_stopped(
    always: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped trial is one of them: stopping saves time only."""

    def last(hopeless: float, **budget: float) -> TrialState:
        monkeypatch.setattr("hf_rlsearch.observation.curve_features.HOPELESS", hopeless)
        return run(RLPruner(max_resource=5, weights=always, **budget), [0.5, 0.6, 0.7, 0.8, 0.1]).trials[4].state

    assert last(0.0) == TrialState.COMPLETE
    assert last(1.0) == last(0.0, budget=10) == TrialState.PRUNED
    assert last(0.0, budget=5) == TrialState.COMPLETE  # 4.2 are spent: no other training could be paid for
    pruner = RLPruner(max_resource=5, weights=always)
    pruner.plan_for(10)
    monkeypatch.setattr("hf_rlsearch.observation.curve_features.HOPELESS", 0.0)
    assert run(pruner, [0.5, 0.6, 0.7, 0.8, 0.1]).trials[4].state == TrialState.PRUNED


@pytest.mark.parametrize(("n_before", "stops"), [(1, True), (2, True), (3, False), (8, False)])
def test_what_is_likelier_to_win_than_any_other_would_be_goes_on(
    always: Path, monkeypatch: pytest.MonkeyPatch, n_before: int, stops: bool
) -> None:
    """The next of 3.2 alike full trainings is their best with a chance of 1/4.2, below the 30 % of this one."""
    forecast = np.zeros((1, len(FORECAST_FEATURES)))
    forecast[0, FORECAST_FEATURES.index("forecast_chance")] = 2 * 0.3 - 1
    monkeypatch.setattr(RLPruner, "_forecast", lambda *_: forecast)
    qualities = [*np.linspace(0.5, 0.9, n_before), 0.1]
    study = run(RLPruner(max_resource=5, budget=20, weights=always), qualities)
    assert (study.trials[-1].state == TrialState.PRUNED) == stops
    reason = study.trials[-1].system_attrs[STOP]
    assert reason["chance"] == 0.3
    assert ("limit" in reason) == (not stops)
    assert reason.get("limit", 1.0) == pytest.approx(1.0 if stops else 1 / (1 + n_before + 0.8), abs=1e-4)


def test_a_leader_stores_why_it_goes_on(always: Path) -> None:
    study = run(RLPruner(max_resource=5, budget=20, weights=always), [0.5, 0.9])
    assert "at 80% of a full training it went on, as no other trial was better" in explain(study, 1).to_text()


def test_a_trial_that_is_ahead_of_the_complete_ones_stores_why_it_goes_on(always: Path) -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trial(finished(TrialState.COMPLETE, 0.1, value=0.5, intermediate_values={5: 0.5, 10: 0.5}))
    study.add_trial(finished(TrialState.PRUNED, 0.2, intermediate_values={5: 0.95}))
    study.pruner = RLPruner(max_resource=10, budget=20, weights=always)
    trial = study.ask({"x": X})
    trial.report(0.8, 5)
    assert not trial.should_prune()
    assert study.trials[2].system_attrs[STOP] == {"fidelity": 0.5, "goes_on": "ahead"}


def test_a_trial_without_hyperparameters_has_no_chance_to_tell(always: Path) -> None:
    study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=2, weights=always))
    for value in (1.0, 0.0):
        trial = study.ask()
        trial.report(value, 1)
        if value == 0.0:
            assert trial.should_prune()
            assert "chance" not in study.trials[1].system_attrs[STOP]
        trial.report(value, 2)
        study.tell(trial, value)


def test_frequent_reports_are_judged_now_and_then(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = StopRule.log_odds

    def counted(self: StopRule, features: np.ndarray) -> np.ndarray:
        calls.append(features[0, CURVE_FEATURES.index("fidelity")])
        return real(self, features)

    monkeypatch.setattr(StopRule, "log_odds", counted)
    run(RLPruner(max_resource=200, weights=rules("never")), [1.0, 0.0], n_reports=200)
    assert len(calls) == DECISIONS_PER_TRAINING - 1  # at its end nothing is judged
    assert (np.diff(calls) > 0).all()


def test_the_budget_reaches_the_rule(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shares_left(monkeypatch)
    run(RLPruner(max_resource=2, budget=4, weights=rules("never")), [1.0, 0.5, 0.2], n_reports=2)
    assert seen == pytest.approx([2.5 / 4, 1.5 / 4])


def test_forecasts_know_the_facts_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def forecast(self: Agent, *args: Any, facts: dict[str, float], **options: Any) -> None:
        told.append(facts)

    monkeypatch.setattr(Agent, "forecast", forecast)
    study = optuna.create_study(pruner=RLPruner(max_resource=5, facts={"n_steps": 2.5, "n_examples": 3.0}))
    study.set_user_attr("rl:facts", {"n_examples": 4.0, "lora": 1.0, "untrained": 0.7})
    study.optimize(objective([1.0, 0.5, 0.2], sign=-1.0), n_trials=3)
    # The one complete trial, at 1.0, is put at -1; a tenth of the difference to the untrained model stays.
    assert told[0] == {"n_steps": 2.5, "n_examples": 3.0, "lora": 1.0, "untrained": pytest.approx(-1 - 0.17)}


# --------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("name", ["max_resource", "budget"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "10", True])
def test_arguments_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ArgumentsError, match=f"{name}={value!r}: expected a finite number above 0, or None"):
        RLPruner(**{name: value})


@pytest.mark.parametrize(("n_complete", "stops"), [(1, False), (2, False), (3, True)])
def test_at_chance_level_complete_trials_have_to_say_that_early_values_tell(
    rules: Rules, n_complete: int, stops: bool
) -> None:
    """0.52 of 100 rows is no more than 0.5, what the untrained model has."""
    facts = {"untrained": 0.5, "n_evaluated": 2.0}
    pruner = RLPruner(max_resource=5, budget=20, weights=rules("always"), facts=facts)
    study = run(pruner, [*[0.9, 0.91, 0.92][:n_complete], 0.52])
    assert [trial.state == TrialState.PRUNED for trial in study.trials] == [False] * n_complete + [stops]
    if not stops:
        assert study.trials[-1].system_attrs[STOP] == {"fidelity": 0.8, "goes_on": "at chance"}
    above = run(pruner, [0.9, 0.7])  # something was learnt: the rule decides
    assert above.trials[1].state == TrialState.PRUNED


@pytest.mark.parametrize(("n_complete", "stops"), [(2, False), (4, True)])
def test_what_stands_still_where_another_trial_stood_is_at_chance_level(
    rules: Rules, n_complete: int, stops: bool
) -> None:
    """0.25 is the share of the most frequent class, which models that have learnt nothing have in common."""
    pruner = RLPruner(max_resource=5, budget=20, weights=rules("always"))
    study = run(pruner, [*[0.25, 0.9, 0.91, 0.92][:n_complete], 0.25])
    assert [trial.state == TrialState.PRUNED for trial in study.trials] == [False] * n_complete + [stops]
    another = run(pruner, [0.25, 0.9, 0.26])
    assert another.trials[2].state == TrialState.PRUNED


@pytest.mark.parametrize(("reports", "last"), [([0.5, 0.4, 0.3, 0.3, 0.3], 2), ([0.5] * 5, 5)])
def test_a_trial_that_falls_does_not_stand_still(rules: Rules, reports: list[float], last: int) -> None:
    """Its best value so far does not change, but the trial is no model that gives every row the same class."""
    study = optuna.create_study(
        direction="maximize", pruner=RLPruner(max_resource=5, budget=20, weights=rules("always"))
    )
    for values in ([0.5] * 5, [0.5, 0.9, 0.9, 0.9, 0.9], reports):
        trial = study.ask({"x": X})
        for step, value in enumerate(values, 1):
            trial.report(value, step)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, values[-1])
    assert study.trials[2].last_step == last


def test_unknown_facts_are_refused() -> None:
    with pytest.raises(ArgumentsError, match=r"facts names 'n_class', expected .*n_examples"):
        RLPruner(facts={"n_class": 3.0})


def test_weights_without_a_stop_rule_are_refused(rules: Rules) -> None:
    with pytest.raises(WeightsError, match="hold no stop rule"):
        run(RLPruner(max_resource=5, weights=rules("none")), QUALITIES)
