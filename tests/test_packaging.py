"""What is needed at run time is in the package, and what CI runs is what the Makefile says."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_file_beside_the_code_is_package_data() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["hf_rlsearch"]
    package = ROOT / "hf_rlsearch"
    shipped = {file for pattern in patterns for file in package.glob(pattern)}
    beside = {file for file in package.rglob("*") if file.is_file() and file.suffix != ".py"}
    beside = {file for file in beside if not any(part.startswith((".", "__pycache__")) for part in file.parts)}
    assert beside - shipped == set()


def test_every_folder_with_code_is_a_package() -> None:
    folders = {file.parent for file in (ROOT / "hf_rlsearch").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_ci_runs_make_check_which_contains_make_test() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "\nmake check" in (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    line = next(line for line in makefile.splitlines() if line.startswith("check:"))
    assert {"lint", "test"} <= set(line.partition("##")[0].split())


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_constraints_pin_torch_and_fit_the_bounds(name: str) -> None:
    from packaging.requirements import Requirement

    pins = dict(line.split("==") for line in (ROOT / name).read_text().splitlines() if "==" in line)
    assert "torch" in pins
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [Requirement(line) for lines in (PROJECT["project"]["dependencies"], *extras) for line in lines]
    assert [str(r) for r in wanted if r.name in pins and not r.specifier.contains(pins[r.name])] == []


def test_oldest_constraints_are_the_lower_bounds() -> None:
    from packaging.requirements import Requirement
    from packaging.version import Version

    text = (ROOT / "constraints-oldest.txt").read_text()
    pins = dict(line.split("==") for line in text.splitlines() if "==" in line)
    for line in PROJECT["project"]["dependencies"]:
        wanted = Requirement(line)
        if wanted.name in pins and wanted.name != "torch":  # an index has no older torch for CPUs alone
            (bound,) = wanted.specifier
            assert Version(pins[wanted.name]) == Version(bound.version), line


def test_make_help_lists_the_two_commands() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    assert {"demo", "test", "check"} <= {line.split()[0] for line in text.splitlines() if line[:1].isalpha()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_and_sdist_have_all_files_and_pass_the_check_of_the_index(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="needs the extra docs")
    pytest.importorskip("twine", reason="needs the extra docs")
    source = tmp_path / "source"  # a build writes into its folder
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if not name.startswith(("docs/", "tests/", "scripts/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    out = tmp_path / "dist"
    run = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]
    subprocess.run(run, cwd=source, check=True, capture_output=True, timeout=500)
    wheel, sdist = next(out.glob("*.whl")), next(out.glob("*.tar.gz"))
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("hf_rlsearch/")}
    package = {str(file.relative_to(source)) for file in (source / "hf_rlsearch").rglob("*") if file.is_file()}
    assert {name for name in package if "egg-info" not in name} <= names
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_ci_of_everything_builds_documentation_and_packages() -> None:
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("check-all:"))
    assert {"lint", "docs", "package"} <= set(line.partition("##")[0].split())
