"""``demo`` and ``run``: whole searches, as they stand."""

from __future__ import annotations

import argparse
import ast
import difflib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_rlsearch.errors import ArgumentsError


def add_commands(commands: Any) -> None:
    """Adds the commands of this module."""
    demo = commands.add_parser("demo", help="a real search on the embedded checkpoint, no network", add_help=False)
    demo.set_defaults(run=run_demo, takes_all=True)  # its options, --help among them, are the demo's own
    run = commands.add_parser("run", help="a recipe by name: fine-tuning searches in one file each")
    run.add_argument("recipe", nargs="?", help="name of a recipe, or a Python file; without it the recipes are listed")
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="given to the recipe; --help shows them")
    run.set_defaults(run=run_recipe)


def run_demo(args: argparse.Namespace) -> int:
    """Runs the demo with its own options."""
    from hf_rlsearch import demo

    return _exit_code(lambda: demo.main(args.arguments))


def run_recipe(args: argparse.Namespace) -> int:
    """Runs a recipe, or lists them."""
    if args.recipe is None:
        print("\n".join(_listed(recipes())))
        return 0
    return _run(args.arguments, find_recipe(args.recipe))


def recipes() -> dict[str, Path]:
    """Name -> file of the recipes in the current folder's ``recipes`` and in that of a source checkout."""
    import hf_rlsearch

    checkout = Path(hf_rlsearch.__file__).parent.parent / "recipes"
    files = [*sorted(checkout.glob("*.py")), *sorted(Path("recipes").glob("*.py"))]
    return {file.stem: file for file in files if not file.stem.startswith("_")}


def find_recipe(name: str) -> Path:
    """The file of a recipe by name, or the file itself.

    Raises:
        ArgumentsError: There is none; names what there is.
    """
    if name.endswith(".py") and Path(name).is_file():
        return Path(name)
    known = recipes()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    where = "They are in the folder recipes of the source." if not known else f"There are {', '.join(known)}."
    raise ArgumentsError(f"There is no recipe {name!r}. {where}{hint}")


def _listed(found: dict[str, Path]) -> list[str]:
    """A line per recipe: its name and the first line of its docstring, which is read, not run."""
    if not found:
        return ["No recipes here: they are in the folder recipes of the source. Any Python file can be given as well."]
    width = max(map(len, found))
    return [f"{name:<{width}}  {_first_line(file)}" for name, file in found.items()]


def _first_line(file: Path) -> str:
    try:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, ValueError) as error:  # one broken file is no reason to hide the others
        text = f"(cannot be read: {error})"
    return text.partition("\n")[0]


def _run(arguments: list[str], path: Path) -> int:
    """Runs a file in this process with its own arguments; its exit code is ours."""
    before = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))  # as Python does for a script, which may import its neighbours
    try:
        return _exit_code(lambda: runpy.run_path(str(path), run_name="__main__"))
    finally:
        sys.argv, sys.path[:] = before


def _exit_code(program: Callable[[], object]) -> int:
    """What a program would have left to the shell; the text that it ends with goes to standard error."""
    try:
        program()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0
