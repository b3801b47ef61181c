"""``completion``: a script that makes a shell complete commands and options, read from the parser itself."""

from __future__ import annotations

import argparse
from typing import Any

# With nothing of ours to offer the shell completes file names itself, those with blanks as well.
_BASH = """_hf_rlsearch() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}"
    local words=""
    if (( COMP_CWORD == 1 )); then
        words="{commands}"
    elif [[ "$word" == -* ]]; then
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=( $(compgen -W "$words" -- "$word") )
}}
complete -o default -F _hf_rlsearch hf-rlsearch
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + _BASH


def add_commands(commands: Any) -> None:
    """Adds the command of this module."""
    completion = commands.add_parser(
        "completion",
        help="print a completion script for your shell",
        description='Print a completion script. For bash: eval "$(hf-rlsearch completion bash)".',
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(run=run_completion)


def run_completion(args: argparse.Namespace) -> int:
    """Prints the script."""
    print(script(args.shell), end="")
    return 0


def script(shell: str) -> str:
    """The completion script for `shell`: bash, zsh or fish."""
    options = _options()
    if shell == "fish":
        return "".join(_fish(command, words) for command, words in options.items())
    cases = "\n".join(f'            {command}) words="{" ".join(words)}" ;;' for command, words in options.items())
    return (_BASH if shell == "bash" else _ZSH).format(commands=" ".join(options), cases=cases)


def _fish(command: str, words: list[str]) -> str:
    first = f"complete -c hf-rlsearch -n __fish_use_subcommand -a {command}\n"
    long = [word.removeprefix("--") for word in words if word.startswith("--")]
    seen = f"-n '__fish_seen_subcommand_from {command}'"
    return first + "".join(f"complete -c hf-rlsearch {seen} -l {word}\n" for word in long)


def _options() -> dict[str, list[str]]:
    """Command -> its options."""
    from hf_rlsearch.cli import build_parser

    (commands,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return {
        name: [option for action in parser._actions for option in action.option_strings]
        for name, parser in commands.choices.items()
    }
