"""Ctrl-C and SIGTERM end a script in one line, and the same command continues."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hf_rlsearch
from hf_rlsearch.trainer.session.interrupts import interrupts_in_one_line

CODE = """
import os
import signal
import sys

sys.path.insert(0, {root!r})
from transformers import Trainer, TrainerCallback

from tests.trainer.conftest import Rows, rates, tiny_arguments, tiny_model

signal.signal(signal.SIGINT, signal.default_int_handler)


class Stop(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if "run-2" in args.output_dir and {stops}:
            os.kill(os.getpid(), signal.{name})


trainer = Trainer(
    args=tiny_arguments("out", disable_tqdm=False),
    model_init=lambda: tiny_model(),
    train_dataset=Rows(64, 0),
    eval_dataset=Rows(32, 1),
    callbacks=[Stop()],
)
trainer.hyperparameter_search(rates, backend="rl", n_trials=4)
"""


def start(folder: Path, name: str, *, stops: bool) -> subprocess.CompletedProcess[str]:
    script = folder / "train.py"
    script.write_text(CODE.format(root=str(Path(__file__).parents[3]), name=name, stops=stops))
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, script], cwd=folder, env=own, text=True, capture_output=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_script_says_one_line_and_continues(tmp_path: Path, name: str, code: int) -> None:
    done = start(tmp_path, name, stops=True)
    assert done.returncode == code, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Interrupted after 2 of 4 trials, best ")
    assert last.endswith(". The same command continues.")
    assert "Traceback" not in done.stderr
    again = start(tmp_path, name, stops=False)
    assert again.returncode == 0, again.stderr
    lines = again.stderr.splitlines()
    assert sum(line.startswith("Trial 2 ") for line in lines) == 2  # was interrupted, and its result
    assert not any(line.startswith(("Trial 0 ", "Trial 1 ")) for line in lines)


def test_an_interrupted_setup_says_one_line(
    make_trainer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def hp_space(trial: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        hf_rlsearch.search(make_trainer(disable_tqdm=False), hp_space, n_trials=2)
    assert capsys.readouterr().err == "Interrupted before the first trial.\n"
    assert caught.value._render_traceback_() == ["Interrupted before the first trial."]  # type: ignore[attr-defined]
    pickle.dumps(caught.value)


def test_a_prompt_and_a_hook_of_the_user_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, value, trace: called.append(kind))
    with pytest.raises(KeyboardInterrupt) as caught, interrupts_in_one_line(lambda: "a line"):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit, match="130"):
        sys.excepthook(KeyboardInterrupt, caught.value, None)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    sys.excepthook(KeyboardInterrupt, caught.value, None)
    sys.excepthook(ValueError, ValueError(), None)
    assert called == [KeyboardInterrupt, KeyboardInterrupt, ValueError]


def test_a_line_that_cannot_be_said_hides_no_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_in_one_line(lambda: str(1 / 0)):
        raise KeyboardInterrupt
