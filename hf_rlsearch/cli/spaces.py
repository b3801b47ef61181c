"""``space`` and ``weights``: the discretised space of a function, and the cards of the agent's weights."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_rlsearch.errors import ArgumentsError

if TYPE_CHECKING:  # numpy stays unloaded
    from hf_rlsearch._typing import Params


def add_commands(commands: Any) -> None:
    """Adds the commands of this module."""
    space = commands.add_parser("space", help="the discretised search space of a model family or of your hp_space")
    space.add_argument(
        "target", help="a model family such as bert, or your function as file.py:hp_space or module:hp_space"
    )
    space.add_argument(
        "--model-init", metavar="FILE.py:NAME", help="your model_init(trial), where it suggests values too"
    )
    space.add_argument("--n-points", type=int, help="levels of every numeric hyperparameter")
    space.set_defaults(run=run_space)
    weights = commands.add_parser("weights", help="list the bundled weights, or show the card of some")
    weights.add_argument("weights", nargs="?", help="a bundled name or a .safetensors file")
    weights.set_defaults(run=run_weights)


def run_space(args: argparse.Namespace) -> int:
    """Prints a table with a row for each hyperparameter."""
    from rich.console import Console
    from rich.table import Table

    from hf_rlsearch.report.scales import show
    from hf_rlsearch.space import SearchSpace

    model_init = _function(args.model_init) if args.model_init else None
    hp_space, published = _function(args.target), [] if args.n_points else _published(args.target)
    space = SearchSpace.from_functions(hp_space, model_init, n_points=args.n_points).with_levels(published)
    table = Table(title=f"{len(space.hyperparameters)} hyperparameters, {space.n_candidates:,} candidates")
    for column in ("hyperparameter", "role", "levels", "values"):
        table.add_column(column, justify="right" if column == "levels" else "left", overflow="fold")
    for h in space.hyperparameters:
        role = h.role + (" (conditional)" if h.conditional else "")
        table.add_row(h.name, role, str(len(h.levels)), ", ".join(map(show, h.levels)))
    Console().print(table)
    return 0


def _function(target: str) -> Any:
    """A preset's space by the name of its family, or a user's function."""
    from hf_rlsearch.cli.load import load_function
    from hf_rlsearch.presets import MODEL_TYPES, preset

    if ":" in target:
        return load_function(target)
    if target not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ArgumentsError(f"{target!r} is no model family ({known}). Your own function is file.py:hp_space.")
    return preset(target).hp_space


def _published(target: str) -> Sequence[Params]:
    """The settings of a family, whose numbers are levels too; a user's function is shown without those of his model."""
    from hf_rlsearch.presets import preset

    return [] if ":" in target else preset(target).published


def run_weights(args: argparse.Namespace) -> int:
    """Lists the bundled weights, or prints a card."""
    from hf_rlsearch.weights.load import BUNDLED, load_weights, resolve

    if args.weights is not None:
        print(load_weights(args.weights)[1].to_json())
        return 0
    for i, name in enumerate(BUNDLED):
        card = load_weights(name)[1]
        size = resolve(name).stat().st_size
        default = ", default" if i == 0 else ""
        print(f"{name}  {size / 1e6:.1f} MB, observation format {card.observation_format}, prior {card.prior}{default}")
    return 0
