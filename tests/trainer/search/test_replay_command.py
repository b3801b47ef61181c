"""``hf-rlsearch replay --trainer``: a trial of a search, trained again by the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from hf_rlsearch.cli import main
from tests.trainer.conftest import run

MakeTrainer = Callable[..., Trainer]


def test_a_replay_is_equal_and_keeps_the_checkpoints_of_the_user(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With save_total_limit a training in output_dir would rotate away what is there."""
    args: dict[str, Any] = {"save_strategy": "epoch", "save_total_limit": 1}
    result = run(make_trainer(**args), "rl", n_trials=2, baseline=True).run_summary
    mine = Path(result.output_dir, "checkpoint-1")
    mine.mkdir()
    for number, made in (("0", lambda: make_trainer(**args)), ("1", make_trainer(**args))):
        monkeypatch.setattr("hf_rlsearch.cli.studies.load_object", lambda target, made=made: made)
        assert (
            main(["replay", str(Path(result.output_dir, "hf_rlsearch.db")), number, "--trainer", "mine.py:make"]) == 0
        )
        assert "The replay is equal to the trial." in capsys.readouterr().out
    assert mine.is_dir()
    assert not list(Path(result.output_dir).glob("checkpoint-[2-9]*"))
