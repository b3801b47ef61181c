"""What the stop rule sees of a running trial."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rlsearch.observation.curve_features import (
    CURVE_FEATURES,
    HOPELESS,
    chance_to_go_on,
    curve_features,
    is_due,
    leads,
    may_still_rise,
    stands_still,
)


def arguments(n_others: int = 5, seed: int = 0, n_searches: int = 3) -> dict[str, np.ndarray]:
    """Running trials at several fidelities; some of the others stopped before, some are padding."""
    rng = np.random.default_rng(seed)
    here = rng.normal(size=(n_searches, n_others))
    best = here + rng.exponential(size=here.shape)
    early, padding = rng.random(here.shape) < 0.3, rng.random(here.shape) < 0.2
    value = rng.normal(size=n_searches)
    return {
        "fidelity": rng.uniform(0.05, 1.0, n_searches),
        "value": value,
        "value_at_half": np.where(rng.random(n_searches) < 0.3, np.nan, value - rng.exponential(size=n_searches)),
        "others_here": np.where(early | padding, np.nan, here),
        "others_best": np.where(padding, np.nan, best),
        "others_complete": ~padding & ~early,
        "budget": np.tile([4.0, 9.0], (n_searches, 1)),
        "price": rng.uniform(0.3, 3.0, n_searches),
        "learnt": rng.choice([-1.0, 0.0, 1.0], n_searches),
    }


def column(features: np.ndarray, name: str) -> list[float]:
    return list(features[:, CURVE_FEATURES.index(name)])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6), st.integers(0, 10**6))
def test_features_are_finite_and_bounded(n_others: int, seed: int) -> None:
    features = curve_features(**arguments(n_others, seed))
    assert features.shape == (3, len(CURVE_FEATURES))
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert (np.abs(features) <= 3).all()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 10**6))
def test_the_order_of_the_others_does_not_matter(order: list[int], seed: int) -> None:
    plain = arguments(seed=seed)
    moved = {k: v[:, order] if k.startswith("others") else v for k, v in plain.items()}
    np.testing.assert_array_equal(curve_features(**moved), curve_features(**plain))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10**6))
def test_padding_does_not_matter(n_padding: int, seed: int) -> None:
    plain = arguments(seed=seed)
    nothing: dict[str, Any] = {"others_here": np.nan, "others_best": np.nan, "others_complete": False}
    padded = {
        k: np.concatenate([v, np.full((3, n_padding), nothing[k], v.dtype)], 1) if k in nothing else v
        for k, v in plain.items()
    }
    np.testing.assert_array_equal(curve_features(**padded), curve_features(**plain))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100), st.floats(-10, 10), st.integers(0, 10**6))
def test_units_of_the_objective_do_not_matter(unit: float, origin: float, seed: int) -> None:
    plain = arguments(seed=seed)
    values = ("value", "value_at_half", "others_here", "others_best")
    moved = {k: v * unit + origin if k in values else v for k, v in plain.items()}
    np.testing.assert_allclose(curve_features(**moved), curve_features(**plain), atol=2e-3)


def test_known_answers() -> None:
    features = curve_features(
        fidelity=np.array([0.5]),
        value=np.array([0.6]),
        value_at_half=np.array([0.4]),
        others_here=np.array([[0.2, 0.8, np.nan, 0.7]]),
        others_best=np.array([[0.9, 1.0, 0.1, 0.7]]),
        others_complete=np.array([[True, True, False, False]]),
        budget=np.array([[3.0, 6.0]]),
        price=np.array([2.0]),
        learnt=np.array([-1.0]),
    )
    # Final values 0.1, 0.6, 0.7, 0.9, 1.0: the unit is 1.0 - 0.7. At half of the training: 0.2, 0.6, 0.7, 0.8.
    expected = {
        "fidelity": 0.5,
        "gap_to_incumbent": -np.log1p(0.4 / 0.3),
        "rank_here": 1 / 3,
        "n_here": np.log1p(3) / 3,
        "slope": np.log1p(0.2 / 0.3),
        "n_complete": np.log1p(2) / 3,
        "share_left": 0.5,
        "n_left": np.log1p(3) / 3,
        "n_done": np.log1p(3) / 3,
        "n_trials": np.log1p(4) / 4,
        # It lacks 0.4. Of two complete trials one gained 0.7, the other 0.2; one of each kind is added.
        "made_up": 0.0,
        "early_ranks_tell": 1.0 * 2 / 6,  # the better of the two was better here, too
        "price": np.log(2),
        "learnt": -1.0,
    }
    for name, value in expected.items():
        assert column(features, name) == pytest.approx([value], rel=1e-5), name


def test_equal_early_values_say_nothing() -> None:
    given = arguments(n_others=6, n_searches=1)
    given["others_complete"][:], given["others_best"][:] = True, np.arange(6)
    given["others_here"][:] = 0.5
    assert column(curve_features(**given), "early_ranks_tell") == [0.0]
    given["others_here"][:] = [0, 0, 0, 1, 1, 1]  # ranks 1, 1, 1, 4, 4, 4
    assert column(curve_features(**given), "early_ranks_tell") == pytest.approx([np.sqrt(27 / 35) * 6 / 10])


def test_without_a_budget_a_usual_one_is_assumed() -> None:
    unknown = {**arguments(), "budget": np.full((3, 2), np.nan)}
    usual = {**arguments(), "budget": np.tile([10.0, 20.0], (3, 1))}
    np.testing.assert_array_equal(curve_features(**unknown), curve_features(**usual))


def test_an_extrapolation_continues_the_slope() -> None:
    flat, steep = arguments(seed=1), arguments(seed=1)
    flat["fidelity"][:] = steep["fidelity"][:] = 0.5
    flat["value_at_half"], steep["value_at_half"] = flat["value"] - 0.01, steep["value"] - 1.0
    assert (np.array(column(curve_features(**steep), "power_law")) > column(curve_features(**flat), "power_law")).all()
    flat["fidelity"][:] = steep["fidelity"][:] = 1.0  # at the end nothing is left to grow
    at_end = [column(curve_features(**a), "power_law") for a in (flat, steep)]
    np.testing.assert_allclose(*at_end, atol=1e-6)


@pytest.mark.parametrize(
    ("n_reports", "judged"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (16, [2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16]),
        (24, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]),
        (52, [5, 9, 13, 18, 22, 26, 31, 35, 39, 44, 48, 52]),
    ],
)
def test_trials_are_judged_at_every_report_or_so_often_if_there_are_more(n_reports: int, judged: list[int]) -> None:
    for fidelity in (np.arange(n_reports + 1) / n_reports, np.round(1e4 * np.arange(n_reports + 1) / n_reports) / 1e4):
        assert (1 + np.flatnonzero(is_due(fidelity[:-1], fidelity[1:]))).tolist() == judged


def test_who_leads() -> None:
    others = np.array([[0.5, np.nan], [0.5, 0.9], [np.nan, np.nan], [0.7, 0.7]])
    assert leads(np.array([0.7, 0.7, -5.0, 0.7]), others).tolist() == [True, False, True, True]
    assert leads(np.array([0.0]), np.empty((1, 0))).tolist() == [True]


def test_what_stands_still() -> None:
    nan = np.nan
    own = np.array([[0.25, 0.25, nan], [0.25, 0.3, nan], [0.25, nan, nan], [0.5, nan, nan], [0.7, nan, nan]])
    # One began at 0.25 and stayed, one passed 0.5 once, one has reported 0.7 and nothing else.
    others = np.tile([[[0.25, 0.25, 0.6], [0.5, 0.6, 0.5], [0.7, nan, nan]]], (5, 1, 1))
    assert stands_still(own, others).tolist() == [True, False, True, False, True]
    assert stands_still(own, np.full((5, 0, 3), nan)).tolist() == [False] * 5
    assert stands_still(own[:, :1], others[..., :1]).tolist() == [True, True, True, True, True]


@pytest.mark.parametrize(
    ("spent", "left", "expected"),
    [
        (0.0, 9.0, 1.0),
        (3.0, 1.0, 0.25),
        (3.0, 0.9, HOPELESS),
        (3.0, np.nan, HOPELESS),
        (99.0, 9.0, HOPELESS),
        (99.0, 0.0, HOPELESS),
    ],
)
def test_the_chance_to_go_on(spent: float, left: float, expected: float) -> None:
    assert chance_to_go_on(spent, left) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("learnt", "made_up", "still", "expected"),
    [(-1, 0.25, False, True), (1, 0.25, False, False), (1, 0.25, True, True), (-1, 0.2, True, False)],
)
def test_what_may_still_rise(learnt: float, made_up: float, *, still: bool, expected: bool) -> None:
    features = np.zeros((1, len(CURVE_FEATURES)), np.float32)
    features[0, CURVE_FEATURES.index("learnt")] = learnt
    features[0, CURVE_FEATURES.index("made_up")] = 2 * made_up - 1
    assert may_still_rise(features, np.array([still])).tolist() == [expected]


@pytest.mark.parametrize(("n_complete", "n_made_it_up", "expected"), [(0, 0, 0.5), (4, 0, 1 / 6), (4, 4, 5 / 6)])
def test_what_complete_trials_gained_is_evidence(n_complete: int, n_made_it_up: int, expected: float) -> None:
    given = arguments(n_others=4, n_searches=1)
    gained = np.where(np.arange(4) < n_made_it_up, 10.0, 0.0)
    given |= {
        "value": np.array([0.0]),
        "others_here": np.array([[-1.0, -1.0, -1.0, -1.0]]),
        "others_best": -1.0 + gained[None],
        "others_complete": (np.arange(4) < n_complete)[None],
    }
    if not n_made_it_up:
        given["others_best"] = np.array([[2.0, 2.0, 2.0, 2.0]])
        given["others_here"] = np.array([[1.0, 1.0, 1.0, 1.0]])
    assert column(curve_features(**given), "made_up") == pytest.approx([2 * expected - 1])
