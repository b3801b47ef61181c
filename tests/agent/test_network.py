"""The predictor: symmetries, distances, outcome bins."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rlsearch.agent.acquisition import expected_improvement, joint_improvement
from hf_rlsearch.agent.layers import weigh
from hf_rlsearch.agent.network import (
    BIN_EDGES,
    N_BINS,
    Arrays,
    Distances,
    NetworkConfig,
    Predictor,
    bin_values,
    compress,
)
from hf_rlsearch.observation.observation import Observation, live_observation, space_arrays
from hf_rlsearch.tasks.histories import draw_history, measure, observe_tasks, train_partly
from hf_rlsearch.tasks.prior import draw
from tests.helpers.searches import SPACE, random_history, random_predictor, random_rows, scores


def search(n_trials: int = 6, n_candidates: int = 9, seed: int = 0) -> Observation:
    rows = random_rows(n_candidates, seed + 1)
    return live_observation(SPACE, random_history(n_trials, seed), rows, np.ones(n_candidates, bool), {})


def simulated(n_tasks: int = 4, seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    tasks = draw(rng, n_tasks, 20)
    chosen, mask = draw_history(rng, tasks, 6)
    return observe_tasks(
        space_arrays(tasks), tasks, train_partly(rng, tasks, chosen, mask, measure(rng, tasks, chosen))
    )


# ----------------------------------------------------------------------------------------------------------- symmetries
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 8), st.permutations(range(9)), st.integers(0, 10**6))
def test_reordering_candidates_reorders_the_scores(n_trials: int, order: list[int], seed: int) -> None:
    plain = search(n_trials, 9, seed)
    moved = replace(plain, candidates=plain.candidates[:, order])
    np.testing.assert_allclose(scores(moved), scores(plain)[:, order], atol=2e-4)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 10**6))
def test_reordering_hyperparameters_changes_no_score(order: list[int], seed: int) -> None:
    plain = search(seed=seed)
    space = replace(plain.space, **{f.name: getattr(plain.space, f.name)[:, order] for f in fields(plain.space)})
    moved = replace(plain, space=space, trials=plain.trials[..., order], candidates=plain.candidates[..., order])
    np.testing.assert_allclose(scores(moved), scores(plain), atol=2e-4)


def test_a_candidate_is_scored_alike_in_any_company() -> None:
    plain = search()
    alone = replace(plain, candidates=plain.candidates[:, 3:4])
    np.testing.assert_allclose(scores(alone)[:, 0], scores(plain)[:, 3], atol=2e-4)


def test_searches_of_a_batch_are_independent() -> None:
    batch = simulated()
    whole = scores(batch)
    arrays = Arrays.of(batch)
    for b in range(4):
        one = Arrays(*(getattr(arrays, f.name)[b : b + 1] for f in fields(Arrays)))
        with torch.no_grad():
            np.testing.assert_allclose(random_predictor()(one)[0].numpy(), whole[b], atol=2e-4)


def test_scores_depend_on_everything_that_is_shown() -> None:
    plain, base = search(), scores(search())
    changes = {
        "trial_features": plain.trial_features * 0.5,
        "candidates": np.flip(plain.candidates, 1).copy(),
        "trials": np.flip(plain.trials, 1).copy(),
        "context": plain.context + 1,
        "incumbent": (plain.incumbent + 1) % 6,
        "trial_mask": plain.trial_mask & (np.arange(6) != 0),
    }
    for name, value in changes.items():
        assert np.abs(scores(replace(plain, **{name: value})) - base).max() > 1e-4, name  # type: ignore[arg-type]


def test_no_trials_is_a_history_too() -> None:
    assert np.isfinite(scores(search(n_trials=0))).all()


# ------------------------------------------------------------------------------------------------------------ distances
def direct_distance(observation: Observation, scales: np.ndarray) -> np.ndarray:
    """B x heads x C x T written as it is meant: one loop per axis."""
    B, C, H = observation.candidates.shape
    T = observation.trials.shape[1]
    out = np.zeros((B, scales.shape[2], C, T))
    for b, c, t, h in np.ndindex(B, C, T, H):
        mine, other = observation.candidates[b, c, h], observation.trials[b, t, h]
        if mine < 0 or other < 0:
            gap = 0.5
        elif observation.space.ordered[b, h]:
            gap = abs(float(observation.space.positions[b, h, mine] - observation.space.positions[b, h, other]))
        else:
            gap = float(mine != other)
        gap *= observation.space.static[b, h, 0]
        out[b, :, c, t] += (gap**2 + 0.3 * gap) * scales[b, h]
    return out


@pytest.mark.parametrize("seed", range(3))
def test_attention_is_biased_by_the_distance_between_configurations(seed: int) -> None:
    observation = simulated(n_tasks=3, seed=seed)
    arrays = Arrays.of(observation)
    scales = torch.rand(3, arrays.trials.shape[2], 2, generator=torch.Generator().manual_seed(seed))
    with_padding = torch.nn.functional.pad(scales, (0, 0, 0, 1), value=1e4).transpose(1, 2)
    distance = weigh(with_padding, Distances.of(arrays).rows(arrays.candidates).attention).numpy()
    expected = direct_distance(observation, scales.numpy())
    real = np.broadcast_to(observation.trial_mask[:, None, None], expected.shape)
    np.testing.assert_array_equal(distance[..., 0], 0)
    np.testing.assert_allclose(distance[..., 1:][real], expected[real], atol=1e-5)
    assert (distance[..., 1:][~real] >= 1e4).all()


@pytest.mark.parametrize("seed", range(4))
def test_kernels_are_positive_where_trials_lack_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks = draw(rng, 40, 60)
    chosen, mask = draw_history(rng, tasks, 25)
    observation = observe_tasks(
        space_arrays(tasks), tasks, train_partly(rng, tasks, chosen, mask, measure(rng, tasks, chosen))
    )
    arrays = Arrays.of(observation)
    among = Distances.of(arrays).rows(arrays.trials).processes
    assert ((arrays.trials < 0) & (arrays.static[:, None, :, 0] > 0)).any()
    processes = random_predictor().processes
    scales = 3 * torch.rand(
        40, arrays.trials.shape[2], 2 * processes.heads, generator=torch.Generator().manual_seed(seed)
    )
    kernel = processes._kernel(scales, among)
    assert torch.linalg.eigvalsh(kernel.double()).min() > -1e-5
    np.testing.assert_allclose(kernel.diagonal(dim1=2, dim2=3), 1.0)


# ----------------------------------------------------------------------------------------------------------------- bins
def test_bins_are_ordered_and_each_value_lies_in_its_bin() -> None:
    values = bin_values()
    assert len(values) == N_BINS
    assert torch.bucketize(values, torch.tensor(BIN_EDGES)).tolist() == list(range(N_BINS))


def test_expected_improvement_of_known_distributions() -> None:
    bins = bin_values()
    certain = torch.full((1, 3, N_BINS), -50.0)
    low, best = 0, N_BINS - 1
    certain[0, 0, low] = certain[0, 1, best] = certain[0, 2, low] = certain[0, 2, best] = 50.0
    ei = expected_improvement(certain.softmax(-1), bins)[0]
    np.testing.assert_allclose(ei, [0.0, bins[-1], bins[-1] / 2], atol=1e-6)


def test_a_training_that_may_fail_is_expected_to_improve_less() -> None:
    """One candidate by its chance to end well; of two sure improvements one has to. The likely one is taken first."""
    bins = bin_values()
    probabilities = torch.zeros(2, N_BINS)
    probabilities[:, -1] = 1.0
    best, success = float(bins[-1]), torch.tensor([0.25, 0.5])
    gains = [float(joint_improvement(probabilities, bins, n, success)) for n in (1, 2)]
    np.testing.assert_allclose(gains, [0.5 * best, (1 - 0.75 * 0.5) * best], rtol=1e-5)


def test_compression_keeps_what_is_good_and_the_order() -> None:
    utility = torch.tensor([-100.0, -3.0, -0.5, 0.0, 0.4, 1.0])
    squeezed = compress(utility)
    assert squeezed[3:].tolist() == utility[3:].tolist()
    assert (squeezed.diff() > 0).all()
    assert squeezed[0] > -3


# ----------------------------------------------------------------------------------------------------------- parameters
def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    network = Predictor(NetworkConfig(width=16, heads=2))
    network(Arrays.of(simulated())).square().mean().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_the_bins_are_no_part_of_the_weights() -> None:
    assert "bins" not in Predictor(NetworkConfig(width=16, heads=2)).state_dict()
