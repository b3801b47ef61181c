"""Infers the role of a hyperparameter in a training, such as "learning_rate", from its name."""

import re
import tomllib
from pathlib import Path

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from hf_rlsearch._validation import did_you_mean, is_integer, is_number
from hf_rlsearch.errors import SearchSpaceError

# `roles.toml` describes its tables.
_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
ROLES: tuple[str, ...] = tuple(_DATA["roles"])
"""Every role. The weights store indices into this tuple."""
_PATTERNS: dict[str, re.Pattern[str]] = {role: re.compile(pattern) for role, pattern in _DATA["patterns"].items()}


def infer_role(name: str, distribution: BaseDistribution) -> str:
    """Infers what a hyperparameter does in a training, such as "learning_rate", from its name.

    Args:
        name: Case, dots, dashes, camel case and prefixes such as ``"args."`` do not matter.
        distribution: Of the hyperparameter. Its values decide where the name says too little.

    Returns:
        One of ``ROLES``; of an unknown name that of ``generic_role``.
    """
    # "args.perDevice-BatchSize" becomes "_args_per_device_batch_size_".
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    normalised = "_" + re.sub(r"[^a-z0-9]+", "_", separated.lower()).strip("_") + "_"
    for role, pattern in _PATTERNS.items():
        if pattern.search(normalised) and _fits(role, distribution):
            return role
    short_name_role: str | None = _DATA["whole_number_names"].get(normalised)
    return short_name_role if short_name_role and _all_whole(distribution) else generic_role(distribution)


def generic_role(distribution: BaseDistribution) -> str:
    """The role of a hyperparameter whose name says nothing, by its distribution: a number, or one of some choices."""
    return "generic_numeric" if _all_numbers(distribution) else "generic_categorical"


def check_role(name: str, role: str) -> str:
    """Returns ``role``, or raises ``SearchSpaceError`` if it is not one of ``ROLES``."""
    if role not in ROLES:
        raise SearchSpaceError(
            f"roles gives {name!r} the role {role!r}, expected one of {', '.join(ROLES)}.{did_you_mean(role, ROLES)}"
        )
    return role


def _fits(role: str, distribution: BaseDistribution) -> bool:
    if role in _DATA["needs_numbers"]:
        return _all_numbers(distribution)
    choices = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    return role not in _DATA["needs_text"] or any(isinstance(choice, str) for choice in choices)


def _all_numbers(distribution: BaseDistribution) -> bool:
    return not isinstance(distribution, CategoricalDistribution) or all(map(is_number, distribution.choices))


def _all_whole(distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return all(map(is_integer, distribution.choices))
    return isinstance(distribution, IntDistribution)
