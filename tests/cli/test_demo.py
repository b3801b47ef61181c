"""The demonstration is a real search: two trials of it, and what it prints about them."""

from pathlib import Path

import pytest
import transformers

from hf_rlsearch.cli import demo, main


@pytest.fixture(autouse=True)
def _restore_logging() -> None:
    """The demo is a program and silences transformers and datasets for its process; here it shares one."""
    import datasets

    level = transformers.logging.get_verbosity()
    yield
    transformers.logging.set_verbosity(level)
    transformers.logging.enable_progress_bar()
    datasets.enable_progress_bars()


def test_tiny_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--n-trials", "2", "--n-train", "24", "--n-validation", "12"]
    assert main(["demo", *sizes, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    report = tmp_path / "report.html"
    assert str(report) in printed.out
    assert "<html" in report.read_text()
    assert "gain over trial 0 (the defaults): +0." in printed.out
    lines = [line for line in printed.err.splitlines() if "Trial " in line]
    assert len(lines) == 2
    assert "baseline" in lines[0]


def test_defaults_are_the_ones_of_transformers(tmp_path: Path) -> None:
    trainer = demo.make_trainer(n_train=8, n_validation=8, output=tmp_path)
    plain = transformers.TrainingArguments(output_dir=str(tmp_path))
    for name in ("learning_rate", "per_device_train_batch_size", "num_train_epochs", "warmup_steps", "weight_decay"):
        assert getattr(trainer.args, name) == getattr(plain, name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_search_beats_the_defaults(tmp_path: Path) -> None:
    """What the demonstration claims, at its own size: an accuracy at least a tenth above trial 0."""
    assert demo.search(demo.make_trainer(output=tmp_path), n_trials=10).gain > 0.1
