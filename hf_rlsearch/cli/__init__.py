"""The command ``hf-rlsearch``: look at searches, spaces, weights and the installation; run the demo and recipes.

Exit codes: 0 all went well; 1 it could not be done, with the reason on standard error; 2 the command was not
understood; 130 stopped by Ctrl-C. Each command imports what it needs when it runs, so ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from hf_rlsearch._version import __version__
from hf_rlsearch.errors import HfRlSearchError

FAILED, INTERRUPTED = 1, 130
# Modules that add commands, in the order of the help text.
_MODULES = ("programs", "studies", "spaces", "doctor", "completion")
_EPILOG = "Every command has its own help: hf-rlsearch report --help."


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="hf-rlsearch", description="Hyperparameter search for the transformers Trainer.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"hf_rlsearch {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name in _MODULES:
        import_module(f"{__name__}.{name}").add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Words after the program's name; those of the process if left out.

    Returns:
        The exit code, see the module.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if getattr(args, "takes_all", False):
        args.arguments = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no ± is no reason to fail
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except (HfRlSearchError, ImportError) as error:
        print(f"hf-rlsearch: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # `hf-rlsearch explain ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"hf-rlsearch: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("hf-rlsearch: interrupted", file=sys.stderr)
        return INTERRUPTED
