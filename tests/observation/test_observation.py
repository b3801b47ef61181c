"""The observation: what must not change it, what must, and what it refuses."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection

from hf_rlsearch.errors import ObservationError
from hf_rlsearch.observation.history import COMPLETE, FAILED, PRUNED, RUNNING, History
from hf_rlsearch.observation.observation import (
    CONTEXT_FEATURES,
    FACTS,
    N_CONTEXT_FEATURES,
    N_LEVEL_FEATURES,
    N_STATIC_FEATURES,
    N_TRIAL_FEATURES,
    TRIAL_FEATURES,
    Observation,
    SpaceArrays,
    TrialArrays,
    live_observation,
    observe,
    space_arrays,
)
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.tasks.histories import Trained, observe_tasks
from hf_rlsearch.tasks.prior import draw
from tests.helpers.searches import SPACE, history_of, random_history, random_rows, scores

CANDIDATES = random_rows(7, seed=99)
ALLOWED = np.ones(7, bool)
# Columns of a trial's features.
COMPRESSED, CLIPPED, RANK, IS_BEST, KNOWN, FIDELITY, AT_REFERENCE, AT_HALF, HAS_HALF = range(9)


def seen(history: History, space: SearchSpace = SPACE, **facts: float) -> Observation:
    return live_observation(space, history, CANDIDATES[:, : len(space.names)], ALLOWED, facts)


def take(history: History, order: Any) -> History:
    return History(
        history.numbers[order],
        tuple(history.params[i] for i in order),
        history.values[order],
        history.fidelity[order],
        history.status[order],
        tuple(history.curves[i] for i in order),
    )


# ------------------------------------------------------------------------------------------------ what changes nothing
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10**6), st.randoms())
def test_the_order_of_trials_changes_no_score(n_trials: int, seed: int, random: Any) -> None:
    history = random_history(n_trials, seed)
    order = list(range(n_trials))
    random.shuffle(order)
    np.testing.assert_allclose(scores(seen(take(history, order))), scores(seen(history)), atol=2e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 8), st.integers(1, 5), st.integers(0, 10**6))
def test_padded_trials_change_no_score(n_trials: int, n_padding: int, seed: int) -> None:
    plain = arguments_of(random_history(n_trials, seed))
    padded = dict(plain)
    rng = np.random.default_rng(seed)
    garbage = {"levels": 0, "values": 7.0, "fidelity": 0.5, "status": COMPLETE, "at_reference": 3.0, "at_half": 2.0}
    for name, value in garbage.items():
        extra = np.full((1, n_padding, *plain[name].shape[2:]), value)
        padded[name] = np.concatenate([plain[name], extra * rng.integers(1, 3)], axis=1)
    padded["status"] = np.minimum(padded["status"], RUNNING)
    padded["mask"] = np.concatenate([plain["mask"], np.zeros((1, n_padding), bool)], axis=1)
    np.testing.assert_allclose(scores(observe_arrays(**padded)), scores(observe_arrays(**plain)), atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 6), st.integers(0, 10**6))
def test_padded_hyperparameters_and_levels_change_no_score(n_trials: int, seed: int) -> None:
    plain = seen(random_history(n_trials, seed))
    np.testing.assert_allclose(scores(pad_space(plain, more=3)), scores(plain), atol=2e-4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=0, max_size=8), st.integers(0, 10**6))
def test_flipping_the_direction_and_the_values_changes_nothing(values: list[float], seed: int) -> None:
    rows = random_rows(len(values), seed)

    def history(sign: float, direction: StudyDirection) -> History:
        trials = [
            optuna.trial.create_trial(
                params=SPACE.decode(row),
                distributions=SPACE.distributions,
                value=sign * value,
                intermediate_values={1: sign * (value - 1), 2: sign * value},
            )
            for row, value in zip(rows, values, strict=True)
        ]
        for number, trial in enumerate(trials):
            trial.number = number
        return History.from_trials(trials, [direction])

    up, down = seen(history(1, StudyDirection.MAXIMIZE)), seen(history(-1, StudyDirection.MINIMIZE))
    for name in ("trials", "trial_features", "incumbent", "context"):
        np.testing.assert_array_equal(getattr(up, name), getattr(down, name))


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 10), st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 10**6))
def test_units_of_the_objective_change_no_trial(n_trials: int, unit: float, origin: float, seed: int) -> None:
    history = random_history(n_trials, seed)
    curves = tuple(np.column_stack([c[:, 0], c[:, 1] * unit + origin]) for c in history.curves)
    moved = replace(history, values=history.values * unit + origin, curves=curves)
    np.testing.assert_allclose(seen(moved).trial_features, seen(history).trial_features, atol=1e-4)


# ---------------------------------------------------------------------------------------------------- known answers
def test_what_a_curve_shows_at_half_is_the_value_there_also_where_it_fell() -> None:
    curve = np.array([[1.0, 0.2], [2.0, 0.9], [3.0, 0.4], [4.0, 0.5], [5.0, 0.6], [6.0, 0.6]])
    history = history_of(random_rows(2), np.array([0.6, 1.0]), curves=(curve, np.empty((0, 2))))
    at_half = TRIAL_FEATURES.index("at_half")
    features = seen(history).trial_features[0]
    # best 1.0 and median 0.8: one unit is 0.2
    np.testing.assert_allclose(features[0, at_half], -np.log1p(0.6 / 0.2), rtol=1e-5)


def test_a_history_is_put_on_its_own_scale() -> None:
    features = seen(history_of(random_rows(5), np.array([0.2, 0.4, 0.6, 0.8, 1.0]))).trial_features[0]
    # best 1.0 and median 0.6: one unit is 0.4
    np.testing.assert_allclose(features[:, COMPRESSED], -np.log1p([2.0, 1.5, 1.0, 0.5, 0.0]), rtol=1e-5)
    np.testing.assert_allclose(features[:, CLIPPED], np.array([-2.0, -1.5, -1.0, -0.5, 0.0]) / 3, rtol=1e-5)
    np.testing.assert_allclose(features[:, RANK], [0, 0.25, 0.5, 0.75, 1])
    assert features[:, IS_BEST].tolist() == [0, 0, 0, 0, 1]
    assert features[:, KNOWN].all()


def test_failed_trials_are_shown_but_have_no_value() -> None:
    status = np.array([COMPLETE, FAILED, COMPLETE])
    observation = seen(history_of(random_rows(3), np.array([0.0, np.nan, 1.0]), status=status))
    assert observation.trial_features[0, :, KNOWN].tolist() == [1, 0, 1]
    assert observation.trial_features[0, 1, -4:].tolist() == [0, 0, 1, 0]
    assert observation.incumbent.tolist() == [2]


def test_a_pruned_trial_is_never_the_incumbent_once_another_has_finished() -> None:
    status = np.array([COMPLETE, PRUNED])
    history = history_of(random_rows(2), np.array([0.0, 5.0]), status=status, fidelity=np.array([1.0, 0.5]))
    assert seen(history).incumbent.tolist() == [0]
    assert seen(take(history, [1])).incumbent.tolist() == [0]


def test_nothing_finished_means_no_incumbent() -> None:
    assert seen(history_of(random_rows(0), np.empty(0))).incumbent.tolist() == [-1]
    lost = history_of(random_rows(2), np.full(2, np.nan), status=np.full(2, FAILED))
    assert seen(lost).incumbent.tolist() == [-1]
    assert np.isfinite(scores(seen(lost))).all()


def test_equal_values_say_nothing_but_break_nothing() -> None:
    observation = seen(history_of(random_rows(4), np.full(4, 0.7)))
    assert np.isfinite(observation.trial_features).all()
    assert (observation.trial_features[0, :, COMPRESSED] == 0).all()


def test_curves_are_read_at_the_fidelity_of_the_running_trial() -> None:
    curve = np.array([[1.0, 0.1], [2.0, 0.2], [3.0, 0.3], [4.0, 0.4]])
    history = history_of(
        random_rows(3),
        np.array([0.4, 0.8, 0.2]),
        status=np.array([COMPLETE, COMPLETE, RUNNING]),
        fidelity=np.array([1.0, 1.0, 0.5]),
        curves=(curve, np.empty((0, 2)), curve[:2]),
    )
    features = seen(history).trial_features[0]
    # best 0.8, median 0.6: at half of the training the first trial had 0.2, three units below the best
    assert features[0, AT_REFERENCE] == pytest.approx(-np.log1p(3.0))
    assert features[:, HAS_HALF].tolist() == [1, 0, 1]


def test_a_trial_stopped_before_the_running_one_got_so_far_has_nothing_to_compare() -> None:
    curve = np.array([[1.0, 0.1], [2.0, 0.2], [3.0, 0.3], [4.0, 0.4]])
    history = history_of(
        random_rows(4),
        np.array([0.4, 0.8, 0.1, 0.2]),
        status=np.array([COMPLETE, COMPLETE, PRUNED, RUNNING]),
        fidelity=np.array([1.0, 1.0, 0.25, 0.5]),
        curves=(curve, np.empty((0, 2)), curve[:1], curve[:2]),
    )
    features = seen(history).trial_features[0]
    assert features[2, AT_REFERENCE] == 0.0
    assert features[2, COMPRESSED] < 0.0
    assert features[3, AT_REFERENCE] == features[3, COMPRESSED] < 0.0


@pytest.mark.parametrize("status", [COMPLETE, RUNNING])
def test_trials_without_curves_are_compared_by_what_they_reached(status: int) -> None:
    """Also while another worker's trial runs that has reported nothing yet."""
    history = history_of(
        random_rows(4),
        np.array([0.1, 0.5, 0.9, np.nan]),
        status=np.array([COMPLETE, COMPLETE, COMPLETE, status]),
        fidelity=np.array([1.0, 1.0, 1.0, 0.0 if status == RUNNING else 1.0]),
    )
    features = seen(history).trial_features[0, :3]
    np.testing.assert_array_equal(features[:, AT_REFERENCE], features[:, COMPRESSED])
    assert features[0, AT_REFERENCE] < -0.5


