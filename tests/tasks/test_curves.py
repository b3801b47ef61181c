"""Simulated learning curves: where they start, how they grow, where they end."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rlsearch.tasks.curves import CurveFamily, curves, draw_family

AT = np.arange(1, 11) / 10


def quiet_family(n_tasks: int, **changes: float) -> CurveFamily:
    """Tasks whose curves are plain power laws: no noise, no plateau, no over-fitting."""
    family = draw_family(np.random.default_rng(0), n_tasks)
    plain = {"jitter": 0.0, "late": 0.0, "overfit": 0.0, "alpha_spread": 0.0, **changes}
    return replace(family, **{name: np.full(n_tasks, value) for name, value in plain.items()})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.floats(-20, 1.2), min_size=1, max_size=5))
def test_curves_are_finite_and_end_near_their_final_value(seed: int, final: list[float]) -> None:
    rng = np.random.default_rng(seed)
    family = draw_family(rng, 4)
    finals = np.broadcast_to(np.array(final), (4, len(final)))
    values = curves(rng, family, finals, AT)
    assert values.shape == (4, len(final), 10)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("final", [-5.0, -0.5, 0.0, 1.0])
def test_a_curve_without_noise_ends_at_its_final_value(final: float) -> None:
    values = curves(np.random.default_rng(0), quiet_family(20), np.full((20, 3), final), AT)
    np.testing.assert_allclose(values[..., -1], final, atol=1e-9)


def test_a_curve_without_noise_rises_all_the_time() -> None:
    values = curves(np.random.default_rng(0), quiet_family(20), np.full((20, 3), 0.7), AT)
    assert (np.diff(values, axis=-1) >= 0).all()
    assert (values[..., 0] < 0.7).all()


def test_the_last_evaluation_does_not_exceed_the_final_value() -> None:
    family = quiet_family(50, jitter=0.1)
    values = curves(np.random.default_rng(0), family, np.zeros((50, 4)), AT)
    assert (values[..., -1] <= 1e-9).all()
    assert (values[..., -1] < 0).any()


def test_over_fitting_peaks_before_the_end() -> None:
    values = curves(np.random.default_rng(0), quiet_family(50, overfit=1.0), np.full((50, 4), 0.5), AT)
    early = values.argmax(-1) < 9
    assert early.mean() > 0.5
    assert (values[early][:, -1] < values[early].max(-1)).all()
    assert (values <= 0.5 + 1e-9).all()


def test_late_bloomers_stay_low_at_first() -> None:
    def at_start(late: float) -> float:
        return float(
            curves(np.random.default_rng(0), quiet_family(200, late=late), np.full((200, 2), 1.0), AT)[..., 0].mean()
        )

    assert at_start(1.0) < at_start(0.0) - 0.3


def test_curves_cross_where_exponents_differ() -> None:
    def crossings(spread: float) -> float:
        finals = np.tile([0.0, 0.3], (300, 1))
        values = curves(np.random.default_rng(1), quiet_family(300, alpha_spread=spread, linked=0.0), finals, AT)
        return float((values[:, 0, 2] > values[:, 1, 2]).mean())

    assert crossings(0.7) > crossings(0.0) + 0.05


def test_each_training_may_be_read_at_its_own_fractions() -> None:
    finals = np.full((3, 2), 0.5)
    own = np.tile(AT, (3, 2, 1))
    same = [curves(np.random.default_rng(0), quiet_family(3), finals, at) for at in (AT, own)]
    np.testing.assert_array_equal(*same)


def test_families_are_drawn_deterministically_and_differ() -> None:
    first, second = (draw_family(np.random.default_rng(2), 6) for _ in range(2))
    for field in fields(CurveFamily):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))
    assert len(np.unique(first.alpha)) == 6
