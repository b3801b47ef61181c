"""What the pages point to exists: files, headings, folders of the package, and scripts that they tell to run."""

import re
import subprocess
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


def test_the_check_can_fail() -> None:
    page = ROOT / "README.md"
    assert missing_links(page, "[a](docs/none.md), [b](CHANGELOG.md), [c](#no-such)") == ["docs/none.md", "#no-such"]
    assert missing_paths("`hf_rlsearch/none.py` `hf_rlsearch/errors.py` python -m hf_rlsearch.none") == [
        "hf_rlsearch/none.py",
        "hf_rlsearch.none",
    ]
