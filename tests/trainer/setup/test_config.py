"""The options of a search are documented, and limits that the user leaves out follow from the others."""

import dataclasses
from typing import Any

import pytest
from optuna.samplers import RandomSampler

from hf_rlsearch import ArgumentsError, search
from hf_rlsearch.trainer.setup.config import DEFAULT_PAUSED, SearchConfig

OPTIONS = [field.name for field in dataclasses.fields(SearchConfig)]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_documented(name: str) -> None:
    assert f"\n        {name}: " in str(SearchConfig.__doc__)
    if name not in ("gc_after_trial", "n_jobs"):
        assert f"``{name}``" in str(search.__doc__) or f"\n        {name}: " in str(search.__doc__)


@pytest.mark.parametrize(
    ("options", "max_trials", "displayed"),
    [
        ({}, 20, 20),
        ({"n_trials": 7}, 7, 7),
        ({"budget": 4.0}, 32, None),
        ({"budget": 4.0, "n_trials": 7}, 7, 7),
        ({"budget": 4.0, "n_trials": None}, 32, None),
        ({"timeout": 5.0}, 20, 20),
        ({"timeout": 5.0, "n_trials": None}, 1000, None),
    ],
)
def test_number_of_trials(options: dict[str, Any], max_trials: int, displayed: int | None) -> None:
    config = SearchConfig(**options)
    assert (config.max_trials, config.displayed_n_trials) == (max_trials, displayed)


def test_number_of_paused_trainings() -> None:
    assert SearchConfig().max_paused == DEFAULT_PAUSED
    assert SearchConfig(sampler=RandomSampler()).max_paused == 0
    assert SearchConfig(sampler=RandomSampler(), max_checkpoints=2).max_paused == 2


@pytest.mark.parametrize("catch", [ValueError, (ValueError,), [ValueError], {ValueError}])
def test_caught_exceptions_are_a_tuple(catch: Any) -> None:
    assert SearchConfig(catch=catch).caught == (ValueError,)
    with pytest.raises(ArgumentsError, match="catch="):
        SearchConfig(catch=(catch, "ValueError"))


def test_directions_stand_for_direction() -> None:
    assert SearchConfig.from_options({"directions": ["minimize"]}).direction == ["minimize"]
