"""What a Trainer tells about its task before anything is trained: knowledge that the agent was trained to use."""

import math
from collections.abc import Collection
from typing import Any

from hf_rlsearch.backend.amount import rows_of


def facts_of(trainer: Any, roles: Collection[str]) -> dict[str, float]:
    """Facts about a task, by names of ``hf_rlsearch.tasks.prior.FACTS``; what is not known is left out.

    Args:
        trainer: With its model and data.
        roles: Roles of the searched hyperparameters: where the model itself is searched, its size is no fact.

    Returns:
        ``n_parameters`` and ``n_examples`` as log10, ``lora`` as 0 or 1.
    """
    facts: dict[str, float] = {}
    rows = rows_of(trainer)
    if rows:
        facts["n_examples"] = math.log10(rows)
    model = getattr(trainer, "model", None)
    if model is not None and "model" not in roles:
        count = sum(parameter.numel() for parameter in model.parameters())
        if count:
            facts["n_parameters"] = math.log10(count)
        facts["lora"] = float(getattr(model, "peft_config", None) is not None)
    return facts
