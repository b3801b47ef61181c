"""Which names ``model_init`` reads of its trial."""

import copy
import json
from typing import Any

import pytest

from hf_rlsearch.trainer.setup.hp_space import AccessRecorder


@pytest.mark.parametrize(
    "read",
    [
        lambda values: {**values},
        lambda values: dict(values),
        lambda values: dict(**values),
        lambda values: values | {},
        lambda values: values.copy(),
        lambda values: list(values.items()),
        lambda values: next(iter(values)),
        lambda values: values.pop("a", 1),
        lambda values: values.get("a"),
        lambda values: values["a"],
        lambda values: "a" in values and values["a"],
        lambda values: json.dumps(values),
        lambda values: copy.copy(values)["a"],
    ],
)
def test_every_way_of_reading_a_value_is_noticed(read: Any) -> None:
    names: set[str] = set()
    read(AccessRecorder({"a": 1}, names))
    assert names == {"a"}
    assert AccessRecorder({"a": 1}, names) == {"a": 1}


def test_other_names_are_not_noted() -> None:
    names: set[str] = set()
    assert AccessRecorder({"a": 1, "b": 2}, names)["a"] == 1
    assert names == {"a"}
