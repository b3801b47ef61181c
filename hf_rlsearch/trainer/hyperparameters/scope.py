"""What a family of scoped names is: its fields, what the user has in them, and which values fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution

from hf_rlsearch._typing import Params
from hf_rlsearch.space import generic_role, infer_role

MODEL, PEFT, GEN, TRAIN = "model", "peft", "gen", "train"
PREFIXES = (MODEL, PEFT, GEN, TRAIN)


@dataclass(frozen=True)
class ParameterGroup:
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
    defaults: Mapping[str, Any]
    validate: Callable[[Params], Params]


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


_ROLES = {
    "train.layer_decay": "layer_decay",
    "train.frozen_layers": "generic_numeric",
    "train.reinit_layers": "generic_numeric",
    "train.lr_schedule": "scheduler",
    "train.lr_end": "generic_numeric",
    "train.momentum": "momentum",
    "train.gradient_scale": "generic_numeric",
}


def scoped_roles(distributions: Mapping[str, BaseDistribution]) -> dict[str, str]:
    """The roles of scoped names; other names are left to ``infer_role``.

    Args:
        distributions: Of all hyperparameters by name.
    """
    roles = {name: _ROLES[name] for name in distributions if name in _ROLES}
    for name, distribution in distributions.items():
        if prefix_of(name) == MODEL:
            # "model.initializer_range" is a field of the model, not the choice of one.
            roles[name] = infer_role(name.partition(".")[2], distribution)
        if prefix_of(name) == GEN:
            # No role is about generation: "gen.max_length" bounds what is generated, not what is trained on.
            roles[name] = generic_role(distribution)
    return roles
