"""Two gloo processes: both ranks leave a trial together and return the same result."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launch import launch, seen

SCENARIOS = [
    "plain",
    "scoped",
    "generated",
    "prune",
    "raise_on_all",
    "oom_on_all",
    "end_raises",
    "nan",
    "space_raises",
    "objective_raises",
    "timeout",
    "stop",
    "target",
    "patience",
    "auto",
    "utility",
    "constraints",
    "wrong_space",
    "too_many_failures",
    "catch_nothing",
    "confirm",
    "initial",
]
pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scenarios in one launch: most of the time goes into starting Python twice."""
    path = tmp_path_factory.mktemp("ranks")
    run = launch(path, *SCENARIOS, limit=1200)
    assert run.returncode == 0, run.stdout[-6000:]
    return path


def both(folder: Path, scenario: str) -> dict[str, Any]:
    first, second = seen(folder, scenario)
    assert first == second
    return first


def test_plain(folder: Path) -> None:
    found = both(folder, "plain")
    assert found["states"] == ["COMPLETE"] * 3
    assert found["evaluated"] == found["best"][1]


def test_hyperparameters_of_the_model_are_known_on_all_ranks(folder: Path) -> None:
    found = both(folder, "stop")
    assert found["dropout"] == 0.1


def test_scoped_names_reach_the_model_on_all_ranks(folder: Path) -> None:
    found = both(folder, "scoped")
    assert found["states"] == ["COMPLETE"] * 3
    assert found["dropout"] == {"0": 0.1, "1": 0.2, "2": 0.4}[found["best"][0]]
    assert found["evaluated"] == found["best"][1]


def test_all_ranks_generate_with_the_settings_of_a_trial(folder: Path) -> None:
    found = both(folder, "generated")
    assert found["states"] == ["COMPLETE"] * 3
    assert found["values"] == [1, 4, 2]
    assert found["best"][1] == found["beams"] == 4


def test_given_configurations_are_trained_on_all_ranks(folder: Path) -> None:
    found = both(folder, "initial")
    assert found["states"] == ["COMPLETE"] * 3
    assert [params["learning_rate"] for params in found["params"][1:]] == [3.3e-4, 7.7e-5]
    assert [params["dropout"] for params in found["params"][1:]] == [0.25, 0.2]
    assert found["evaluated"] == found["best"][1]


def test_a_pruned_trial_ends_on_all_ranks(folder: Path) -> None:
    found = both(folder, "prune")
    # Trial 0, the user's own configuration, is never pruned.
    assert found["states"] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert found["steps"] == [8, 4, 4]


def test_an_exception_on_all_ranks_fails_the_trial_and_the_search_continues(folder: Path) -> None:
    found = both(folder, "raise_on_all")
    assert found["states"] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found["failures"][1] == "ValueError: boom"
    assert found["evaluated"] == found["best"][1]


def test_out_of_memory_on_all_ranks_fails_the_trial_and_the_search_continues(folder: Path) -> None:
    found = both(folder, "oom_on_all")
    assert found["states"] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found["kinds"][1] == "oom"


def test_an_exception_on_one_rank_after_the_last_collective(folder: Path) -> None:
    assert both(folder, "end_raises")["failures"] == [None, "ValueError: boom", None]


def test_a_diverged_trial_ends_on_all_ranks(folder: Path) -> None:
    found = both(folder, "nan")
    assert found["states"] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found["kinds"][1] == "nan"
    assert found["steps"][1] == 4


def test_hp_space_raising(folder: Path) -> None:
    assert both(folder, "space_raises")["failures"] == [None, "LookupError: boom", None]


def test_compute_objective_raising(folder: Path) -> None:
    found = both(folder, "objective_raises")
    assert found["failures"] == [None, "LookupError: boom", None]
    assert found["steps"][1] == 4


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("timeout", "timeout"),
        ("stop", "study.stop"),
        ("target", "target"),
        ("patience", "patience"),
        ("auto", "patience"),
        ("utility", "min_gain_per_hour"),
    ],
)
def test_a_search_ends_early_on_all_ranks(folder: Path, scenario: str, reason: str) -> None:
    found = both(folder, scenario)
    assert found["stopped_by"] == reason
    assert len(found["states"]) < 9


