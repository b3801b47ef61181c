"""The README's code runs as it stands and prints what the README says."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.helpers.processes import run_code

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


def blocks(language: str) -> list[str]:
    """The code blocks of a language, in the order of the text."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def shape(text: str) -> str:
    """`text` with every number replaced: what the README promises is the form, the digits depend on the machine."""
    return re.sub(NUMBER, "#", text.strip())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    shown = run_code(blocks("python")[1], tmp_path, with_errors=True, **environment)
    said = [line for line in blocks("text")[0].splitlines() if not line.startswith("Trial ")]
    printed = "\n".join(shown.splitlines()[-len(said) :])
    assert shape(printed) == shape("\n".join(said))
    assert shown.count("eval_accuracy: ") == 1
    best = float(re.findall(rf"eval_accuracy: ({NUMBER}) in trial", printed)[0])
    baseline, gain = (float(x) for x in re.findall(rf"baseline: ({NUMBER}), gain ({NUMBER})", printed)[0])
    assert gain > 0
    assert best == pytest.approx(baseline + gain, abs=2e-4)
    assert (tmp_path / "runs/readme/report.html").is_file()


def test_what_the_agent_does_is_said_alike_everywhere() -> None:
    """PPO trains the stop rule; what is tried next is chosen by predictions. The package must not promise more."""
    import hf_rlsearch

    sentence = (
        "meta-trained predictors choose the next trial by expected improvement, and a stop rule trained with PPO "
        "decides whether a running trial continues"
    )
    description = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["description"]
    pages = [ROOT / "README.md", ROOT / "docs" / "README.md", ROOT / "docs" / "background" / "how_it_works.md"]
    for text in (description, hf_rlsearch.__doc__ or "", *(page.read_text() for page in pages)):
        assert sentence in " ".join(text.split()).replace("Meta-trained", "meta-trained")


def test_files_and_commands_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    makefile = (ROOT / "Makefile").read_text()
    assert [t for t in re.findall(r"`make ([\w-]+)`", TEXT) if f"\n{t}:" not in makefile] == []


def test_versions_are_those_of_the_constraints() -> None:
    for column, name in ((1, "constraints-oldest.txt"), (2, "constraints.txt")):
        pins = dict(line.split("==") for line in (ROOT / name).read_text().splitlines() if "==" in line)
        table = re.findall(
            r"^\| (transformers|optuna|stable-baselines3) \| (\S+) \| (\S+) \|$", TEXT, flags=re.MULTILINE
        )
        assert {row[0]: row[column] for row in table} == {row[0]: pins[row[0]] for row in table} != {}


def test_the_readme_is_short_and_begins_with_what_to_do() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 120
    assert lines.index("```bash") < lines.index("```python") < 15
    assert "**When not to use it:**" in TEXT