def test_a_live_search_is_described_like_a_simulated_one() -> None:
    """The same four trials through both doors: finished ones without curves, nothing running."""
    rows, values = random_rows(4), np.array([0.3, 0.1, 0.8, 0.5])
    live = seen(history_of(rows, values), maximize=1.0)
    simulated = Trained.complete(np.arange(4)[None], values[None], np.ones((1, 4), bool))
    direct = observe(
        space=live.space,
        facts=np.array([[1.0 if name == "maximize" else np.nan for name in FACTS]]),
        levels=rows[None],
        trials=simulated,
        candidates=CANDIDATES[None],
        candidate_mask=ALLOWED[None],
    )
    for name in ("trials", "trial_features", "trial_mask", "incumbent", "candidates", "context"):
        np.testing.assert_array_equal(getattr(live, name), getattr(direct, name), err_msg=name)


@pytest.mark.filterwarnings("error")
def test_reports_at_step_zero_are_of_all_that_was_trained() -> None:
    curve = np.array([[0.0, 0.5]])
    history = history_of(random_rows(2), np.array([0.5, 1.0]), curves=(curve, np.empty((0, 2))))
    features = seen(history).trial_features[0]
    assert features[:, HAS_HALF].tolist() == [0, 0]
    assert features[0, AT_REFERENCE] == pytest.approx(features[0, COMPRESSED])


