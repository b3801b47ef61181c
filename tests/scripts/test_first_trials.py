"""First configurations of searches on recorded tables: the middle, a random one, and published settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _first_trials import at_random, middle, published, published_setting
from _recording_tables import TABLES, Table
from recorded_tasks import RecordedTask

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)


def task(*hyperparameters: tuple[str, tuple[Any, ...]], **meta: Any) -> RecordedTask:
    """A task without a table; rates are on a logarithmic axis."""
    described = [
        {"name": n, "levels": levels, "ordered": not isinstance(levels[0], str), "log": n in ("lr", "learning_rate")}
        for n, levels in hyperparameters
    ]
    entry = {"family": "some", "direction": "minimize", "hyperparameters": described, **meta}
    return RecordedTask("some", Path("none.csv"), entry)


def of(table: Table) -> RecordedTask:
    """The task of a definition."""
    spaces = [(h.name, h.levels) for h in table.space]
    return task(*spaces, model=table.model, lora=table.lora, arguments=table.args)


def test_the_middle_is_the_lower_of_two_and_categories_are_drawn() -> None:
    own = task(("learning_rate", RATES), ("weight_decay", (0.0, 0.01, 0.1)), ("optim", ("sgd", "adamw_torch", "lion")))
    drawn = [middle(own, seed).tolist() for seed in range(20)]
    assert {tuple(levels[:2]) for levels in drawn} == {(2, 1)}
    assert {levels[2] for levels in drawn} == {0, 1, 2}
    assert drawn == [middle(own, seed).tolist() for seed in range(20)]


def test_a_random_configuration_is_any_of_them() -> None:
    own = task(("learning_rate", RATES[:3]), ("optim", ("sgd", "adamw_torch")))
    drawn = [tuple(at_random(own, seed).tolist()) for seed in range(200)]
    assert len(set(drawn)) == 6
    assert drawn == [tuple(at_random(own, seed).tolist()) for seed in range(200)]


@pytest.mark.parametrize(
    ("model", "lora", "rate"),
    [
        ("bert-tiny", None, 5e-5),
        ("minilm", None, 5e-5),
        ("gpt2-tiny", None, 6.25e-5),
        ("t5", None, 1e-3),
        ("bart", None, 7e-4),
        ("vit", None, 3e-3),
        ("minilm", {"r": 8}, 5e-4),
        ("gpt2-tiny", {"r": 8}, 2e-4),
        ("unknown", None, 2e-5),
    ],
)
def test_the_published_rate_of_each_kind_of_model(model: str, lora: dict[str, int] | None, rate: float) -> None:
    own = task(("learning_rate", (*RATES, rate)), model=model, lora=lora)
    assert published_setting(own)["learning_rate"] == rate
    assert own.params(published(own, 0))["learning_rate"] == rate


def test_a_published_setting_is_mapped_by_role_to_the_nearest_level() -> None:
    own = task(
        ("lr", (1e-5, 1e-4)),
        ("batch_size", (4, 8, 16)),
        ("weight_decay", (0.0, 0.1)),
        ("adam_beta2", (0.9, 0.98, 0.999)),
        ("optim", ("adafactor", "adamw_torch", "sgd")),
        ("lr_scheduler_type", ("cosine", "linear")),
        model="bert-tiny",
    )
    assert published(own, 0).tolist() == [1, 2, 0, 1, 1, 1]


def test_a_rate_is_nearest_in_its_logarithm() -> None:
    levels, wanted = (1e-5, 9.5e-5), 5e-5  # nearer to the lower one, but for the logarithm
    for log, expected in ((False, 0), (True, 1)):
        entry = {"name": "learning_rate", "levels": levels, "ordered": True, "log": log}
        meta = {"family": "some", "direction": "minimize", "hyperparameters": [entry], "model": "bert-tiny"}
        own = RecordedTask("some", Path("none.csv"), meta)
        assert published_setting(own)["learning_rate"] == wanted
        assert published(own, 0).tolist() == [expected]


def test_values_that_mean_something_else_are_not_taken() -> None:
    """Rates of Adam are none for SGD; epochs and shares of warm-up are no numbers of steps."""
    space = (("learning_rate", RATES), ("max_steps", (10, 20, 40)), ("warmup_steps", (0, 50, 100, 200)))
    sgd = task(*space, model="bert-tiny", arguments={"optim": "sgd"})
    assert published(sgd, 0).tolist() == middle(sgd, 0).tolist()
    adam = task(*space, model="bert-tiny", facts={"planned_steps": 1000})
    assert published(adam, 0).tolist() == [1, 1, 2]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_has_a_published_setting(table: Table) -> None:
    own = of(table)
    levels = published(own, 0)
    assert np.all((levels >= 0) & (levels < own.n_levels))
    unknown = published_setting(task(("learning_rate", RATES)))
    assert published_setting(own) != unknown
