"""Small searches for several tests: a mixed space, histories on it, and a predictor with random weights."""

from functools import lru_cache

import numpy as np
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch.agent.agent import one_torch_thread
from hf_rlsearch.agent.network import Arrays, NetworkConfig, Predictor
from hf_rlsearch.observation.history import COMPLETE, STATUS, History
from hf_rlsearch.observation.observation import Observation
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.tasks.prior import TaskBatch

SPACE = SearchSpace.from_distributions(
    {
        "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
        "num_train_epochs": IntDistribution(1, 4),
        "lr_scheduler_type": CategoricalDistribution(["linear", "cosine", "constant"]),
        "weight_decay": CategoricalDistribution([0.0, 0.01, 0.1]),
    }
)


def random_rows(n_rows: int, seed: int = 0, space: SearchSpace = SPACE) -> np.ndarray:
    """n_rows x H levels."""
    return np.random.default_rng(seed).integers(0, space.n_levels, (n_rows, len(space.names)))


def truths(tasks: TaskBatch) -> list[dict[bytes, float]]:
    """Of each task the utility of a row of levels. Some rows come twice; padded ones repeat others, with no value."""
    rows = np.where(tasks.present, tasks.candidates, -1)
    return [
        dict(zip(map(bytes, row[mask]), utility[mask], strict=True))
        for row, utility, mask in zip(rows, tasks.utility, tasks.candidate_mask, strict=True)
    ]


def asked(seen: Observation) -> list[list[bytes]]:
    """The rows of levels that a policy scores, in the format of `truths`."""
    return [list(map(bytes, rows)) for rows in seen.candidates.astype(int)]


def history_of(rows: np.ndarray, values: np.ndarray, *, space: SearchSpace = SPACE, **columns: object) -> History:
    """Trials at these levels, complete and without curves unless ``columns`` say otherwise."""
    n = len(rows)
    default = {
        "numbers": np.arange(n),
        "params": tuple(space.decode(row) for row in rows),
        "values": np.asarray(values, float),
        "fidelity": np.ones(n),
        "status": np.full(n, COMPLETE),
        "curves": (np.empty((0, 2)),) * n,
    }
    return History(**{**default, **columns})  # type: ignore[arg-type]


def random_history(n_trials: int, seed: int = 0, space: SearchSpace = SPACE) -> History:
    """Complete, pruned, failed and running trials, half of them with curves."""
    rng = np.random.default_rng(seed)
    status = rng.choice(len(STATUS), n_trials, p=[0.6, 0.2, 0.1, 0.1])
    values = np.where(status == STATUS.index("failed"), np.nan, rng.normal(size=n_trials))
    fidelity = np.where(status == COMPLETE, 1.0, rng.uniform(0.1, 0.9, n_trials))
    curves = tuple(
        np.stack([np.arange(1.0, 6.0), np.sort(rng.normal(size=5))], 1) if rng.random() < 0.5 else np.empty((0, 2))
        for _ in range(n_trials)
    )
    rows = random_rows(n_trials, seed, space)
    return history_of(rows, values, space=space, status=status, fidelity=fidelity, curves=curves)


@lru_cache(maxsize=1)
def random_predictor() -> Predictor:
    """Small, and with random weights everywhere, so that no input is ignored by chance."""
    generator = torch.Generator().manual_seed(0)
    predictor = Predictor(NetworkConfig(width=16, heads=2, history_blocks=1, candidate_blocks=1)).eval()
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return predictor


def scores(observation: Observation, predictor: Predictor | None = None) -> np.ndarray:
    """B x C x bins logits."""
    predictor = predictor or random_predictor()  # made outside of inference mode: others train with it
    with one_torch_thread(), torch.inference_mode():
        return np.asarray(predictor(Arrays.of(observation)).numpy())
