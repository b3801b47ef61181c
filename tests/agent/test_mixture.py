"""The mixture: what its readings are, what hiding names hides, and that live searches and training read alike."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch.agent.mixture import Mixture, concatenate, hide_names, hide_names_of
from hf_rlsearch.agent.network import Arrays, NetworkConfig, Predictor
from hf_rlsearch.observation.observation import live_observation, space_arrays
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.space.roles import generic_role
from hf_rlsearch.tasks.histories import draw_history, measure, observe_tasks, train_partly
from hf_rlsearch.tasks.prior import draw
from tests.helpers.searches import SPACE, random_history, random_predictor, random_rows

KNOWN = {"n_parameters": 8.5, "n_examples": 4.0, "lora": 1.0}


def search(n_trials: int = 6, space: SearchSpace = SPACE, facts: dict[str, float] | None = None) -> Arrays:
    rows = random_rows(9, 1, space)
    mask = np.ones(len(rows), bool)
    return Arrays.of(live_observation(space, random_history(n_trials, space=space), rows, mask, facts or {}))


def simulated(n_tasks: int = 4) -> Arrays:
    rng = np.random.default_rng(0)
    tasks = draw(rng, n_tasks, 20)
    trained = train_partly(rng, tasks, *(drawn := draw_history(rng, tasks, 6)), measure(rng, tasks, drawn[0]))
    return Arrays.of(observe_tasks(space_arrays(tasks), tasks, trained))


def other_predictor() -> Predictor:
    torch.manual_seed(3)
    return Predictor(NetworkConfig(width=8, heads=2, history_blocks=1, candidate_blocks=1))


# ------------------------------------------------------------------------------------------------------------- readings
@torch.inference_mode()
def test_each_predictor_reads_with_and_without_names() -> None:
    arrays, predictors = simulated(), [random_predictor(), other_predictor()]
    mixture = Mixture(predictors)
    encoded = mixture.encode_history(arrays)
    found = mixture.readings(encoded, arrays.candidates)
    expected = [p(seen).softmax(-1) for p in predictors for seen in (arrays, hide_names(arrays))]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixture(arrays), found.mean(0))
    torch.testing.assert_close(mixture.score(encoded, arrays.candidates), found.mean(0))


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no predictors"):
        Mixture([])


@torch.inference_mode()
def test_searches_are_mixed_each_for_itself() -> None:
    arrays, mixture = simulated(), Mixture([random_predictor()])
    whole = mixture(arrays)
    for b in range(4):
        one = Arrays(*(getattr(arrays, f.name)[b : b + 1] for f in fields(Arrays)))
        torch.testing.assert_close(mixture(one)[0], whole[b], atol=1e-4, rtol=1e-3)


@torch.inference_mode()
def test_attention_is_the_mean_over_the_readings_of_the_predictors() -> None:
    arrays, mixture = search(), Mixture([random_predictor(), random_predictor()])
    probabilities, found = mixture.explain(mixture.encode_history(arrays), arrays.candidates)
    torch.testing.assert_close(probabilities, mixture(arrays), atol=1e-5, rtol=1e-4)
    readings = [
        random_predictor().explain(random_predictor().encode_history(seen), arrays.candidates)[1]
        for seen in (arrays, hide_names(arrays))
    ]
    torch.testing.assert_close(found, torch.stack(readings).mean(0), atol=1e-5, rtol=1e-4)


# --------------------------------------------------------------------------------------------------------- hidden names
def test_hidden_names_are_those_of_a_space_without_roles() -> None:
    generic = SearchSpace(tuple(replace(h, role=generic_role(h.distribution)) for h in SPACE.hyperparameters))
    hidden = hide_names(search(facts={**KNOWN, "maximize": 1.0}))
    expected = search(space=generic, facts={"maximize": 1.0})
    for f in fields(Arrays):
        if f.name != "level_features":  # the generic space still knows kinds and sizes by the names of categories
            torch.testing.assert_close(getattr(hidden, f.name), getattr(expected, f.name), msg=f.name)
    numbers = SPACE.ordered
    torch.testing.assert_close(hidden.level_features[:, numbers], expected.level_features[:, numbers])


def test_with_names_hidden_no_name_or_fact_changes_anything() -> None:
    def space(*names: str, scale: float, choices: list[str]) -> SearchSpace:
        number, count = FloatDistribution(1e-5 * scale, 1e-3 * scale, log=True), IntDistribution(1, 4)
        distributions = dict(zip(names, (number, count, CategoricalDistribution(choices)), strict=True))
        return SearchSpace.from_distributions(distributions, n_points=4)

    telling = space("learning_rate", "num_train_epochs", "model", scale=1.0, choices=["bert-base-uncased", "opt-350m"])
    silent = space("a", "b", "c", scale=50.0, choices=["x", "y"])
    facts = [{**KNOWN, "maximize": 0.0}, {"maximize": 0.0}]
    seen = [search(space=s, facts=f) for s, f in zip((telling, silent), facts, strict=True)]
    assert not torch.equal(seen[0].level_features, seen[1].level_features)
    hidden = [hide_names(s) for s in seen]
    for f in fields(Arrays):
        torch.testing.assert_close(getattr(hidden[0], f.name), getattr(hidden[1], f.name), msg=f.name)


def test_the_direction_and_the_outcomes_stay_known() -> None:
    down, up, unknown = (hide_names(search(facts=f)).context for f in ({"maximize": 0.0}, {"maximize": 1.0}, {}))
    assert len({tuple(c[0].tolist()) for c in (down, up, unknown)}) == 3
    assert not torch.equal(hide_names(search(6)).context, hide_names(search(7)).context)


def test_hiding_changes_no_input_and_padding_stays_zero() -> None:
    arrays = simulated()
    before = {f.name: getattr(arrays, f.name).clone() for f in fields(Arrays)}
    hidden = hide_names(arrays)
    for name, value in before.items():
        torch.testing.assert_close(getattr(arrays, name), value, rtol=0, atol=0)
    absent = arrays.static[..., 0] == 0
    assert absent.any()
    assert not hidden.static[absent].any()
    assert not hidden.level_features[absent].any()


def test_names_are_hidden_of_some_searches_only() -> None:
    arrays = search(5)
    two = concatenate(arrays, arrays)
    half = hide_names_of(torch.arange(len(two.trials)) >= len(arrays.trials), two)
    for field in fields(Arrays):
        known, hidden = getattr(half, field.name).chunk(2)
        torch.testing.assert_close(known, getattr(arrays, field.name), rtol=0, atol=0)
        torch.testing.assert_close(hidden, getattr(hide_names(arrays), field.name), rtol=0, atol=0)
