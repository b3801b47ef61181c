"""What scoped names do in a training, where their last words say something else."""

from collections.abc import Mapping

from optuna.distributions import BaseDistribution

from hf_rlsearch.backend.scopes.scope import GEN, MODEL, prefix_of
from hf_rlsearch.space import generic_role, infer_role

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
