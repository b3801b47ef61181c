"""Recorded tables: the right training serves a configuration, and its regret is on the right scale."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_rlsearch.errors import ArgumentsError
from recorded_tasks import RecordedTask, load_tasks

REAL = Path(__file__).resolve().parents[3] / "shared" / "bench" / "tables"

HYPERPARAMETERS = [
    {"name": "learning_rate", "levels": [1e-5, 1e-4, 1e-3], "ordered": True, "log": True},
    {"name": "optimizer", "levels": ["adam", "sgd", "lion"], "ordered": False, "log": False},
]
CSV = """hp:learning_rate,hp:optimizer,objective,curve
1e-05,adam,1.0,3 2 1
0.0001,adam,2.0,4 2
0.001,adam,5.0,9 8 7 5
0.0001,sgd,3.0,5 3
"""


def write(folder: Path, csv: str = CSV, *, packed: bool = False, **changes: Any) -> Path:
    name = "toy.csv.gz" if packed else "toy.csv"
    data = csv.encode()
    (folder / name).write_bytes(gzip.compress(data) if packed else data)
    meta = {"path": name, "family": "toys", "direction": "minimize", "hyperparameters": HYPERPARAMETERS, **changes}
    (folder / "tasks.json").write_text(json.dumps({"toy": {k: v for k, v in meta.items() if v is not None}}))
    return folder


def toy(folder: Path, csv: str = CSV, **changes: Any) -> RecordedTask:
    return load_tasks(write(folder, csv, **changes))[0]


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_is_read_as_written(tmp_path: Path, packed: bool) -> None:
    task = toy(tmp_path, packed=packed)
    assert task.name == "toy"
    assert task.family == "toys"
    assert not task.maximize
    assert task.n_levels.tolist() == [3, 3]
    assert task.value([2, 0]) == 5.0
    assert task.curve([2, 0]).tolist() == [9, 8, 7, 5]
    assert task.params([1, 2]) == {"learning_rate": 1e-4, "optimizer": "lion"}
    assert (task.best, task.median) == (1.0, 2.5)
    assert task.full_training == 11 / 4
    assert task.max_resource == 3


def test_facts_have_the_names_that_the_sampler_knows(tmp_path: Path) -> None:
    facts = {
        "n_parameters": 10_000,
        "trainable_share": 0.1,
        "n_train": 1000,
        "n_eval": 100,
        "n_classes": None,
        "planned_steps": 100,
        "untrained": {"loss": 0.0, "f1": 0.5},
        "from_scratch": True,
        "seconds_per_step": 0.1,
    }
    task = toy(tmp_path, metric="loss", lora={"r": 8}, facts=facts)
    counts = {"n_parameters": 4, "trainable": -1, "n_examples": 3, "n_evaluated": 2, "n_steps": 2}
    assert task.facts == {**counts, "lora": 1, "from_scratch": 1, "untrained": 0}
    assert toy(tmp_path, metric="loss").facts == {}
    assert toy(tmp_path, facts={"n_train": 1000}).facts == {"n_examples": 3, "lora": 0}


@pytest.mark.parametrize(
    ("levels", "value"),
    [
        ((0, 1), 3.0),  # half a step of the learning rate is nearer than another optimizer
        ((2, 1), 3.0),
        ((1, 2), 2.0),  # names have no distance: adam and sgd are equally far, the first line counts
        ((2, 2), 5.0),
    ],
)
def test_the_nearest_training_serves_what_was_never_trained(
    tmp_path: Path, levels: tuple[int, int], value: float
) -> None:
    assert toy(tmp_path).value(levels) == value


def test_regret_is_nought_for_the_best_and_one_for_the_median(tmp_path: Path) -> None:
    np.testing.assert_allclose(toy(tmp_path).regret(np.array([1.0, 2.5, 4.0])), [0, 1, 2])
    maximised = toy(tmp_path, direction="maximize")
    np.testing.assert_allclose(maximised.regret(np.array([5.0, 2.5, 0.0])), [0, 1, 2])
    # A checkpoint in the middle of a training may be better than any recorded end.
    np.testing.assert_allclose(maximised.regret(7.5), -1)


def test_a_table_of_equals_has_no_scale(tmp_path: Path) -> None:
    task = toy(tmp_path, "hp:learning_rate,hp:optimizer,objective\n1e-05,adam,1\n0.001,adam,1\n0.0001,adam,2\n")
    assert task.regret(np.array([1.0, 2.0])).tolist() == [0.0, np.inf]


def test_without_curves(tmp_path: Path) -> None:
    task = toy(tmp_path, CSV.replace(",curve", ",other"))
    assert not task.has_curves
    assert task.full_training == 1.0
    with pytest.raises(ArgumentsError, match="'toy' has no learning curves"):
        task.curve([0, 0])


@pytest.mark.parametrize(
    ("direction", "metric", "untrained", "above"),
    [
        ("minimize", "loss", 3.0, [True, True, False, False]),
        ("maximize", "loss", 3.0, [False, False, True, False]),
        ("minimize", "accuracy", 3.0, [False] * 4),  # of that metric no untrained score is known
    ],
)
def test_what_is_above_chance_is_better_than_the_untrained_model(
    tmp_path: Path, direction: str, metric: str, untrained: float, above: list[bool]
) -> None:
    facts = {"n_train": 1000, "untrained": {"loss": untrained}}
    assert toy(tmp_path, direction=direction, metric=metric, facts=facts).above_chance.tolist() == above


def test_a_share_is_above_chance_by_two_standard_errors(tmp_path: Path) -> None:
    csv = "hp:learning_rate,hp:optimizer,objective\n1e-05,adam,0.55\n1e-05,sgd,0.7\n"
    facts = {"n_eval": 100, "untrained": {"accuracy": 0.5}}
    task = toy(tmp_path, csv, direction="maximize", metric="accuracy", facts=facts)
    assert task.above_chance.tolist() == [False, True]


def test_the_table_is_read_on_first_use(tmp_path: Path) -> None:
    task = toy(tmp_path, "hp:learning_rate,objective\n")
    assert task.n_levels.tolist() == [3, 3]
    with pytest.raises(ArgumentsError, match=r"toy\.csv"):
        task.value([0, 0])


def test_folders_of_folders_and_choices(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    write(tmp_path / "dev")
    assert [t.name for t in load_tasks(tmp_path, families=["toys"], names=["toy"])] == ["toy"]
    with pytest.raises(ArgumentsError, match=r"no families \['cars'\]; it has \['toys'\]"):
        load_tasks(tmp_path, families=["cars"])
    with pytest.raises(ArgumentsError, match=r"no tasks \['toi'\]"):
        load_tasks(tmp_path, names=["toi"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"path": "gone.csv"}, "not there"),
        ({"family": None}, "'family'"),
        ({"direction": "up"}, "'up': expected 'maximize'"),
        ({"path": None}, "not a list of recorded tasks"),
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentsError, match=text):
        load_tasks(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("csv", "text"),
    [
        (CSV.replace("0.001,adam", "0.002,adam"), "line 4"),
        (CSV.replace("2.0", "nan"), "not finite"),
        (CSV.splitlines()[0], "no trainings"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, csv: str, text: str) -> None:
    with pytest.raises(ArgumentsError, match=text):
        toy(tmp_path, csv).value([0, 0])


def test_bad_levels_and_empty_folders_are_refused(tmp_path: Path) -> None:
    for levels in ([0], [0, 3], [-1, 0]):
        with pytest.raises(ArgumentsError, match="one each of \\[3, 3\\] levels"):
            toy(tmp_path).value(levels)
    with pytest.raises(ArgumentsError, match=r"tasks\.json"):
        load_tasks(tmp_path / "none")


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason="the recorded tables are not beside this repository")
def test_real_tables() -> None:
    tasks = {t.name: t for t in load_tasks(REAL)}
    assert len({t.family for t in tasks.values()}) >= 4
    for name in ("steplaw_moe_Na590M_k1_D8B", "scratch_loss_so-en"):
        task = tasks[name]
        regret = task.regret(task.values)
        assert regret.min() == 0
        assert np.median(regret) == pytest.approx(1)
        assert task.row(task.n_levels - 1) < len(task.values)
    task = tasks["scratch_loss_so-en"]
    assert task.curve([0] * 6).min() == pytest.approx(task.value([0] * 6), abs=1e-3)
    assert task.max_resource == 18


def test_tables_for_one_look_are_read_only_where_they_are_named() -> None:
    folder = Path(__file__).parents[2] / "scripts" / "benchmarks" / "tables"
    hidden = {task.name for task in load_tasks(folder / "second_test")}
    assert hidden
    assert hidden.isdisjoint(task.name for task in load_tasks(folder))
