"""Reads from a Trainer what the agent is told about the task: sizes of model, data and training."""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from hf_rlsearch.trainer.hyperparameters.peft import is_adapted
from hf_rlsearch.trainer.session.arguments import count_rows, n_train_rows, planned_steps
from hf_rlsearch.trainer.setup.objective import Objective

if TYPE_CHECKING:
    from transformers import Trainer


def task_facts(
    trainer: "Trainer", roles: Collection[str], objective: Objective, world_size: int = 1
) -> dict[str, float]:
    """Returns facts by the names of ``RLSampler``, counts and shares as log10; those that are not known are left out.

    Args:
        trainer: With the user's arguments and a model that has not been trained yet.
        roles: Of the searched hyperparameters; where they include the model itself, nothing is told about it.
        objective: Decides which of several evaluation data sets counts.
        world_size: Number of processes that train together.
    """
    n_rows, metric = n_train_rows(trainer), objective.follows[0] if objective.follows is not None else ""
    counts: dict[str, float | None] = {
        "n_examples": n_rows,
        "n_steps": planned_steps(trainer.args, n_rows, world_size),
        "n_evaluated": _n_evaluated(getattr(trainer, "eval_dataset", None), metric),
    }
    switches: dict[str, bool | None] = {}
    model: Any = getattr(trainer, "model", None)
    if model is not None and "model" not in roles:
        n_parameters, n_trained = count_parameters(model)
        counts["n_parameters"] = n_parameters
        counts["trainable"] = n_trained / n_parameters if n_parameters else None
        counts["n_classes"] = _n_classes(model, metric)
        switches = {"lora": getattr(model, "peft_config", None) is not None, "from_scratch": _is_from_scratch(model)}
    facts = {name: math.log10(count) for name, count in counts.items() if count}
    return facts | {name: float(is_on) for name, is_on in switches.items() if is_on is not None}


def _n_evaluated(data: Any, metric: str) -> int | None:
    """Rows that a metric is computed from: of the data set that it names, else of all."""
    if isinstance(data, Mapping):
        read = [name for name in data if metric.startswith(f"eval_{name}_")]
        if read:
            return count_rows(data[max(read, key=len)])
    return count_rows(data)


def count_parameters(model: Any) -> tuple[int, int]:
    """Returns the number of parameters of a model, and how many of them are trained."""
    n_all = n_trained = 0
    for parameter in model.parameters():
        # DeepSpeed leaves an empty parameter on each rank, bitsandbytes packs two of four bits into a byte.
        n = parameter.numel() or getattr(parameter, "ds_numel", 0)
        n *= 2 * parameter.element_size() if type(parameter).__name__ == "Params4bit" else 1
        n_all += n
        n_trained += n if parameter.requires_grad else 0
    return n_all, n_trained


def _n_classes(model: Any, metric: str) -> int | None:
    """Classes that a prediction chooses from; None for a regression, and for models of text.

    The loss of a language model is no matter of classes, unlike the accuracy of its tokens.
    """
    inner = model.get_base_model() if is_adapted(model) else model
    config: Any = getattr(inner, "config", None)
    if any("Classification" in cls.__name__ for cls in type(inner).__mro__):
        # transformers treats a single label as a number to predict.
        n, is_regression = getattr(config, "num_labels", 1), getattr(config, "problem_type", None) == "regression"
        return n if n > 1 and not is_regression else None
    if "token_accuracy" in metric and hasattr(config, "get_text_config"):
        return getattr(config.get_text_config(), "vocab_size", None)
    return None


def _is_from_scratch(model: Any) -> bool | None:
    """Whether a model was never trained; None where that cannot be told for certain.

    Every layer of normalisation starts with equal weights, and any training changes them. A pretrained model may have a
    fresh one in its head.
    """
    norms = [m.weight for m in model.modules() if "norm" in type(m).__name__.lower() and hasattr(m, "weight")]
    weights = [w for w in norms if w is not None and w.numel() > 1 and w.device.type != "meta"]
    return all(bool((weight == weight.flatten()[0]).all()) for weight in weights) if weights else None
