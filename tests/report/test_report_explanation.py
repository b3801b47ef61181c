import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from hf_rlsearch import RLSampler
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.report import explain


def test_a_stored_decision_is_put_into_words(study: optuna.Study) -> None:
    number = next(t.number for t in study.trials if t.state == TrialState.COMPLETE and t.number > 3)
    reason = explain(study, number)
    text = reason.to_text()
    assert text.startswith(f"Trial {number} (complete, {study.trials[number].value:.4g}): learning_rate=")
    shown = [(c.name, c.total, c.beforehand) for c in reason.contributions]
    assert shown == [("learning_rate", 0.4, 0.1), ("weight_decay", -0.1, None)]
    assert reason.contributions[0].n_values == len(
        {t.params["learning_rate"] for t in study.trials[:number] if t.intermediate_values}
    )
    assert "The strongest reason for this configuration was learning_rate=" in text
    assert "mostly learned from the trials" in text
    assert "  candidates to choose from: 256\n" in text
    assert "where 1 is from the median to the best configuration: " in text
    assert "best alternative: learning_rate=0.001" in text
    assert "chance to beat the best so far: 31%; best alternative 28%" in text
    assert [n for n, _ in reason.attended] == [number - 3, number - 2, number - 1]
    assert "31%" in text


def test_the_largest_expected_improvement_has_no_probability_of_being_chosen() -> None:
    """That of a policy is one; the share of an expected improvement would read as if the choice were drawn."""
    study = optuna.create_study()
    for source in ("policy", "predictor"):
        decision = {"source": source, "probability": 0.12, "n_candidates": 9, "alternative": {"probability": 0.11}}
        study.add_trial(create_trial(value=0.0, system_attrs={"rl:decision": decision}))
    assert "probability of being chosen: 12%; best alternative 11%" in explain(study, 0).to_text()
    assert "probability" not in explain(study, 1).to_text()


def test_an_agent_that_started_untrained_is_named_and_predicts_nothing() -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, agent="dqn"))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    text = explain(study, 2).to_text()
    assert "DQN, which learns in this search alone" in text
    assert "expected improvement" not in text


def test_a_price_is_named_where_it_mattered() -> None:
    study = optuna.create_study()
    for price in (None, 0.3333):
        decision = {"source": "predictor", "improvement": 0.1} | ({} if price is None else {"price": price})
        trial = create_trial(
            value=0.0,
            params={"x": 0.5},
            distributions={"x": FloatDistribution(0, 1)},
            system_attrs={"rl:decision": decision},
        )
        study.add_trial(trial)
    assert "expected cost" not in explain(study, 0).to_text()
    assert "expected cost: 0.33 full trainings" in explain(study, 1).to_text()


def test_what_was_to_be_stopped_and_went_on_says_why() -> None:
    study = optuna.create_study()
    reason = {"fidelity": 0.25, "probability": 0.97, "chance": 0.3, "limit": 0.2}
    study.add_trial(create_trial(value=0.0, system_attrs={"rl:stop": reason}))
    expected = "probability of stopping 97%; it went on, as its chance to become the best, 30%, is not below 20%"
    assert expected in explain(study, 0).to_text()


def test_candidates_that_did_not_fit_are_counted() -> None:
    study = optuna.create_study()
    decision = {"source": "predictor", "improvement": 0.1, "n_candidates": 12, "too_long": 988}
    study.add_trial(create_trial(value=0.0, system_attrs={"rl:decision": decision}))
    assert "did not fit what was left of time or budget: 988" in explain(study, 0).to_text()


def test_baseline_stops_and_failures_are_explained(study: optuna.Study) -> None:
    assert "the arguments of your Trainer" in explain(study, 0).to_text()
    pruned = next(t.number for t in study.trials if t.state == TrialState.PRUNED)
    text = explain(study, pruned).to_text()
    assert (
        "stopped after 25% of a full training: its predicted chance to become the best was 2%, and the pruner was 97%"
        in text
    )
    complete = next(t.number for t in study.trials[1:] if t.state == TrialState.COMPLETE)
    assert "at 25% of a full training, probability of stopping 97%" in explain(study, complete).to_text()
    failed = next(t.number for t in study.trials if t.state == TrialState.FAIL)
    assert "It failed: OutOfMemoryError" in explain(study, failed).to_text()


def test_values_chosen_one_by_one_are_named() -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_int("n", 1, 3), n_trials=2)
    assert "one after the other (x, n)" in explain(study, 0).to_text()
    assert "one after the other" not in explain(study, 1).to_text()


def test_a_trial_that_was_queued_again_names_the_one_that_failed() -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0))
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=2)
    dead = study.trials[1]
    attrs = {"failed_trial": 1, "retry_history": [1], **dead.system_attrs}  # as RetryHeartbeatStaleTrialCallback does
    study.add_trial(create_trial(value=1.0, params=dead.params, distributions=dead.distributions, system_attrs=attrs))
    text = explain(study, 2).to_text()
    assert "Trial 1 again, which had failed" in text
    assert "agent" not in text


def test_without_a_stored_decision_it_says_so() -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(value=1.0, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}))
    assert "stored no reason" in explain(study, 0).to_text()


@pytest.mark.parametrize(
    "stored", [{"attention": 3}, {"contributions": [1]}, {"attended": [[1]]}, {"attended": [None]}, {"alternative": 3}]
)
def test_a_decision_of_another_shape_is_no_error(stored: dict[str, object]) -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(value=1.0, system_attrs={"rl:decision": stored}))
    assert explain(study, 0).to_text()


def test_unknown_trial_is_named(study: optuna.Study) -> None:
    with pytest.raises(ArgumentsError, match="no trial 99; its trials are 0 to 23"):
        explain(study, 99)
