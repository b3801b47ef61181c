"""Gaussian processes inside the predictor, beside scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from hf_rlsearch.agent.layers import GaussianProcesses, Posterior

HEADS, WIDTH, LENGTH = 2, 8, 0.4
NOISE = 0.05


@pytest.fixture
def processes() -> GaussianProcesses:
    """Smooth kernels of a known length scale and noise, on the value itself."""
    torch.manual_seed(0)
    made = GaussianProcesses(WIDTH, HEADS)
    with torch.no_grad():
        made.scales.bias[:HEADS] = inverse_softplus(1 / (2 * LENGTH**2)) - 1.5
        made.scales.bias[HEADS:] = -40.0
        made.noise.bias[:] = inverse_softplus(NOISE - 2e-3) + 4.0
    return made.requires_grad_(False)


def inverse_softplus(x: float) -> float:
    return float(np.log(np.expm1(x)))


def distances(rows: np.ndarray, others: np.ndarray) -> torch.Tensor:
    """1 x 2H x N x T, squared ones first."""
    plain = np.abs(rows[:, None] - others[None]).transpose(2, 0, 1)
    return torch.as_tensor(np.concatenate([plain**2, plain])[None], dtype=torch.float32)


def fit(made: GaussianProcesses, places: np.ndarray, values: np.ndarray, known: np.ndarray | None = None) -> Posterior:
    n = len(places)
    mask = np.ones(n, bool) if known is None else known
    return made.fit(
        torch.zeros(1, places.shape[1], WIDTH),
        distances(places, places),
        torch.randn(1, n, WIDTH, generator=torch.Generator().manual_seed(1)),
        torch.as_tensor(values[None], dtype=torch.float32),
        torch.as_tensor(mask[None]),
    )


def search(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((n, 3)), rng.standard_normal(n), rng.random((6, 3))


@pytest.mark.parametrize("n", [1, 5, 25])
def test_mean_and_deviation_are_those_of_scikit_learn(processes: GaussianProcesses, n: int) -> None:
    places, values, rows = search(n)
    posterior = fit(processes, places, values)
    mean, deviation = processes.predict(posterior, distances(rows, places))
    reference = GaussianProcessRegressor(RBF(LENGTH), alpha=NOISE, optimizer=None).fit(places, values - values.mean())
    expected, spread = reference.predict(rows, return_std=True)
    for head in range(HEADS):
        np.testing.assert_allclose(mean[0, head, :, -1], expected + values.mean(), atol=1e-3)
        np.testing.assert_allclose(deviation[0, head, :, 0], spread, atol=1e-3)


def test_trials_without_a_value_say_nothing(processes: GaussianProcesses) -> None:
    places, values, rows = search(8)
    known = np.arange(8) < 5
    some = processes.predict(fit(processes, places, np.where(known, values, 77.0), known), distances(rows, places))
    few = processes.predict(fit(processes, places[:5], values[:5]), distances(rows, places[:5]))
    np.testing.assert_allclose(some[0][..., -1], few[0][..., -1], atol=1e-4)
    np.testing.assert_allclose(some[1], few[1], atol=1e-4)


def test_without_any_value_nothing_is_known(processes: GaussianProcesses) -> None:
    places, values, rows = search(4)
    mean, deviation = processes.predict(fit(processes, places, values, np.zeros(4, bool)), distances(rows, places))
    np.testing.assert_allclose(mean, 0.0)
    np.testing.assert_allclose(deviation, 1.0)


def test_the_same_configuration_again_and_again_is_no_trouble(processes: GaussianProcesses) -> None:
    places = np.full((160, 3), 0.5)
    mean, deviation = processes.predict(fit(processes, places, np.zeros(160)), distances(places[:1], places))
    assert torch.isfinite(mean).all()
    assert (deviation < 0.1).all()


def test_everything_is_on_one_device() -> None:
    made = GaussianProcesses(WIDTH, HEADS).to("meta")
    shapes = (2, 3, WIDTH), (2, 6, 5, 5), (2, 5, WIDTH), (2, 5)
    known = torch.empty(2, 5, dtype=torch.bool, device="meta")
    posterior = made.fit(*(torch.empty(shape, device="meta") for shape in shapes), known)
    assert made(posterior, torch.empty(2, 6, 7, 5, device="meta")).shape == (2, 7, WIDTH)
