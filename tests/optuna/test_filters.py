"""A configuration is not chosen again, nor one at least as large as one that ran out of memory."""

import json
import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hf_rlsearch import RLSampler
from hf_rlsearch.observation.history import History
from hf_rlsearch.optuna.filters import exceeds_memory, is_duplicate
from hf_rlsearch.space import SearchSpace

DISTRIBUTIONS: dict[str, Any] = {
    "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
    "per_device_train_batch_size": CategoricalDistribution([4, 8, 16, 32]),
    "max_seq_length": CategoricalDistribution([64, 128]),
    "gradient_accumulation_steps": CategoricalDistribution([1, 2]),
    "gradient_checkpointing": CategoricalDistribution([True, False]),
}
SPACE = SearchSpace.from_distributions(DISTRIBUTIONS)


def failed(kind: str = "oom", **params: Any) -> FrozenTrial:
    given = {
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 16,
        "max_seq_length": 64,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": False,
        **params,
    }
    return create_trial(
        state=TrialState.FAIL, params=given, distributions=DISTRIBUTIONS, user_attrs={"rl:failure": {"kind": kind}}
    )


def too_large(*trials: FrozenTrial) -> set[tuple[int, int, bool]]:
    """Batch size, length and checkpointing of the candidates that are masked."""
    rows = SPACE.grid(10_000)
    masked = exceeds_memory(SPACE, trials, rows)
    chosen = [SPACE.decode(row) for row in rows[masked]]
    return {(p["per_device_train_batch_size"], p["max_seq_length"], p["gradient_checkpointing"]) for p in chosen}


def test_everything_at_least_as_large_is_masked_and_nothing_else() -> None:
    assert too_large(failed()) == {(16, 64, False), (16, 128, False), (32, 64, False), (32, 128, False)}


def test_other_failures_mask_nothing() -> None:
    assert too_large(failed("error")) == too_large(failed("nan")) == too_large() == set()


def test_learning_rate_and_accumulation_do_not_matter() -> None:
    rows = SPACE.grid(10_000)
    masked = exceeds_memory(SPACE, [failed()], rows)
    small = [SPACE.decode(row) for row in rows[masked]]
    assert {p["gradient_accumulation_steps"] for p in small} == {1, 2}
    assert len({p["learning_rate"] for p in small}) == len(SPACE.hyperparameters[0].levels)


def test_a_space_without_sizes_masks_nothing() -> None:
    space = SearchSpace.from_distributions({"learning_rate": DISTRIBUTIONS["learning_rate"]})
    trial = create_trial(
        state=TrialState.FAIL,
        params={"learning_rate": 1e-4},
        distributions={"learning_rate": DISTRIBUTIONS["learning_rate"]},
        user_attrs={"rl:failure": {"kind": "oom"}},
    )
    assert not exceeds_memory(space, [trial], space.grid(100)).any()


def test_the_sampler_keeps_away() -> None:
    study = optuna.create_study(sampler=RLSampler(seed=0, search_space=SPACE))
    study.add_trial(failed(per_device_train_batch_size=8))
    for _ in range(12):
        trial = study.ask(DISTRIBUTIONS)
        assert trial.params["per_device_train_batch_size"] == 4 or trial.params["gradient_checkpointing"]
        study.tell(trial, float(np.log10(trial.params["learning_rate"])))


TENTHS, NAN_OR_NOT = FloatDistribution(0.1, 0.5, step=0.1), CategoricalDistribution([math.nan, "nan", 1.0])


@pytest.mark.parametrize(
    ("distribution", "value", "level"),
    [
        (TENTHS, 0.1 + 0.2, 2),
        (TENTHS, 0.25, None),
        (TENTHS, math.inf, None),
        (NAN_OR_NOT, json.loads("NaN"), 0),
        (NAN_OR_NOT, "nan", 1),
        (NAN_OR_NOT, 1, 2),
    ],
)
def test_a_value_is_known_again_as_the_level_that_it_is(
    distribution: BaseDistribution, value: Any, level: int | None
) -> None:
    """Other samplers add up steps, and a storage makes a NaN of its own."""
    space = SearchSpace.from_distributions({"x": distribution})
    trial = create_trial(params={"x": 1.0}, distributions={"x": FloatDistribution(0, 9)}, value=0.0)
    history = History.from_trials([trial], [StudyDirection.MINIMIZE]).with_params(0, {"x": value})
    rows = space.grid(10)
    assert is_duplicate(space, history, rows).tolist() == [row == level for row in rows[:, 0].tolist()]
