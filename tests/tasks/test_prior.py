"""The prior: what every drawn task promises, whatever it is about."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rlsearch.observation.observation import FACTS
from hf_rlsearch.observation.value_features import KINDS
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.prior import TaskBatch, draw
from hf_rlsearch.tasks.prior_space import MAX_HYPERPARAMETERS, MAX_LEVELS

TASKS = draw(np.random.default_rng(0), 300, 64)
ROLE = {name: TASKS.roles == ROLES.index(name) for name in ROLES}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from([1, 2, 7, 40, 150]))
def test_tasks_of_any_size_are_whole(seed: int, n_tasks: int, n_candidates: int) -> None:
    tasks = draw(np.random.default_rng(seed), n_tasks, n_candidates)
    assert len(tasks) == n_tasks
    assert tasks.candidates.shape == (n_tasks, n_candidates, MAX_HYPERPARAMETERS)
    mask = tasks.candidate_mask
    assert mask.any(1).all()
    for name in ("utility", "values", "noise"):
        assert np.isfinite(getattr(tasks, name)[mask]).all(), name
    assert (tasks.noise[mask] > 0).all()
    assert (tasks.spread > 0).all()
    assert np.isfinite(tasks.median).all()
    real = tasks.roles >= 0
    assert real.any(1).all()
    assert (tasks.candidates[mask] < np.maximum(tasks.n_levels, 1)[np.nonzero(mask)[0]]).all()


def test_the_same_state_draws_the_same_tasks() -> None:
    first, second, other = (draw(np.random.default_rng(s), 8, 30) for s in (3, 3, 4))
    for field in fields(TaskBatch):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))
    assert not np.array_equal(first.utility, other.utility)


def test_utility_is_zero_at_the_median_and_one_at_the_best() -> None:
    shown = np.where(TASKS.candidate_mask, TASKS.utility, np.nan)
    several = TASKS.candidate_mask.sum(1) > 2
    assert np.nanmedian(shown, axis=1) == pytest.approx(0, abs=1e-6)
    best = np.nanmax(shown, axis=1)[several]
    assert (best <= 1 + 1e-9).all()
    # Where nearly all candidates tie the best may hardly differ from the median; that must be rare.
    assert (best > 1 - 1e-9).mean() > 0.9


def test_values_are_utility_in_the_units_of_the_metric() -> None:
    rebuilt = TASKS.utility * TASKS.spread[:, None] + TASKS.median[:, None]
    np.testing.assert_allclose(rebuilt[TASKS.candidate_mask], TASKS.values[TASKS.candidate_mask], rtol=1e-9, atol=1e-12)


def test_maximised_metrics_are_bounded_and_losses_are_negative() -> None:
    maximize = TASKS.facts[:, FACTS.index("maximize")]
    scores = TASKS.values[(maximize == 1)[:, None] & TASKS.candidate_mask]
    losses = TASKS.values[(maximize == 0)[:, None] & TASKS.candidate_mask]
    assert len(scores)
    assert len(losses)
    assert ((scores >= 0) & (scores <= 1.1)).all()
    assert (losses < 0).all()


def test_numeric_levels_ascend_and_categories_have_none() -> None:
    index = np.arange(MAX_LEVELS)
    used = index < TASKS.n_levels[..., None]
    numeric, categorical = TASKS.ordered & (TASKS.roles >= 0), ~TASKS.ordered & (TASKS.roles >= 0)
    assert np.isnan(TASKS.levels[categorical]).all()
    assert np.isnan(TASKS.levels[~used]).all()
    assert np.isfinite(TASKS.levels[used & numeric[..., None]]).all()
    steps = np.diff(TASKS.levels[numeric], axis=1)
    assert (steps[~np.isnan(steps)] > 0).all()
    assert (TASKS.levels[TASKS.log] > 0)[~np.isnan(TASKS.levels[TASKS.log])].all()


def test_padding_is_empty() -> None:
    padding = TASKS.roles < 0
    assert (TASKS.n_levels[padding] == 0).all()
    assert not TASKS.ordered[padding].any()
    assert not TASKS.log[padding].any()
    assert not TASKS.present.transpose(0, 2, 1)[padding].any()


@pytest.mark.parametrize(
    ("role", "low", "high"),
    [
        ("learning_rate", 1e-7, 3.0),
        ("dropout", 0.0, 0.85),
        ("momentum", 0.0, 0.995),
        ("label_smoothing", 0.0, 0.35),
        ("weight_decay", 0.0, 0.51),
        ("batch_size", 1.0, 1 << 16),
        ("layer_decay", 0.6, 1.05),
    ],
)
def test_levels_are_values_that_people_use(role: str, low: float, high: float) -> None:
    levels = TASKS.levels[ROLE[role]]
    levels = levels[~np.isnan(levels)]
    assert len(levels) > 20
    assert levels.min() >= low
    assert levels.max() <= high


def test_small_grids_are_enumerated_and_padded() -> None:
    cells = np.prod(np.maximum(TASKS.n_levels, 1).astype(float), axis=1)
    small = np.flatnonzero(cells <= TASKS.candidates.shape[1])
    assert len(small) > 5
    assert (TASKS.candidate_mask.sum(1)[small] == cells[small]).all()
    # A conditional hyperparameter that is absent is stored as level 0: then rows may coincide.
    whole = [b for b in small if TASKS.present[b][:, TASKS.roles[b] >= 0].all()]
    for b in whole:
        rows = TASKS.candidates[b][TASKS.candidate_mask[b]]
        assert len(np.unique(rows, axis=0)) == len(rows)
    assert TASKS.candidate_mask[np.setdiff1d(np.arange(300), small)].all()


def test_every_role_and_kind_occurs() -> None:
    many = draw(np.random.default_rng(1), 1500, 2)
    searched = set(np.unique(many.roles[many.roles >= 0]).tolist())
    assert {ROLES[i] for i in searched} >= set(ROLES) - {"seed"}
    assert set(np.unique(many.kinds).tolist()) == set(range(len(KINDS)))
    assert (many.roles >= 0).sum(1).min() >= 1
    assert (many.roles >= 0).sum(1).max() >= 10


def test_some_hyperparameters_are_conditional() -> None:
    absent = (TASKS.roles >= 0)[:, None] & ~TASKS.present
    share = absent.any((1, 2)).mean()
    assert 0.01 < share < 0.3
    assert (TASKS.candidates[absent] == 0).all()


def test_facts_are_sometimes_known_and_never_absurd() -> None:
    facts = dict(zip(FACTS, TASKS.facts.T, strict=True))
    for name in ("maximize", "lora", "from_scratch"):
        assert set(np.unique(facts[name][~np.isnan(facts[name])])) <= {0.0, 1.0}
    assert np.nanmin(facts["n_parameters"]) >= 5
    assert np.nanmax(facts["n_parameters"]) <= 11
    for name, column in facts.items():
        assert 0 < np.isnan(column).mean() < 1, name


def test_backbones_that_are_searched_are_not_a_fact() -> None:
    assert np.isnan(TASKS.facts[ROLE["model"].any(1), FACTS.index("n_parameters")]).all()


def test_the_learning_rate_matters_most_of_the_time() -> None:
    """The prior's point: levels of the learning rate explain more than those of warm-up."""

    def explained(role: str) -> float:
        shares = []
        for b in np.flatnonzero(ROLE[role].any(1)):
            h, mask = int(ROLE[role][b].argmax()), TASKS.candidate_mask[b]
            level, value = TASKS.candidates[b, mask, h], np.clip(TASKS.utility[b, mask], -3, 1)
            means = np.array([value[level == i].mean() for i in level])
            shares.append(means.var() / max(value.var(), 1e-12))
        return float(np.mean(shares))

    assert explained("learning_rate") > 1.5 * explained("warmup")


def test_larger_models_want_smaller_learning_rates() -> None:
    """Across tasks where the size is known: the best rate lies lower in its range, the more parameters there are."""
    tasks = draw(np.random.default_rng(5), 2000, 48)
    size, lr = tasks.facts[:, FACTS.index("n_parameters")], tasks.roles == ROLES.index("learning_rate")
    b = np.flatnonzero(~np.isnan(size) & lr.any(1))
    best = np.where(tasks.candidate_mask, tasks.utility, -np.inf).argmax(1)[b]
    h = lr[b].argmax(1)
    levels = np.log10(tasks.levels[b, h])
    low, high = np.nanmin(levels, 1), np.nanmax(levels, 1)
    place = (levels[np.arange(len(b)), tasks.candidates[b, best, h]] - low) / (high - low)
    assert np.corrcoef(size[b], place)[0, 1] < -0.05
