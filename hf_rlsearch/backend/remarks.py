"""What people should know before the first trial."""

from collections.abc import Iterator

import optuna

from hf_rlsearch.backend.checked import OURS
from hf_rlsearch.backend.default_space import DefaultSpace
from hf_rlsearch.backend.drawing import ConfigurationSampler
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.plain_data import plain
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.storage import finished
from hf_rlsearch.pruner import RLPruner


def remarks(
    study: optuna.Study, configurations: ConfigurationSampler, objective: Objective, settings: Settings, world_size: int
) -> Iterator[str]:
    """One line each: the objective, and what will not go as one may think.

    Args:
        study: Of the search.
        configurations: With the user's arguments and the space.
        objective: What is optimised.
        settings: Of the search.
        world_size: Number of processes.
    """
    yield f"Objective: {', '.join(objective.names)}, {', '.join(objective.directions)} ({objective.why})."
    if isinstance(settings.hp_space, DefaultSpace):
        yield f"No hp_space given: the published ranges are searched ({settings.hp_space})."
    others = {t.user_attrs.get("world_size", world_size) for t in finished(study)} - {world_size}
    if others:
        yield (
            f"Earlier trials ran on {sorted(others)} processes, this run on {world_size}: effective batch sizes, and "
            "with them objectives, are not comparable."
        )
    evaluates = plain(getattr(configurations.frozen.original(), "eval_strategy", None))
    silent = evaluates == "no" and "eval_strategy" not in configurations.searched
    if silent and settings.pruner not in (None, OURS):
        yield "The pruner stops no trial, because eval_strategy='no' evaluates none during training."
    elif not silent and isinstance(study.pruner, RLPruner) and settings.pruner == OURS:
        yield "The agent may stop trials at their evaluations; pruner=None trains every one to its end."