@pytest.mark.parametrize(
    ("scenario", "error", "text"),
    [
        ("wrong_space", "SearchSpaceError", "Did you mean 'learning_rate'"),
        ("too_many_failures", "SearchFailed", "ValueError: boom"),
    ],
)
def test_errors_are_raised_on_all_ranks(folder: Path, scenario: str, error: str, text: str) -> None:
    found = both(folder, scenario)
    assert found["error"] == error
    assert text in found["text"]
    assert found["changed"] == []


def test_an_exception_that_is_not_caught_ends_all_ranks(folder: Path) -> None:
    found = seen(folder, "catch_nothing")
    assert [each["error"] for each in found] == ["ValueError", "SearchFailed"]
    assert [each["changed"] for each in found] == [[], []]


def test_a_replay_is_equal_to_the_last_bit(folder: Path) -> None:
    found = both(folder, "plain")
    assert found["replayed"] == found["values"][1]


def test_models_of_failed_trials_are_freed_on_all_ranks(folder: Path) -> None:
    """The Trainer of each scenario is gone when the next begins, and what it failed with holds nothing."""
    alive = {name: both(folder, name)["models"] for name in ("plain", "raise_on_all", "oom_on_all", "nan")}
    assert len(set(alive.values())) == 1, alive


def test_the_best_feasible_trial_on_all_ranks(folder: Path) -> None:
    """The widest of three models has too many parameters; time is that of the slower rank."""
    found = both(folder, "constraints")
    assert found["states"] == ["COMPLETE"] * 3
    assert found["best"][0] == min(("1", "2"), key=lambda number: found["values"][int(number)])
    limit = found["measured"][1]["trainable_params"]
    assert [each["trainable_params"] > limit for each in found["measured"]] == [True, False, False]
    assert all(each["seconds"] > 0 for each in found["measured"])


def test_confirmations_on_two_ranks(folder: Path) -> None:
    found = both(folder, "confirm")
    assert sum(found["confirmed"]) == len(found["states"]) - 2
    assert set(found["states"]) == {"COMPLETE"}


def test_the_objective_is_what_evaluate_gives(folder: Path) -> None:
    """That is the loss times the number of processes for some models, unless the arguments say otherwise."""
    found, single = both(folder, "plain"), both(folder, "target")
    assert found["evaluated"] == found["best"][1]
    times = found["evaluated"] / found["by_hand"]
    assert min(abs(times - 1), abs(times - 2)) < 1e-4
    assert single["evaluated"] == pytest.approx(single["by_hand"], rel=1e-4)


@pytest.mark.slow
def test_a_killed_rank_and_a_restart(tmp_path: Path) -> None:
    run = launch(tmp_path, "kill_on_rank_1", restarts=1)
    assert run.returncode == 0, run.stdout[-6000:]
    found = both(tmp_path, "kill_on_rank_1")
    assert found["states"] == ["COMPLETE"] * 3
    assert found["evaluated"] == found["best"][1]


@pytest.mark.slow
def test_torchrun_restarts_after_an_exception_on_one_rank(tmp_path: Path) -> None:
    """The trial is not tried again: it has failed with the reason of the rank that raised."""
    run = launch(tmp_path, "raise_on_rank_1", restarts=1)
    assert run.returncode == 0, run.stdout[-6000:]
    assert "Trial 1 failed on rank 1 with ValueError: boom" in run.stdout
    found = both(tmp_path, "raise_on_rank_1")
    assert found["states"] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found["failures"][1] == "ValueError: boom"
    assert found["evaluated"] == found["best"][1]


@pytest.mark.slow
def test_a_hanging_rank_ends_the_job_and_the_same_command_resumes(tmp_path: Path) -> None:
    run = launch(tmp_path, "hang_on_rank_1", group_seconds=15)
    assert run.returncode != 0
    assert "start the same command again" in run.stdout
    run = launch(tmp_path, "hang_on_rank_1", group_seconds=15)
    assert run.returncode == 0, run.stdout[-6000:]
    assert len(both(tmp_path, "hang_on_rank_1")["states"]) == 3
