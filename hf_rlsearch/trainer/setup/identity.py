"""Fingerprints a search, so that a script that runs again finds its own study and no other.

A fingerprint holds the space, the objective, the arguments that are not searched, the model with the function that
makes it, the data with collator and tokenizer, and values that a subclass of the Trainer trains with. It is plain data,
so that a message can say what differs; contents without a readable form are hashes.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import StorageError
from hf_rlsearch.observation.trial_attributes import IDENTITY
from hf_rlsearch.trainer.setup.fingerprints import HASH, data_fingerprint, scoring_fingerprint, tokenizer_fingerprint
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler
from hf_rlsearch.trainer.setup.objective import Objective

if TYPE_CHECKING:
    from transformers import Trainer

# Texts in a message: what is shown of each, and before the place where two long ones begin to differ.
_WIDTH, _CONTEXT = 60, 12
# Differences that a message shows in full.
_N_SHOWN = 3
NEW_WEIGHTS = "model.new_weights"
"""Weights that a script without a seed makes anew each time it runs: the search goes on with others."""
SCORING = "scoring"
"""The code that makes the metrics: a corrected script continues its search."""
SETTINGS = "trainer"
"""Values of a Trainer's subclass: some differ each time the script runs, such as a time or a temporary folder."""
_NOT_DECISIVE = (NEW_WEIGHTS, SCORING, SETTINGS)


def search_fingerprint(
    configurations: ConfigurationSampler,
    objective: Objective,
    trainer: "Trainer",
    model: Params,
    further: Params,
    constraints: Mapping[str, float] | None,
) -> Params:
    """Returns the facts of a search as plain data; a script that runs again with equal facts continues the search.

    Args:
        configurations: The space, and the arguments that are not searched.
        objective: What is optimized.
        trainer: Of the baseline.
        model: Facts of the model that the search starts from, see `model_fingerprint`.
        further: Fingerprints by name of the user's functions and settings that decide what is trained and how it is
            scored.
        constraints: The option of that name: a trial keeps the constraint values that it was recorded with.
    """
    stored = objective.to_json()
    return {
        "space": {name: _distribution_facts(each) for name, each in configurations.space.distributions.items()},
        "objective": stored["names"],
        "follows": stored["follows"],
        "hp_space": configurations.computed,
        "directions": stored["directions"],
        # Only arguments that are not searched and change what is trained.
        "arguments": configurations.frozen.identity(configurations.searched),
        "train_data": data_fingerprint(getattr(trainer, "train_dataset", None)),
        "eval_data": data_fingerprint(getattr(trainer, "eval_dataset", None)),
        "tokenizer": tokenizer_fingerprint(getattr(trainer, "processing_class", None)),
        "model": model,
        SCORING: scoring_fingerprint(trainer),
        **further,
        **({} if constraints is None else {"constraints": {name: float(limit) for name, limit in constraints.items()}}),
    }


def diff(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns the differences between two fingerprints, one short line each."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += diff(before, after, f"{prefix}{key}.")
        elif all(isinstance(value, str) and value.startswith(HASH) for value in (before, after)):
            lines.append(f"{prefix}{key}: other content")
        else:
            shown = _around_the_difference(*(json.dumps(value, ensure_ascii=False) for value in (before, after)))
            lines.append(f"{prefix}{key}: {' -> '.join(shown)}")
    return lines


def decisive(differences: Sequence[str]) -> list[str]:
    """The differences that make it another search: all but new weights, code of metrics and values of a subclass."""
    return [line for line in differences if not line.startswith(_NOT_DECISIVE)]


def listed(differences: Sequence[str]) -> str:
    """The first few differences in one line, and how many more there are."""
    n_more = len(differences) - _N_SHOWN
    return "; ".join(differences[:_N_SHOWN]) + (f"; and {n_more} more" if n_more > 0 else "")


def _around_the_difference(before: str, after: str) -> tuple[str, str]:
    """Two different texts, both cut to the place where they differ if one is long."""
    if max(len(before), len(after)) <= _WIDTH:
        return before, after
    start = next((i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
    start = min(len(before), len(after)) if start is None else start

    def cut(text: str) -> str:
        begin = max(0, start - _CONTEXT)
        shown = text[begin : begin + _WIDTH]
        return f"{'...' if begin else ''}{shown}{'...' if begin + _WIDTH < len(text) else ''}"

    return cut(before), cut(after)


def _distribution_facts(distribution: BaseDistribution) -> Params:
    stored = json.loads(distribution_to_json(distribution))
    return {"kind": stored["name"], **stored["attributes"]}


def check_same_search(study: optuna.Study, fingerprint: Params, directions: list[str]) -> None:
    """Refuses a study whose trials have another space or objective, because their values cannot be compared.

    Raises:
        StorageError: Directions, objective or space differ, with the differences.
    """
    name, space = f"Study {study.study_name!r}", fingerprint["space"]
    found = [direction.name.lower() for direction in study.directions]
    if found != directions:
        raise StorageError(f"{name} has directions {found}, this search has {directions}. Use another study_name.")
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        # Another program made the study: only distributions can be compared, as far as both have them.
        old = [trial.distributions for trial in study.get_trials(deepcopy=False)]
        old_space = {key: _distribution_facts(each[key]) for each in old for key in each.keys() & space.keys()}
        stored = {"space": old_space, "constraints": fingerprint.get("constraints", {})}
        space = {key: space[key] for key in old_space}
    keys = stored.keys() & {"objective", "follows"}
    if changed := diff({key: stored[key] for key in keys}, {key: fingerprint[key] for key in keys}):
        raise StorageError(
            f"{name} has another objective: {listed(changed)}. Its values cannot be compared with those of this "
            "search. Use another study_name or storage, or optimize the objective of the study."
        )
    if changed := diff(stored.get("constraints", {}), fingerprint.get("constraints", {})):
        raise StorageError(
            f"{name} has other constraints: {listed(changed)}. Its trials keep what they were recorded with. Use "
            "another study_name or storage, or the constraints of the study."
        )
    if changed := diff(stored["space"], space):
        raise StorageError(f"{name} has another search space: {listed(changed)}. Use another study_name or storage.")