def test_values_between_levels_are_appended_and_found_again() -> None:
    space = SearchSpace.from_distributions({"learning_rate": FloatDistribution(1e-5, 1e-3, log=True)}, n_points=5)
    levels = space.hyperparameters[0].levels
    between = float(np.sqrt(levels[0] * levels[1]))
    params = ({"learning_rate": between}, {"learning_rate": levels[1]}, {"learning_rate": between})
    observation = seen(history_of(np.zeros((3, 1), int), np.arange(3.0), space=space, params=params), space)
    assert observation.trials[0, :, 0].tolist() == [5, 1, 5]
    assert observation.space.positions[0, 0, 5] == pytest.approx(space.hyperparameters[0].position(between))
    assert observation.space.static[0, 0, 3] == pytest.approx(5 / 8)  # how fine the grid is has not changed


def test_unknown_categories_and_missing_names_are_missing() -> None:
    space = SearchSpace.from_distributions(
        {"optimizer": CategoricalDistribution(["adamw", "sgd"]), "bias": CategoricalDistribution([True, "1", 2])}
    )
    params = (
        {"optimizer": "sgd", "bias": 2.0},
        {"optimizer": "lion", "bias": True},
        {"bias": "1"},
    )
    observation = seen(history_of(np.zeros((3, 2), int), np.arange(3.0), space=space, params=params), space)
    assert observation.trials[0].tolist() == [[1, 2], [-1, 0], [-1, 1]]


def test_facts_are_shown_and_unknown_facts_are_marked() -> None:
    history = random_history(3)
    known, unknown = seen(history, n_parameters=9.0, maximize=1.0).context[0], seen(history).context[0]
    n = len(FACTS)
    assert known[n : 2 * n].tolist() == [float(name in ("n_parameters", "maximize")) for name in FACTS]
    assert unknown[: 2 * n].tolist() == [0] * 2 * n
    assert known[0] == pytest.approx(1.0)


def test_a_bounded_metric_shows_how_much_is_left() -> None:
    history = history_of(random_rows(3), np.array([0.5, 0.7, 0.9]))
    columns = [CONTEXT_FEATURES.index("bounded_best"), CONTEXT_FEATURES.index("bounded")]
    assert seen(history, maximize=1.0).context[0, columns].tolist() == pytest.approx([0.9, 1.0])
    assert seen(history, maximize=0.0).context[0, columns].tolist() == [0, 0]


