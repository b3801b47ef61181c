"""What ``fidelity="data"`` cannot work with is told before the first training; how rows are drawn."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import Trainer

from hf_rlsearch import ArgumentsError
from hf_rlsearch.backend.fidelity import part_of
from hf_rlsearch.backend.settings import Settings
from tests.backend.conftest import Rows, rates, run
from tests.backend.test_bad_input import NeverTrains

MakeTrainer = Callable[..., Trainer]


def test_more_rows_include_fewer() -> None:
    parts = [set(part_of(Rows(50, 0), rows, seed=3).indices) for rows in (5, 16, 50)]
    assert parts[0] < parts[1] < parts[2]
    assert [len(part) for part in parts] == [5, 16, 50]
    assert set(part_of(Rows(50, 0), 5, seed=4).indices) != parts[0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fidelity": "rows"}, "fidelity='rows' given, expected 'steps'.*'data'"),
        ({"fidelity": "data", "pruner": None}, "pruner=None, which stops nothing"),
        ({"fidelity": "data", "direction": ["minimize", "maximize"]}, "list of directions"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentsError, match=match):
        Settings(hp_space=rates, **options)


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Rows without a length."""

    def __iter__(self) -> Iterator[Any]:
        rows = Rows(64, 0)
        return (rows[i] for i in range(64))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (Stream(), "given Stream"),
        ({"one": Rows(64, 0), "other": Rows(64, 1)}, "given dict"),
        (Rows(35, 0), "are 3 of 35: less than one step of 4.*at least 36 rows"),
    ],
)
def test_data_that_have_no_parts(make_trainer: MakeTrainer, data: Any, match: str) -> None:
    trainer = make_trainer(cls=NeverTrains, max_steps=5, per_device_train_batch_size=4)
    trainer.train_dataset = data
    with pytest.raises(ArgumentsError, match=match):
        run(trainer, "rl", fidelity="data", pruner="rl")
