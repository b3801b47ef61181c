"""What a family of scoped names is: its fields, what the user has in them, and which values fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_rlsearch._typing import Params

MODEL, PEFT, GEN, TRAIN = "model", "peft", "gen", "train"
PREFIXES = (MODEL, PEFT, GEN, TRAIN)


@dataclass(frozen=True)
class Scope:
    """One family, as this search's Trainer has it.

    Attributes:
        prefix: "model", "peft", "gen" or "train".
        owner: What has the fields, for messages, such as "BertConfig".
        own: Every field that may be searched, with the user's own value.
        fit: Casts fields and checks them together; raises ``TypeError`` or ``ValueError`` with the reason. What it
            returns is applied as it is.
    """

    prefix: str
    owner: str
    own: Mapping[str, Any]
    fit: Callable[[Params], Params]


def prefix_of(name: str) -> str | None:
    """The scope that a name is in, None for any other name."""
    prefix, dot, rest = name.partition(".")
    return prefix if dot and rest and prefix in PREFIXES else None


def fields_of(values: Mapping[str, Any], prefix: str) -> Params:
    """The fields of one scope, the prefix left out."""
    return {name.partition(".")[2]: value for name, value in values.items() if prefix_of(name) == prefix}


def scoped(values: Mapping[str, Any]) -> Params:
    """The values whose names are in a scope."""
    return {name: value for name, value in values.items() if prefix_of(name) is not None}
