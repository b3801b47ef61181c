"""What the pages point to exists: files, headings, folders of the package, and scripts that they tell to run."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
) or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
# `hf_rlsearch/space/roles.py`, `scripts/benchmarks/ask.py`; a star stands for any name
PATH = re.compile(r"(?<![\w/.-])((?:hf_rlsearch|scripts|recipes|tests)/[\w./*-]*\w\*?(?:\.\w+)?)")
MODULE = re.compile(r"python -m (hf_rlsearch[\w.]*)")


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(match[1]) for match in re.finditer(r"^#+ (.*)$", page.read_text(), re.MULTILINE)}


def missing_links(page: Path, text: str) -> list[str]:
    """Relative links of a page to no file, or to no heading of a page."""
    missing = []
    for match in LINK.finditer(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (heading and file.suffix == ".md" and heading not in anchors(file)):
            missing.append(target)
    return missing


def missing_paths(text: str) -> list[str]:
    """Files of the repository that a text names, and modules that it tells to run, which do not exist."""
    missing = [name for name in PATH.findall(text) if not list(ROOT.glob(name.rstrip(".")))]
    for name in MODULE.findall(text):
        path = ROOT / name.rstrip(".").replace(".", "/")
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists():
            missing.append(name)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_to_exists(page: Path) -> None:
    text = page.read_text()
    assert missing_links(page, text) == []
    if page.name != "CHANGELOG.md" and "log" not in page.parent.parts[-1:]:  # what was true on a day may be gone
        assert missing_paths(text) == []


def test_every_page_of_the_docs_can_be_reached() -> None:
    linked = {
        (page.parent / (match[1] or match[2]).partition("#")[0]).resolve()
        for page in PAGES
        for match in LINK.finditer(page.read_text())
    }
    assert [page for page in PAGES if page.is_relative_to(ROOT / "docs") and page not in linked] == []


def test_the_site_has_every_page_and_no_other() -> None:
    navigation = re.findall(r"[\w/.-]+\.md\b", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2])
    assert sorted(navigation) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


@pytest.mark.skipif(importlib.util.find_spec("mkdocstrings") is None, reason="needs the extra docs")
@pytest.mark.timeout(300)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Links, anchors and names of the code are checked by mkdocs."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RLSampler" in (tmp_path / "reference" / "sampler_and_pruner.html").read_text()


def reference_text() -> str:
    return "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.md")))


def test_the_tables_of_the_reference_are_those_of_the_code() -> None:
    reference = importlib.import_module("reference")
    pages = reference.pages()
    assert len(pages) == 3
    stale = [page.name for page in pages if reference.renewed(page.read_text()) != page.read_text()]
    assert stale == [], "run: python scripts/reference.py"


def test_every_argument_of_a_search_is_in_the_reference() -> None:
    from dataclasses import fields

    from hf_rlsearch.trainer.setup.config import SearchConfig

    text = (ROOT / "docs" / "reference" / "arguments.md").read_text()
    assert [field.name for field in fields(SearchConfig) if f"\n| `{field.name}` | " not in text] == []


def test_every_command_and_option_is_in_the_reference() -> None:
    import typer

    from hf_rlsearch.cli import app

    text = (ROOT / "docs" / "reference" / "command_line.md").read_text()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert [
            each
            for parameter in command.params
            for each in parameter.opts
            if each.startswith("-") and f"`{each}`" not in section
        ] == []
        assert f"hf-rlsearch {name}" in section


PUBLIC = (
    "hf_rlsearch",
    "hf_rlsearch.space",
    "hf_rlsearch.report",
    "hf_rlsearch.optuna",
    "hf_rlsearch.metrics",
    "hf_rlsearch.embedded",
)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    text = reference_text()
    documented = {name.rpartition(".")[2] for name in re.findall(r"^::: ([\w.]+)", text, flags=re.MULTILINE)}
    names = [name for name in importlib.import_module(module).__all__ if not name.startswith("__")]
    missing = [
        name for name in names if name not in documented and f"`{name}`" not in text and f"{module}.{name}`" not in text
    ]
    assert missing == []


def test_every_name_of_the_reference_exists() -> None:
    for name in re.findall(r"^::: ([\w.]+)", reference_text(), flags=re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        if name != "hf_rlsearch.errors" and "ray_tune" not in name:  # a module; an extra
            assert hasattr(importlib.import_module(module), attribute), name


def test_every_stored_attribute_is_in_the_reference() -> None:
    from hf_rlsearch.observation import trial_attributes

    text = (ROOT / "docs" / "reference" / "stored_attributes.md").read_text()
    stored = [
        value for value in vars(trial_attributes).values() if isinstance(value, str) and re.fullmatch(r"rl:\w+", value)
    ]
    assert len(stored) > 20
    assert [name for name in stored if f"`{name}`" not in text] == []


def test_every_error_is_explained() -> None:
    from hf_rlsearch import errors

    text = (ROOT / "docs" / "reference" / "errors.md").read_text()
    names = [
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.HfRlSearchError)
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs")
    pytest.importorskip("ipykernel", reason="needs the extra docs")
    notebook = nbformat.read(ROOT / "docs" / "tutorials" / "first_search.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("n_train=600", "n_train=64").replace("n_trials=6", "n_trials=2")
    kernel = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1000, resources=kernel).execute()
    assert (tmp_path / "report.html").is_file()
    assert "eval_accuracy" in str(notebook.cells)


def test_the_check_can_fail() -> None:
    page = ROOT / "README.md"
    assert missing_links(page, "[a](docs/none.md), [b](CHANGELOG.md), [c](#no-such)") == ["docs/none.md", "#no-such"]
    assert missing_paths("`hf_rlsearch/none.py` `hf_rlsearch/errors.py` python -m hf_rlsearch.none") == [
        "hf_rlsearch/none.py",
        "hf_rlsearch.none",
    ]
