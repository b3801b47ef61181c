"""The averaged Gaussian process: against one in numpy, and what it says about improvements."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution

from hf_rlsearch.agent import gaussian_process
from hf_rlsearch.agent.acquisition import expected_improvement, mean_and_spread
from hf_rlsearch.agent.gaussian_process import N_DRAWS, N_KEPT, fit, improvement, predict
from hf_rlsearch.agent.network import N_BINS, Arrays, bin_values, compress
from hf_rlsearch.observation.history import History
from hf_rlsearch.observation.observation import TRIAL_VALUE, live_observation
from hf_rlsearch.space import SearchSpace
from tests.helpers.searches import history_of, random_rows

Floats = NDArray[np.float64]

MIXED = SearchSpace.from_distributions(
    {
        "a": FloatDistribution(0, 1),
        "b": FloatDistribution(1e-4, 1e-1, log=True),
        "c": CategoricalDistribution(["x", "y", "z"]),
    },
    n_points=7,
)
LINE = SearchSpace.from_distributions({"a": FloatDistribution(0, 1)}, n_points=21)


def search(history: History, rows: NDArray[np.int64], space: SearchSpace = MIXED) -> Arrays:
    return Arrays.of(live_observation(space, history, rows, np.ones(len(rows), bool), {}))


def random_search(n_trials: int, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n_trials)
    return search(history_of(random_rows(n_trials, seed, MIXED), values, space=MIXED), random_rows(11, 5, MIXED))


def kernel(rows: Floats, others: Floats, rates: Floats, signal: float) -> Floats:
    """Of the positions of two numbers and the index of a category, entry by entry."""
    out = np.empty((len(rows), len(others)))
    for i, row in enumerate(rows):
        for j, other in enumerate(others):
            r = math.sqrt(sum((rates[h] * (row[h] - other[h])) ** 2 for h in (0, 1)))
            matern = (1 + math.sqrt(5) * r + 5 / 3 * r**2) * math.exp(-math.sqrt(5) * r)
            out[i, j] = signal * matern * math.exp(-rates[2] * (row[2] != other[2]))
    return out


@pytest.mark.parametrize("n_trials", [3, 8, 25])
def test_each_draw_is_a_gaussian_process(n_trials: int) -> None:
    """Posterior, likelihood and which draws are kept, as textbooks write them."""
    arrays = random_search(n_trials)
    process = fit(arrays)
    places = arrays.positions[0].double().numpy()  # of the category any number that differs between levels
    trials, rows = (places[np.arange(3), levels[0].numpy()] for levels in (arrays.trials, arrays.candidates))
    raw = arrays.trial_features[0, :, TRIAL_VALUE].double().numpy()
    values, best = (raw - raw.mean()) / raw.std(), int(raw.argmax())
    all_rates, noise, signal = (t[0].numpy() for t in gaussian_process._draws(torch.ones(1, 3).double()))
    evidence, means, deviations = [], [], []
    for m in range(N_DRAWS):
        covariance = kernel(trials, trials, all_rates[m], signal[m]) + noise[m] * np.eye(n_trials)
        evidence.append(-0.5 * values @ np.linalg.solve(covariance, values) - 0.5 * np.linalg.slogdet(covariance)[1])
        pair = np.vstack([rows, trials[best : best + 1]])
        across = kernel(pair, trials, all_rates[m], signal[m])
        mean = across @ np.linalg.solve(covariance, values)
        posterior = kernel(pair, pair, all_rates[m], signal[m]) - across @ np.linalg.solve(covariance, across.T)
        variance = np.diag(posterior)[:-1] + posterior[-1, -1] - 2 * posterior[:-1, -1]
        means.append((mean[:-1] - mean[-1]) * raw.std())
        deviations.append(np.sqrt(np.maximum(variance, 0)) * raw.std())
    order = np.argsort(evidence)[::-1][:N_KEPT]
    shares = np.exp(np.array(evidence)[order] - max(evidence))
    shares = np.where(shares < 0.01, 0, shares)[: process.shares.shape[1]]
    np.testing.assert_allclose(process.shares[0], shares / shares.sum(), atol=1e-6)
    found = improvement(process, arrays.candidates)
    np.testing.assert_allclose(found[0][0], np.array(means)[order][: len(shares)], atol=1e-6)
    np.testing.assert_allclose(found[1][0], np.array(deviations)[order][: len(shares)], atol=2e-4)


def test_probabilities_are_those_of_the_normal_distributions() -> None:
    """Samples on the history's own scale, turned into utilities and binned by hand."""
    arrays = random_search(9)
    process = fit(arrays)
    mean, deviation = improvement(process, arrays.candidates[:, :1])
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(process.shares[0], 400_000, replacement=True, generator=generator)
    x = mean[0, which, 0] + deviation[0, which, 0] * torch.randn(len(which), generator=generator, dtype=torch.double)
    utility = 1 + torch.where(x > 0, x, -torch.expm1(-x))  # 1 for the best trial, 0 for the median
    edges = torch.tensor(gaussian_process.BIN_EDGES).double()
    count = torch.bincount(torch.bucketize(compress(utility) - 1, edges), minlength=N_BINS)
    np.testing.assert_allclose(predict(process, arrays.candidates)[0, 0], count / len(which), atol=4e-3)


def test_it_knows_where_a_smooth_objective_is_good() -> None:
    rows = np.array([[0], [4], [8], [16], [20]])
    best, grid = 11, LINE.grid(100)
    arrays = search(history_of(rows, -((rows[:, 0] - best) ** 2.0), space=LINE), grid, LINE)
    p = predict(fit(arrays), arrays.candidates)
    assert abs(int(expected_improvement(p, bin_values()).argmax()) - best) <= 1
    mean, spread = mean_and_spread(p[0], bin_values())
    assert abs(float(mean[8])) < 0.1  # the best trial itself
    assert spread[8] < spread[12]


@pytest.mark.parametrize("n_trials", [0, 1, 2])
def test_without_three_values_all_candidates_are_alike(n_trials: int) -> None:
    arrays = random_search(n_trials)
    process = fit(arrays)
    p = predict(process, arrays.candidates)
    assert not process.usable.any()
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(p[0], p[0, :1].expand(11, -1), atol=1e-6)


def test_trials_without_a_value_say_nothing() -> None:
    rows, values = random_rows(9, 2, MIXED), np.random.default_rng(0).normal(size=9)
    values[6:] = np.nan
    candidates = random_rows(5, 3, MIXED)
    some = search(history_of(rows, values, space=MIXED), candidates)
    few = search(history_of(rows[:6], values[:6], space=MIXED), candidates)
    torch.testing.assert_close(predict(fit(some), some.candidates), predict(fit(few), few.candidates))


@pytest.mark.parametrize("values", [np.zeros(5), np.array([0.0, 0.0, 0.0, 1e30, -1e30])])
def test_absurd_values_are_survived(values: Floats) -> None:
    arrays = search(
        history_of(random_rows(5, 2, MIXED)[[0, 0, 0, 1, 2]], values, space=MIXED), random_rows(5, 3, MIXED)
    )
    p = predict(fit(arrays), arrays.candidates)
    assert torch.isfinite(p).all()
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)


def test_draws_are_weighed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_rlsearch.agent.mixture import concatenate

    arrays = concatenate(random_search(9, 0), random_search(9, 1))
    whole = predict(fit(arrays), arrays.candidates)
    monkeypatch.setattr(gaussian_process, "_MOST_NUMBERS", 1)
    torch.testing.assert_close(predict(fit(arrays), arrays.candidates), whole)
