"""The options of a search are documented, and limits that the user leaves out follow from the others."""

import dataclasses
import inspect
import re
from typing import Any, get_type_hints

import pytest
from optuna.samplers import RandomSampler
from transformers import Trainer

from hf_rlsearch import ArgumentsError, search
from hf_rlsearch.trainer.setup import config
from hf_rlsearch.trainer.setup.config import DEFAULT_PAUSED, SearchConfig
from hf_rlsearch.trainer.setup.options import RENAMED, SearchOptions

OPTIONS = [field.name for field in dataclasses.fields(SearchConfig)]


@pytest.mark.parametrize("name", [*OPTIONS, "directions"])
def test_help_shows_every_option(name: str) -> None:
    for function in (search, Trainer.hyperparameter_search):
        assert re.search(rf"^ +{name}( \(`.*\))?: ?", str(function.__doc__), flags=re.MULTILINE)


def test_help_of_the_trainer_has_our_options_after_its_own_text() -> None:
    text = str(inspect.getdoc(Trainer.hyperparameter_search))
    assert text.startswith("Launch a hyperparameter search using `optuna` or `Ray Tune`.")
    assert text.index("Experiment summary") < text.index('With ``backend="rl"`` hf_rlsearch runs the search.')
    titles = re.findall(r"^(\w.*):$", text.partition('With ``backend="rl"``')[2], flags=re.MULTILINE)
    assert titles == ["Space", "Objective", "Budget", "Storage", "Disk", "Agent", "Accepted as in Optuna"]


def test_options_have_the_types_that_are_checked() -> None:
    known = vars(config)
    options, fields = get_type_hints(SearchOptions, localns=known), get_type_hints(SearchConfig, localns=known)
    assert options.pop("directions") == options["direction"]
    assert {"hp_space": fields["hp_space"], **options} == fields
    assert list(options)[-2:] == ["gc_after_trial", "n_jobs"]


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_former_name_is_an_error_that_names_todays(old: str, new: str) -> None:
    assert old not in OPTIONS
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{old}'. Its name is '{new}'."):
        SearchConfig.from_options({old: 1})
    assert getattr(SearchConfig.from_options({new: 1}), new) == 1


def test_all_unknown_options_are_named_at_once() -> None:
    with pytest.raises(TypeError, match=r"'n_trial'\. Did you mean 'n_trials'\? Nor does it know 'scheduler', 'x'\."):
        SearchConfig.from_options({"n_trial": 1, "scheduler": None, "seed": 1, "x": 2})


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
    assert SearchConfig(sampler=RandomSampler(), max_paused_trials=2).max_paused == 2


def test_the_stop_rule_reads_weights_beside_a_sampler() -> None:
    assert SearchConfig(sampler=RandomSampler(), weights="w").weights == "w"


@pytest.mark.parametrize("catch", [ValueError, (ValueError,), [ValueError], {ValueError}])
def test_caught_exceptions_are_a_tuple(catch: Any) -> None:
    assert SearchConfig(catch=catch).caught == (ValueError,)
    with pytest.raises(ArgumentsError, match="catch="):
        SearchConfig(catch=(catch, "ValueError"))


def test_directions_stand_for_direction() -> None:
    assert SearchConfig.from_options({"directions": ["minimize"]}).direction == ["minimize"]