def test_a_score_counts_as_learnt_when_it_exceeds_the_untrained_models_by_more_than_noise() -> None:
    history = history_of(random_rows(4), np.array([0.5, 0.56, 0.61, 0.8]))
    learnt, gain = TRIAL_FEATURES.index("learnt"), TRIAL_FEATURES.index("gain")
    # Two standard errors of .5 are .1 with 100 rows, and .01 with 10,000.
    few, many = (seen(history, maximize=1.0, untrained=0.5, n_evaluated=n) for n in (2.0, 4.0))
    assert few.trial_features[0, :, learnt].tolist() == [0, 0, 1, 1]
    assert many.trial_features[0, :, learnt].tolist() == [0, 1, 1, 1]
    assert few.trial_features[0, 0, gain] == 0
    assert (np.diff(few.trial_features[0, :, gain]) > 0).all()
    share = CONTEXT_FEATURES.index("share_learnt")
    assert (few.context[0, share], many.context[0, share]) == (0.5, 0.75)
    noise = CONTEXT_FEATURES.index("log_error")
    assert few.context[0, noise] == pytest.approx(many.context[0, noise] + 1, abs=1e-5)


def test_without_the_untrained_models_value_nothing_is_said_about_learning() -> None:
    observation = seen(random_history(4), maximize=1.0, n_evaluated=3.0)
    columns = [TRIAL_FEATURES.index("gain"), TRIAL_FEATURES.index("learnt")]
    assert (observation.trial_features[..., columns] == 0).all()
    assert observation.context[0, CONTEXT_FEATURES.index("share_learnt")] == 0


def test_losses_are_compared_with_the_untrained_models_in_the_same_sign() -> None:
    observation = seen(history_of(random_rows(3), -np.array([2.0, 1.0, 3.0])), maximize=0.0, untrained=-2.0)
    assert observation.trial_features[0, :, TRIAL_FEATURES.index("learnt")].tolist() == [0, 1, 0]
    assert observation.context[0, CONTEXT_FEATURES.index("error_known")] == 0  # a loss is no proportion


def test_simulated_and_live_searches_agree_on_sizes() -> None:
    tasks = draw(np.random.default_rng(0), 3, 20)
    none = Trained.complete(np.zeros((3, 0), int), np.zeros((3, 0)), np.zeros((3, 0), bool))
    for observation in (observe_tasks(space_arrays(tasks), tasks, none), seen(random_history(4))):
        space = observation.space
        assert space.static.shape[-1] == N_STATIC_FEATURES
        assert space.level_features.shape[-1] == N_LEVEL_FEATURES
        assert observation.trial_features.shape[-1] == N_TRIAL_FEATURES
        assert observation.context.shape[-1] == N_CONTEXT_FEATURES


# ---------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("levels", lambda a: a[..., :-1], "hyperparameters of the space have shape"),
        ("candidates", lambda a: a[..., :-1], "candidates have shape"),
        ("candidates", lambda a: np.repeat(a, 2, 0), "candidates have shape"),
        ("candidates", lambda a: a[0], "candidates have shape"),
        ("candidate_mask", lambda a: a[:, :-1], "candidate_mask have shape"),
        ("values", lambda a: a[:, :-1], r"values of trials have shape \(1, 3\), expected \(1, 4\)"),
        ("at_half", lambda a: np.repeat(a, 2, 1), "values of trials have shape"),
        ("facts", lambda a: a[:, :-1], "facts have shape"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(name: str, change: Callable[[Any], Any], text: str) -> None:
    arguments = arguments_of(random_history(4))
    with pytest.raises(ObservationError, match=text):
        observe_arrays(**{**arguments, name: change(arguments[name])})


# ------------------------------------------------------------------------------------------------------------- helpers
def arguments_of(history: History) -> dict[str, Any]:
    """Arguments of `observe` for one search without curves, the arrays of its trials among them."""
    observation = seen(history)
    n = len(history.params)
    return {
        "space": observation.space,
        "facts": np.full((1, len(FACTS)), np.nan),
        "levels": observation.trials,
        "values": history.values[None],
        "fidelity": history.fidelity[None],
        "status": history.status[None],
        "mask": np.ones((1, n), bool),
        "candidates": CANDIDATES[None],
        "candidate_mask": ALLOWED[None],
        "at_reference": history.values[None],
        "at_half": np.full((1, n), np.nan),
    }


def observe_arrays(**arguments: Any) -> Observation:
    trials = TrialArrays(**{field.name: arguments.pop(field.name) for field in fields(TrialArrays)})
    return observe(trials=trials, **arguments)


def pad_space(observation: Observation, more: int) -> Observation:
    """The same observation with more hyperparameters and more levels, none of which exist."""

    def pad(array: np.ndarray, axes: tuple[int, ...], fill: float = 0) -> np.ndarray:
        return np.pad(array, [(0, more if axis in axes else 0) for axis in range(array.ndim)], constant_values=fill)

    axes = {"static": (1,), "level_features": (1, 2), "positions": (1, 2), "ordered": (1,)}
    arrays = {f.name: pad(getattr(observation.space, f.name), axes[f.name]) for f in fields(SpaceArrays)}
    return replace(
        observation,
        space=SpaceArrays(**arrays),
        trials=pad(observation.trials, (2,), -1),
        candidates=pad(observation.candidates, (2,), -1),
    )
