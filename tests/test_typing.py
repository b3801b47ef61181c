"""A type checker, and with it an editor, knows the arguments of a search and what a search returns."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import hf_rlsearch
from optuna.samplers import TPESampler
from transformers import Trainer

def main(trainer: Trainer) -> None:
    result = hf_rlsearch.search(trainer, sampler=TPESampler(), n_trials=None, timeout=60, metric="accuracy")
    reveal_type(result)
    reveal_type(result.best_trial)
    reveal_type(result.best_value)
    hf_rlsearch.search(trainer, sampler=3)
    hf_rlsearch.search(trainer, n_trails=3)
"""


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_arguments_and_results_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api")
    monkeypatch.chdir(ROOT)  # its settings and its cache
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    lines = [line.partition("script.py:")[2] for line in api.run([str(script)])[0].splitlines()]
    revealed = [line.partition('"')[2].removesuffix('"').rpartition(".")[2] for line in lines if "Revealed" in line]
    assert revealed == ["SearchResult", "FrozenTrial | None", "float | None"]
    errors = [line for line in lines if " error: " in line]
    assert errors[0].startswith('11: error: Argument "sampler" to "search" has incompatible type "int"')
    assert errors[1].startswith('12: error: Unexpected keyword argument "n_trails" for "search"; did you mean')
    assert len(errors) == 2


def test_the_types_are_shipped() -> None:
    import hf_rlsearch

    assert (Path(hf_rlsearch.__file__).parent / "py.typed").is_file()
