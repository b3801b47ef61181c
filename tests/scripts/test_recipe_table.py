"""The script that renews the table of recipes puts in what was printed, and changes nothing else."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 8


@pytest.fixture
def script() -> ModuleType:
    return importlib.import_module("recipe_table")


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("best score: 0.6400 in run 3, 76 s, gain over the baseline (trial 0): 0.3400\n", ("0.300", "0.640")),
        (
            "x\nbest loss: 2.0000 in run 1, 5 s, gain over the baseline (trial 0): 1.0000\nperplexity: 7.3891\n",
            ("3.000 (20.1)", "2.000 (7.4)"),
        ),
        ("test error, trial 0: 15380.1234\ntest error, found by the search: 15.5900\n", ("15,380.12", "15.59")),
    ],
)
def test_what_a_recipe_printed(script: ModuleType, printed: str, expected: tuple[str, str]) -> None:
    assert script.results(printed) == expected


def test_output_without_a_result_is_an_error(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="No result in the output:\nnothing"):
        script.results("nothing")


def test_every_recipe_has_a_row_that_can_be_run(script: ModuleType) -> None:
    lines = (ROOT / "docs" / "background" / "recipes.md").read_text().splitlines()
    rows = [match for line in lines if (match := script._ROW.match(line))]
    assert sorted(row["recipe"] for row in rows) == sorted(
        {path.stem for path in (ROOT / "recipes").glob("*.py")} - {"common"}
    )
    for row in rows:
        assert row["command"].startswith(f"{row['recipe']}.py")


def test_a_row_keeps_all_but_its_results(script: ModuleType) -> None:
    line = "| `a.py` | task | accuracy | `a.py --offline` | 0.1 | 0.2 | 3 s | 4 s |"
    assert script.renewed(line, ("0.5", "0.6", "7 s", "8 s")) == (
        "| `a.py` | task | accuracy | `a.py --offline` | 0.5 | 0.6 | 7 s | 8 s |"
    )
    assert script.renewed(line, ("0.1", "0.2", "3 s", "4 s")) == line
    assert len(line.strip("|").split("|")) == COLUMNS


@pytest.mark.slow
def test_a_table_is_renewed_by_a_real_run(script: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    table = tmp_path / "README.md"
    name = "reparameterized_regression"
    rows = [f"| `{name}.py` | lines | error | `{name}.py --smoke` | - | - | - | - |", "| `b.py` | x | y | `b.py` |"]
    table.write_text("\n".join(["# Title", "", *rows]) + "\n")
    script.main(["--only", name, "--table", str(table)])
    first, *rest = table.read_text().splitlines()[2:]
    assert rest == rows[1:]
    trial_0, best = (float(cell.replace(",", "")) for cell in first.split(" | ")[4:6])
    assert best <= trial_0
