"""What the built-in optuna backend does on two gloo processes; `test_two_ranks.py` has the same for ours.

No assertion is expected to fail here: these are the defects. Should a new transformers mend one, its test says so.
"""

from pathlib import Path
from typing import Any

import pytest
import transformers
from optuna.trial import TrialState
from packaging.version import Version

from tests.distributed.forked import outcomes
from tests.distributed.optuna_ranks import search
from tests.trainer.conftest import states, stored

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.slow,
    pytest.mark.skipif(Version(transformers.__version__) < Version("5.23"), reason="as transformers 5.23 does it"),
]
COMPLETE, FAIL, RUNNING = TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING


def seen(scenario: str, folder: Path) -> tuple[Any, Any, list[TrialState]]:
    """What the ranks come to, and the states of the trials."""
    first, second = outcomes(search, scenario, folder)
    return first, second, states(stored(f"sqlite:///{folder / 'studies.db'}"))


def test_a_pruned_trial_leaves_the_ranks_out_of_step(tmp_path: Path) -> None:
    """Rank 0 starts the next trial, rank 1 the next step of the pruned trial: no rank gets a result."""
    first, second, _ = seen("prune", tmp_path)
    assert "error" in first or "error" in second
    assert "imed out" in str([first, second])


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_on_one_rank_ends_the_search_on_both(rank: int, tmp_path: Path) -> None:
    found = outcomes(search, f"raise_on_rank_{rank}", tmp_path)
    assert found[rank] == {"error": "ValueError", "text": "boom"}
    assert found[1 - rank]["error"] == "RuntimeError"
    assert "by peer" in found[1 - rank]["text"]


def test_a_caught_exception_on_rank_0_sends_wrong_data_to_the_other(tmp_path: Path) -> None:
    """Rank 1 takes what is meant for the next trial for its own gradients or inputs; trials are left to rank 0."""
    first, second, trials = seen("raise_caught_on_rank_0", tmp_path)
    assert second["error"] == "RuntimeError"
    assert first.get("returned") is not None or "error" in first
    assert trials[:2] == [COMPLETE, FAIL]


def test_a_caught_exception_on_all_ranks_is_caught_on_rank_0_only(tmp_path: Path) -> None:
    _, second, trials = seen("raise_caught_on_all", tmp_path)
    assert second == {"error": "ValueError", "text": "boom"}
    assert trials == [COMPLETE, FAIL, FAIL]


def test_out_of_memory_on_one_rank_ends_the_search_on_both(tmp_path: Path) -> None:
    first, second, _ = seen("oom_on_rank_1", tmp_path)
    assert first["error"] == "RuntimeError"
    assert second["error"] == "OutOfMemoryError"


def test_a_loss_that_is_no_number_is_found_after_the_whole_training(tmp_path: Path) -> None:
    """No rank raises: the trial is trained to its end and has failed then."""
    first, second, trials = seen("nan", tmp_path)
    assert first["returned"] == "0"
    assert "error" not in second
    assert trials == [COMPLETE, FAIL, COMPLETE]
    assert sorted(stored(f"sqlite:///{tmp_path / 'studies.db'}").trials[1].intermediate_values) == [4, 8]


def test_hp_space_raising_ends_the_search(tmp_path: Path) -> None:
    first, second, _ = seen("space_raises", tmp_path)
    assert (first["error"], second["error"]) == ("LookupError", "RuntimeError")


def test_compute_objective_raising_ends_the_search(tmp_path: Path) -> None:
    first, second, _ = seen("objective_raises", tmp_path)
    assert (first["error"], second["error"]) == ("LookupError", "LookupError")


def test_a_wrong_argument_is_reported_on_rank_0_only(tmp_path: Path) -> None:
    first, second = outcomes(search, "wrong_argument", tmp_path)
    assert (first["error"], second["error"]) == ("TypeError", "RuntimeError")


@pytest.mark.parametrize("scenario", ["timeout", "stop"])
def test_a_search_that_ends_early_ends_rank_1_with_an_error(scenario: str, tmp_path: Path) -> None:
    first, second, _ = seen(scenario, tmp_path)
    assert first["returned"] == "0"
    assert second["error"] == "RuntimeError"


def test_hyperparameters_of_the_model_are_not_known_on_rank_1(tmp_path: Path) -> None:
    _, second, _ = seen("model_parameter", tmp_path)
    assert second["error"] == "ValueError"
    assert "'dropout' is not found" in second["text"]


def test_only_rank_0_gets_a_result_and_only_rank_1_keeps_a_model(tmp_path: Path) -> None:
    first, second, trials = seen("plain", tmp_path)
    assert trials == [COMPLETE] * 3
    assert (first["returned"] is None, second["returned"] is None) == (False, True)
    assert (first["model"], second["model"]) == (False, True)


@pytest.mark.parametrize("what", ["kill", "hang"])
def test_after_a_lost_rank_the_same_command_begins_again(what: str, tmp_path: Path) -> None:
    """The job ends, by the connection or by the time limit; the trials that the same command runs come on top."""
    first, second, trials = seen(f"{what}_on_rank_1", tmp_path)
    assert (first["error"], second) == ("RuntimeError", {"killed": True})
    assert trials == [COMPLETE, FAIL]
    _, _, trials = seen(f"{what}_on_rank_1", tmp_path)
    assert len(trials) == 5
