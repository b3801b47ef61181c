"""Defines what the groups of scoped names have in common: prefixes, roles, and a group's fields with their defaults."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution

from hf_rlsearch._typing import Params
from hf_rlsearch.space import generic_role, infer_role

MODEL, PEFT, GEN, TRAIN = "model", "peft", "gen", "train"

_ROLES = {
    "train.layer_decay": "layer_decay",
    "train.frozen_layers": "generic_numeric",
    "train.reinit_layers": "generic_numeric",
    "train.lr_schedule": "scheduler",
    "train.lr_end": "generic_numeric",
    "train.momentum": "momentum",
    "train.gradient_scale": "generic_numeric",
}


@dataclass(frozen=True)
class ParameterGroup:
    """The hyperparameters under one prefix that a Trainer has.

    Attributes:
        owner: Class that has the fields, for messages, such as "BertConfig".
        defaults: Every field that may be searched, with its value in the baseline.
        validate: Casts fields and checks them together; raises ``TypeError`` or ``ValueError`` with the reason. The
            fields that it returns are applied as they are.
    """

    owner: str
    defaults: Mapping[str, Any]
    validate: Callable[[Params], Params]


def prefix_of(name: str) -> str | None:
    """Returns the prefix of a scoped name, None for any other name."""
    prefix, dot, rest = name.partition(".")
    return prefix if dot and rest and prefix in (MODEL, PEFT, GEN, TRAIN) else None


def fields_of(values: Mapping[str, Any], prefix: str) -> Params:
    """Returns the values under one prefix, by field name without the prefix."""
    return {name.partition(".")[2]: value for name, value in values.items() if prefix_of(name) == prefix}


def with_fields(config: Any, fields: Mapping[str, Any]) -> Any:
    """Returns a copy of a configuration with some fields changed."""
    changed = copy.deepcopy(config)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def scoped_roles(distributions: Mapping[str, BaseDistribution]) -> dict[str, str]:
    """Returns the roles of scoped names; ``infer_role`` finds those of other names."""
    roles = {name: _ROLES[name] for name in distributions if name in _ROLES}
    for name, distribution in distributions.items():
        if prefix_of(name) == MODEL:
            # "model.initializer_range" is a field of the model, not the choice of a model.
            roles[name] = infer_role(name.partition(".")[2], distribution)
        if prefix_of(name) == GEN:
            # No role is about generation: "gen.max_length" bounds the generated text, not the training data.
            roles[name] = generic_role(distribution)
    return roles
