"""Published settings: every one is a candidate of the space that is searched, the task's own come first, no seed."""

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution

from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.space.presets import FOR_TASK, MODEL_TYPES, Preset, preset


def space_of(found: Preset) -> dict[str, BaseDistribution]:
    trial = optuna.create_study().ask()
    assert found.hp_space(trial) == trial.params
    return trial.distributions


TASKS = {family: sorted({task for known, task in FOR_TASK if known == family}) for family in MODEL_TYPES}


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_published_settings_are_candidates_of_their_own_space_in_every_value(family: str) -> None:
    for found in (preset(family), *(preset(family, task) for task in TASKS[family])):
        assert found.published
        space = SearchSpace.from_functions(found.hp_space).with_levels(found.published)
        pool = space.candidates(np.random.default_rng(0), limit=1024, published=found.published)
        candidates = [space.decode(row) for row in pool]
        for setting in found.published:
            assert any(setting.items() <= candidate.items() for candidate in candidates), setting


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_space_is_what_the_trainer_understands(name: str) -> None:
    from transformers import TrainingArguments

    fields = TrainingArguments.__dataclass_fields__
    scoped = {"peft.r", "peft.lora_alpha", "peft.lora_dropout", "train.layer_decay", "gen.num_beams"}
    assert set(space_of(preset(name))) <= {*fields, *scoped, *({"beta"} if name == "dpo" else ())}


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_no_seed_is_searched_and_sources_are_given(name: str) -> None:
    found = preset(name)
    assert not [key for setting in (space_of(found), *found.published) for key in setting if "seed" in key]
    assert found.sources
    assert all(len(source) > 20 for source in found.sources)


@pytest.mark.parametrize(
    ("model_type", "task", "expected"),
    [
        ("bert", None, {"learning_rate": 2e-5, "per_device_train_batch_size": 32, "num_train_epochs": 3}),
        ("roberta", "RTE", {"learning_rate": 2e-5, "per_device_train_batch_size": 16, "weight_decay": 0.1}),
        ("roberta", "sst2", {"learning_rate": 1e-5, "per_device_train_batch_size": 32, "warmup_steps": 0.06}),
        ("albert", "mnli_matched", {"learning_rate": 3e-5, "per_device_train_batch_size": 128}),
        ("albert", "rte", {"num_train_epochs": 10, "warmup_steps": 0.25}),
        ("electra", "sts-b", {"learning_rate": 1e-4, "num_train_epochs": 10, "train.layer_decay": 0.8}),
        ("bert", "squad_v2", {"learning_rate": 5e-5, "per_device_train_batch_size": 48, "num_train_epochs": 2}),
        ("lora", None, {"learning_rate": 5e-4, "peft.r": 8, "peft.lora_alpha": 16}),
        ("t5", None, {"learning_rate": 1e-3}),
        ("qwen3", None, {"learning_rate": 1e-5, "weight_decay": 0.1}),
        ("dpo", None, {"learning_rate": 5e-7, "beta": 0.01}),
    ],
)
def test_first_published_setting(model_type: str, task: str | None, expected: dict[str, float]) -> None:
    first = preset(model_type, task).published[0]
    assert {key: first[key] for key in expected} == expected


def test_relatives_share_a_preset_and_unknown_types_get_the_generic_one() -> None:
    assert preset("deberta-v2").name == "deberta"
    assert preset("xlm-roberta").published == preset("roberta").published
    assert preset("mbart").published[1]["label_smoothing_factor"] == 0.2
    assert preset("modernbert").name == "generic"


def test_settings_are_not_repeated_and_not_shared() -> None:
    for name in MODEL_TYPES:
        published = preset(name, "rte").published
        assert [setting for setting in published if published.count(setting) > 1] == []
    preset("bert").published[0]["learning_rate"] = 1.0
    assert preset("bert").published[0]["learning_rate"] == 2e-5


@pytest.mark.parametrize(("model_type", "text"), [("BERT", "writes it 'bert'"), ("", "expected"), (None, "expected")])
def test_wrong_names_are_errors(model_type: str, text: str) -> None:
    with pytest.raises(ArgumentsError, match=text):
        preset(model_type)
