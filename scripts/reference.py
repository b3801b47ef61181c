"""Writes the tables of the documentation that the code itself knows, between their marks in the pages.

    python scripts/reference.py            # after a change of an option, a command or a preset

A page says where a table goes: ``<!-- table: arguments -->`` before it and ``<!-- end -->`` after it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from hf_rlsearch.cli import app
from hf_rlsearch.report.format import show
from hf_rlsearch.space.presets import MODEL_TYPES, preset
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.options import SearchOptions

DOCS = Path(__file__).resolve().parent.parent / "docs"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
# Types as a reader of the Trainer's documentation knows them, by the annotation in the code.
_TYPES = (
    (r"Callable\[.*?\](?=$| \|)", "function"),
    (r"Sequence\[(\w+)\]", r"list of \1"),
    (r"Mapping\[str, (\w+)\]", r"dict of \1"),
    (r"Params", "dict"),
    (r"BaseSampler", "Optuna sampler"),
    (r"BasePruner", "Optuna pruner"),
    (r"BaseStorage", "Optuna storage"),
    (r" \| None$", ""),
    (r"^type\[BaseException\].*", "exception classes"),
    (r" \| ", " or "),
)
# Defaults that are objects of the code, in words.
_DEFAULTS = {
    "hp_space": "the published space",
    "direction": "by the metric's name",
    "directions": "by the metric's name",
    "catch": "`Exception`",
}


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table with a blank line before and after it."""
    lines = ["| " + " | ".join(row) + " |" for row in (columns, ("---",) * len(columns), *rows)]
    return "\n" + "\n".join(lines) + "\n\n"


def arguments() -> str:
    """Every argument of a search by group, from the documentation and the types of ``SearchOptions``."""
    documented = (inspect.getdoc(SearchOptions) or "").split("\n\n")[1:]
    groups = {title: _documented(group, title) for group in documented if (title := group.partition(":\n")[0])}
    groups["Space"] = {**_documented(inspect.getdoc(SearchConfig) or "", "Attributes"), **groups["Space"]}
    types = {name: given.__forward_arg__ for name, given in SearchOptions.__annotations__.items()}
    types["hp_space"] = "function"
    text = ""
    for title, meanings in groups.items():
        rows = [(f"`{n}`", _type(types[n]), _default(n), meaning) for n, meaning in meanings.items()]
        text += f"\n## {title}\n" + table(("argument", "type", "default", "meaning"), rows).removesuffix("\n")
    return text


def commands() -> str:
    """Every command with its arguments and options, as its ``--help`` has them."""
    group: Any = typer.main.get_command(app)
    text = ""
    for name, command in group.commands.items():
        words = [_word(each) for each in command.params if each.param_type_name == "argument"]
        usage = " ".join([f"hf-rlsearch {name} [OPTIONS]", *words])
        text += f"\n## {name}\n\n{command.help.strip()}\n\n```bash\n{usage}\n```\n"
        rows = [_option(each) for each in command.params if each.name != "help"]
        text += table(("argument or option", "meaning", "default"), rows) if rows else "\n"
    return text


def ranges() -> str:
    """The default space of each family of models, a column for each hyperparameter that all families have."""
    rows = []
    for name in MODEL_TYPES:
        space = preset(name).hp_space
        others = "".join(f", `{key}`: {_values(values)}" for key, values in space.others.items()).removeprefix(", ")
        low, high = space.learning_rate
        epochs = "-" if space.epochs is None else "{} to {}".format(*space.epochs)
        shared = (_values(space.batch_sizes), epochs, _values(space.weight_decays), _values(space.warmups))
        rows.append((f"`{name}`", f"{show(low)} to {show(high)}", *shared, others or "-"))
    columns = ("family", "`learning_rate`", "batch size per device", "epochs", "`weight_decay`", "warm-up", "others")
    return table(columns, rows)


TABLES: dict[str, Callable[[], str]] = {"arguments": arguments, "commands": commands, "ranges": ranges}


def renewed(text: str) -> str:
    """The text of a page with each of its tables as the code has it now."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[4], text)


def pages() -> list[Path]:
    """The pages with tables of this script."""
    return [page for page in sorted(DOCS.rglob("*.md")) if MARKED.search(page.read_text(encoding="utf-8"))]


def _documented(text: str, heading: str) -> dict[str, str]:
    """The entries of a section of a docstring in Google's style: name -> text on one line."""
    section = text.partition(f"{heading}:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", section, flags=re.DOTALL | re.MULTILINE)
    return {name: " ".join(words.split()).replace("``", "`").replace("|", r"\|") for name, words in entries}


def _type(annotation: str) -> str:
    for pattern, words in _TYPES:
        annotation = re.sub(pattern, words, annotation)
    return annotation


def _default(name: str) -> str:
    if name in _DEFAULTS:
        return _DEFAULTS[name]
    value = getattr(SearchConfig, name)
    return f"`{value}`" if isinstance(value, (int, float, type(None))) else f"`{value!r}`"


def _word(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def _option(parameter: Any) -> tuple[str, str, str]:
    is_argument = parameter.param_type_name == "argument"
    shown = parameter.metavar or parameter.name.upper()
    name = shown if is_argument else ", ".join(f"`{each}`" for each in parameter.opts)
    default = parameter.default
    unset = default is None or default is False or (is_argument and parameter.required) or callable(default)
    return name, (parameter.help or "").replace("|", r"\|"), "-" if unset else f"`{default}`"


def _values(values: tuple[Any, ...]) -> str:
    return ", ".join(map(show, values))


def main() -> None:
    """Rewrites the pages that have changed, and says which."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if renewed(text) != text:
            page.write_text(renewed(text), encoding="utf-8")
            print(page.relative_to(DOCS.parent))


if __name__ == "__main__":
    sys.exit(main())
