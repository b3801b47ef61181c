"""Fuzzed searches through the Trainer: all trials are made, recorded as trained, and found again by the same script.

``make fuzz`` runs 120; a single one is ``pytest tests/fuzz -k "test_a_fuzzed_search[17]" --searches 18``.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.searches import Script, failures

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.filterwarnings("ignore::UserWarning")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each seed."""
    metafunc.parametrize("seed", range(metafunc.config.getoption("--searches")))


def searched(trial: Any) -> dict[str, Any]:
    """The training arguments that a trial was to set, as its arguments have them."""
    values, arguments = trial.user_attrs["rl:values"], trial.user_attrs["rl:arguments"]
    return {name: (value, arguments[name]) for name, value in values.items() if name in arguments}


@pytest.mark.timeout(300)
def test_a_fuzzed_search(seed: int, tmp_path: Path) -> None:
    script = Script(seed, tmp_path)
    trainer, best = script.run()
    result = best.run_summary
    own = [trial for trial in result.trials if trial.user_attrs["rl:role"] != "confirm"]
    assert len(own) == script.n_trials or result.stopped_by in ("budget", "space")
    assert all(trial.state.is_finished() for trial in result.trials)
    assert failures(result) == []
    for trial in result.trials:
        for name, (value, trained) in searched(trial).items():
            assert float(trained) == pytest.approx(float(value)) if _is_number(value) else trained == value, name
    assert trainer.evaluate()[result.metric] == pytest.approx(best.objective, rel=1e-5)
    _, again = script.run()
    assert (again.run_id, again.objective, again.hyperparameters) == (best.run_id, best.objective, best.hyperparameters)
    assert len(again.run_summary.trials) == len(result.trials)


def _is_number(value: Any) -> bool:
    try:
        return float(value) is not None
    except (TypeError, ValueError):
        return False
