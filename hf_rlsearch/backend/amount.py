"""How much training a trial is, counted in trainings with the user's own arguments: the unit of a budget."""

from typing import Any


def planned_samples(args: Any, n_rows: int | None, world_size: int) -> float | None:
    """Samples that a training sees from its first step to its last.

    Args:
        args: Resolved ``TrainingArguments``.
        n_rows: Of the training data; None where they have no length.
        world_size: Number of processes.

    Returns:
        None where nothing tells: neither ``max_steps`` nor the length of the data.
    """
    if getattr(args, "max_steps", -1) > 0:
        return float(args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * world_size)
    return None if n_rows is None else float(args.num_train_epochs * n_rows)


def cost(args: Any, own: Any, n_rows: int | None, world_size: int) -> float:
    """What the whole training of a trial costs, in trainings with the user's own arguments; 1 where nothing tells.

    Args:
        args: Of the trial, resolved.
        own: The user's.
        n_rows: Of the training data.
        world_size: Number of processes.
    """
    one, other = (planned_samples(each, n_rows, world_size) for each in (args, own))
    return one / other if one and other else 1.0


def rows_of(trainer: Any) -> int | None:
    """Rows of a Trainer's training data, None where they have no length."""
    try:
        return len(trainer.train_dataset)
    except (AttributeError, TypeError):
        return None
