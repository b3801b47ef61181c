"""What a function of the user's changes is found by name, undone and repeated; its records are told apart."""

import functools
import os
import types
from typing import Any

import numpy as np
import pytest

from hf_rlsearch.space import record
from hf_rlsearch.space.side_effects import Watch

settings = {"weight": 1.0}
rate = 1.0


class Collator:
    """Holds a number, a list, and a table of other objects."""

    def __init__(self) -> None:
        self.probability, self.names, self.inner = 0.15, ["a"], {"x": types.SimpleNamespace(depth=1)}
        self.weights = np.ones(3)


def helper(value: float) -> None:
    global rate  # noqa: PLW0603
    rate = value


@pytest.mark.parametrize("raises", [False, True])
def test_all_that_changes_is_found_undone_and_repeated(raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_RLSEARCH_TEST", "before")
    trainer = types.SimpleNamespace(gamma=2.0, collator=Collator(), callbacks=[])
    level, records, by_number = 1, [], {}

    def hp_space(trial: Any) -> dict[str, Any]:
        nonlocal level
        level = 2
        records.append(trial)
        by_number[3] = "record"
        trainer.gamma, trainer.extra = 3.0, 4.0
        trainer.collator.probability, trainer.collator.weights[1] = 0.5, 7.0
        trainer.collator.inner["x"].depth = 9
        trainer.callbacks.append("callback")
        settings["weight"], os.environ["HF_RLSEARCH_TEST"] = 5.0, "after"
        helper(0.1)
        if raises:
            raise RuntimeError
        return {}

    watch = Watch(hp_space, objects={"trainer": trainer})
    assert watch.changes() == []
    try:
        hp_space(None)
    except RuntimeError:
        assert raises
    changes = watch.changes()
    assert {change.name for change in changes if not change.is_record} == {
        "trainer.gamma",
        "trainer.extra",
        "trainer.collator.probability",
        "trainer.collator.weights",
        "trainer.collator.inner['x'].depth",
        "trainer.callbacks",
        "level",
        "settings['weight']",
        "rate",
        "os.environ['HF_RLSEARCH_TEST']",
    }
    assert {change.name for change in changes if change.is_record} == {"records", "by_number[3]"}

    def state() -> list[Any]:
        collator = trainer.collator
        held = [collator.probability, collator.weights.tolist(), collator.inner["x"].depth, trainer.callbacks]
        return [trainer.gamma, hasattr(trainer, "extra"), *held, level, settings["weight"], rate, len(records)]

    after = [str(part) for part in state()]
    for change in changes:
        change.undo()
    assert state() == [2.0, False, 0.15, [1.0, 1.0, 1.0], 1, [], 1, 1.0, 1.0, 0]
    assert (watch.changes(), os.environ["HF_RLSEARCH_TEST"], by_number) == ([], "before", {})
    for change in changes:
        change.redo()
    assert [str(part) for part in state()] == after
    for change in changes:
        change.reversed().redo()
    assert watch.changes() == []


def test_caches_and_imports_are_no_changes() -> None:
    class Lazy:
        @functools.cached_property
        def answer(self) -> int:
            self._cached = 1
            return 1

    lazy = Lazy()

    def hp_space(trial: Any) -> dict[str, Any]:
        global json  # noqa: PLW0603
        import json

        return {"x": lazy.answer}

    watch = Watch(hp_space)
    hp_space(None)
    assert watch.changes() == []


def test_each_dry_run_can_be_followed_by_a_function_even_if_it_raises() -> None:
    runs = []

    def hp_space(trial: Any) -> dict[str, Any]:
        raise ValueError

    with pytest.raises(Exception, match="hp_space raised"):
        record(hp_space, after_run=lambda: runs.append(1))
    assert runs == [1]
