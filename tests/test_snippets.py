"""Every snippet of the documentation runs, in the order of its page; commands and options that it shows exist.

The pages are written for real models and twenty trials. Here the same text runs with two trials on a few rows: only
these numbers are changed. A snippet that cannot run here has a comment above it that says why.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import typer

from hf_rlsearch.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FIRST = DOCS / "tutorials" / "first_search.md"
# The log and the tables of benchmarks are records: nobody runs them.
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if not {"log", "benchmarks"} & set(page.relative_to(DOCS).parts)]
SNIPPET = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
NEEDS = {
    "first_search.md": "altair",
    "lora_and_gpt2.md": "peft",
    "translation.md": "sacrebleu",
    "trackers.md": "tensorboard",
    "report.md": "altair",
}
AT_MOST = {"n_trials": 2, "n_train": 24, "n_validation": 24, "budget": 1.5, "timeout": 3, "confirm": 1}


def snippets(text: str) -> list[str]:
    """The snippets of a page that run, in order."""
    return [code for reason, code in SNIPPET.findall(text) if not reason]


def smaller(code: str) -> str:
    """The same code with fewer trials and rows."""
    amount = re.compile(rf"\b({'|'.join(AT_MOST)})=([\d.]+)")
    return amount.sub(lambda found: f"{found[1]}={min(float(found[2]), AT_MOST[found[1]]):g}", code)


def setup() -> str:
    """What the first tutorial defines before it searches: the other pages use its Trainer, its space and its data."""
    return snippets(FIRST.read_text(encoding="utf-8"))[0].partition("\nbest = ")[0] + "\n"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# An index of the pages, what the recipes printed (tests/recipes runs these), and the lines on security.
WITHOUT_SNIPPET = ("docs/README.md", "docs/background/recipes.md", "docs/background/security.md")


@pytest.mark.parametrize("page", [page for page in PAGES if name(page) not in WITHOUT_SNIPPET], ids=name)
def test_a_page_has_a_snippet(page: Path) -> None:
    assert SNIPPET.search(page.read_text(encoding="utf-8")) is not None


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page.read_text(encoding="utf-8"))], ids=name)
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(peft|torch|transformers|tensorboard|optuna)(\.|$)")
        run(page)


@pytest.mark.timeout(600)
def test_the_three_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "snippet"}
    own = 'dict(train_dataset=data["train"], eval_dataset=data["validation"], processing_class=tokenizer)'
    exec(f"{smaller(setup())}\nargs, datasets_and_tokenizer = trainer.args, {own}\n", names)
    exec(smaller(snippets((ROOT / "README.md").read_text(encoding="utf-8"))[0]), names)
    assert len(names["best"].run_summary.trials) == 2


def run(page: Path) -> None:
    """Runs the snippets of a page one after the other, after the set-up of the first tutorial where it is used."""
    codes = snippets(page.read_text(encoding="utf-8"))
    uses_trainer = re.search(r"\b(trainer|tokenizer|checkpoint|data|hp_space)\b", "\n".join(codes)) and page != FIRST
    names: dict[str, Any] = {"__name__": "snippet"}
    for number, code in enumerate([setup()] * bool(uses_trainer) + codes):
        exec(compile(smaller(code), f"{page.name}, snippet {number}", "exec"), names)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_commands_and_options_exist(page: Path) -> None:
    assert unknown_commands(page.read_text(encoding="utf-8")) == []


def unknown_commands(text: str) -> list[str]:
    """What a text tells to run of ours that does not exist: commands, options, targets of make."""
    commands: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    makefile = (ROOT / "Makefile").read_text()
    unknown = []
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            words = line.partition("#")[0].split()
            if words[:1] == ["make"]:
                unknown += [word for word in words[1:2] if f"\n{word}:" not in makefile]
            if words[:1] == ["hf-rlsearch"] and len(words) > 1 and not words[1].startswith("-"):
                command = commands.get(words[1])
                options = {option for each in command.params for option in each.opts} if command else set()
                own = words[2 : words.index("--")] if "--" in words else words[2:]  # the rest is another command
                unknown += [word for word in own if word.startswith("-") and word not in {*options, "--help"}]
                unknown += [] if command else [words[1]]
    return unknown


def test_the_checks_can_fail() -> None:
    assert unknown_commands("```bash\nmake none\nhf-rlsearch none\nhf-rlsearch report a.db --none -o b\n```") == [
        "none",
        "none",
        "--none",
    ]
    assert snippets("```python\nx\n```\n\n<!-- not run: why -->\n```python\ny\n```\n") == ["x\n"]
    assert smaller("f(n_trials=20, timeout=2 * 3600)") == "f(n_trials=2, timeout=2 * 3600)"
